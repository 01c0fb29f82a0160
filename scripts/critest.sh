#!/usr/bin/env bash
# Runs the CRI conformance suite of the Kubernetes project (critest of cri-tools) on podbay, or on
# containerd's own CRI plugin for comparison.
#
#   scripts/critest.sh [podbay|containerd] [flags of critest, such as -ginkgo.focus=TEXT]
#   KIT_LINE=1 scripts/critest.sh         on the containerd and runc of the distribution
#
# No image registry is needed: the suite's images are made here, of busybox and two small programs, and
# served as a mirror of the registries that the suite names.
set -euo pipefail
cd "$(dirname "$0")/.."
peer=podbay
case ${1:-} in podbay | containerd) peer=$1; shift ;; esac
agent_binary=${KIT_AGENT:-target/release/podbay}
me=critest
. scripts/kit.sh
begin
# Root of a user namespace has to reach the containers' root folders.
chmod 755 "$folder"
line=${KIT_LINE:-2}
use_line "$line"
readonly BRIDGE=pbcritest0
socket=$folder/$peer.sock
clean_up() {
    local status=$?
    set +e
    if [ $status != 0 ] && [ -n "${KIT_KEEP_LOG:-}" ]; then cp "$folder"/*.log "$KIT_KEEP_LOG"; fi
    # A failed spec may leave its pods, whose firewall rules only the plugins remove.
    timeout 120 crictl --runtime-endpoint "unix://$socket" rmp --all --force >/dev/null 2>&1
    clean_world $BRIDGE
    # Where containerd puts pods that name no cgroup.
    [ "$peer" = podbay ] || rmdir /sys/fs/cgroup{,/*}/k8s.io 2>/dev/null
    exit $status
}
trap clean_up EXIT

[ -x "$parts/critest" ] || die "critest is missing: run scripts/setup.sh test"
private_registry || die "the registry did not start"

cc -O1 -Wall -static -o "$folder/server" tests/clients/cri-tools/server.c
cc -O1 -Wall -static -o "$folder/nonewprivs" tests/clients/cri-tools/nonewprivs.c
# image REPOSITORY TAG FILES [CONFIG]
image() { scripts/busybox-registry.sh "$folder/registry" "$@"; }
files() { # an empty folder for additional files of an image
    rm -rf "$folder/files"
    mkdir -p "$folder/files/bin" "$folder/files/etc"
}
make_images() {
    local name tools=k8s-staging-cri-tools e2e=e2e-test-images path='"Env":["PATH=/bin:/usr/sbin"]'
    files
    mkdir -p "$folder/files/var/run" "$folder/files/var/lib" "$folder/files/home" "$folder/files/proc" "$folder/files/dev" "$folder/files/sys"
    printf 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/home:/bin/false\n' >"$folder/files/etc/passwd"
    printf 'root:x:0:\nusers:x:100:\nwww-data:x:33:\nnogroup:x:65534:\n' >"$folder/files/etc/group"
    # Applets that Debian's busybox lacks.
    printf '#!/bin/sh\nfor comm in /proc/[0-9]*/comm; do\n  ! grep -q "$1" "$comm" 2>/dev/null || basename "${comm%%/comm}"\ndone\n' >"$folder/files/bin/pgrep"
    printf '#!/bin/sh\ntail -n +2 /proc/sysvipc/shm\n' >"$folder/files/bin/ipcs"
    chmod 755 "$folder/files/bin/pgrep" "$folder/files/bin/ipcs"
    # The suite masks /bin/ls; as a link that would be all of busybox.
    install /bin/busybox "$folder/files/bin/ls"
    image $e2e/busybox 1.29-2 "$folder/files"
    echo digest >"$folder/files/test"
    digest=$(image $tools/test-image-digest latest "$folder/files")
    for name in test-image-latest:latest test-image-tag:test test-image-tag:all \
        test-image-1:latest test-image-2:latest test-image-3:latest; do
        echo "$name" >"$folder/files/test"
        image $tools/${name%:*} ${name#*:} "$folder/files"
    done >/dev/null
    echo pause >"$folder/files/test"
    # It has to run, as it is the pause container of containerd's plugin.
    image pause 3.9 "$folder/files" "{$path,\"Cmd\":[\"sleep\",\"2147483647\"]}"
    echo tags >"$folder/files/test"
    for name in 1 2 3; do image $tools/test-image-tags $name "$folder/files"; done
    image $tools/test-image-user-uid latest "$folder/files" "{$path,\"Cmd\":[\"sh\"],\"User\":\"1002\"}"
    image $tools/test-image-user-username latest "$folder/files" "{$path,\"Cmd\":[\"sh\"],\"User\":\"www-data\"}"
    image $tools/test-image-user-uid-group latest "$folder/files" "{$path,\"Cmd\":[\"sh\"],\"User\":\"1003:users\"}"
    image $tools/test-image-user-username-group latest "$folder/files" "{$path,\"Cmd\":[\"sh\"],\"User\":\"www-data:100\"}"
    printf 'root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n' >"$folder/files/etc/passwd"
    printf 'root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n' >"$folder/files/etc/group"
    image $tools/test-image-predefined-group latest "$folder/files" "{$path,\"Cmd\":[\"sh\"],\"User\":\"1000\"}"
    files
    mkdir -p "$folder/files/var/run"
    install -m 4755 "$folder/nonewprivs" "$folder/files/bin/nonewprivs"
    image $e2e/nonewprivs 1.3 "$folder/files" "{$path,\"Cmd\":[\"/bin/nonewprivs\"]}"
    install "$folder/server" "$folder/files/bin/nginx"
    image $e2e/nginx 1.14-2 "$folder/files" "{$path,\"Cmd\":[\"nginx\"]}"
    image $e2e/httpd 2.4.39-4 "$folder/files" "{$path,\"Cmd\":[\"nginx\"]}"
    image $tools/hostnet-nginx-amd64 latest "$folder/files" "{$path,\"Cmd\":[\"nginx\",\"12003\"]}"
    image $tools/hostnet-nginx-arm64 latest "$folder/files" "{$path,\"Cmd\":[\"nginx\",\"12003\"]}"
}
digest=
make_images >/dev/null
for name in registry.k8s.io k8s.gcr.io gcr.io; do
    mkdir -p "$folder/certs.d/$name"
    printf '[host."http://127.0.0.1:%s"]\n  capabilities = ["pull", "resolve"]\n' "$registry" >"$folder/certs.d/$name/hosts.toml"
done

mkdir "$folder/net.d"
cat >"$folder/net.d/10-critest.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "critest", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.213.48.0/20"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$folder/ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
# The configuration of containerd with its CRI plugin; line 1 has no NRI. Where root may not lower the
# out-of-memory score, as in some containers, pods get the daemon's.
containerd_config() {
    local pause=registry.k8s.io/pause:3.9 dirs
    dirs=$(cni_dirs)
    cat <<TOML
version = $([ "$line" = 1 ] && echo 2 || echo 3)
root = "$folder/containerd"
state = "$folder/containerd-state"
[grpc]
  address = "$socket"
[ttrpc]
  address = "$socket.ttrpc"
TOML
    if [ "$line" = 1 ]; then
        cat <<TOML
[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = "$pause"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.grpc.v1.cri'.registry]
  config_path = "$folder/certs.d"
[plugins.'io.containerd.grpc.v1.cri'.cni]
  bin_dir = ${dirs%%, *}
  conf_dir = "$folder/net.d"
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
TOML
        return
    fi
    cat <<TOML
[plugins.'io.containerd.nri.v1.nri']
  disable = false
  socket_path = "$folder/nri.sock"
  plugin_path = "$folder/nri-plugins"
  plugin_config_path = "$folder/nri-conf"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "$folder/certs.d"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "$pause"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [$dirs]
  conf_dir = "$folder/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
TOML
}
if [ "$peer" = podbay ]; then
    [ -x "$agent_binary" ] || die "$agent_binary is missing: run make build"
    private_containerd || die "containerd did not start"
    {
        agent_config "$folder" "$folder/containerd.sock" podbay
        cat <<TOML
[images]
config_dirs = ["$folder/certs.d"]
[nri]
enable = true
socket_path = "$folder/nri.sock"
plugin_path = "$folder/nri-plugins"
plugin_config_path = "$folder/nri-conf"
TOML
    } >"$folder/podbay.toml"
    launch_agent "$agent_binary" "$folder/podbay.toml" "$socket" "$folder/podbay.log" || die "podbay did not start"
else
    containerd_config >"$folder/containerd.toml"
    containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 9>&- &
    pids+=($!)
fi
until_true 30 crictl --runtime-endpoint "unix://$socket" info || die "$peer did not start"

say "$(crictl --runtime-endpoint "unix://$socket" version | tr '\n' ' ')"
skip=(-ginkgo.skip MaskedPaths)
[ "$peer$line" != containerd1 ] || skip+=(-ginkgo.skip NRI)
# MaskedPaths: the shell of Debian's busybox runs a masked ls from itself, so that spec fails on any
# runtime. The one digest that the suite knows by heart becomes that of the image made here.
sed "s/9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf/${digest#sha256:}/g" "$parts/critest" >"$folder/critest"
chmod 755 "$folder/critest"
"$folder/critest" -runtime-endpoint "unix://$socket" -image-endpoint "unix://$socket" \
    -nri-socket "$folder/nri.sock" -config "$folder/no-crictl.yaml" "${skip[@]}" "$@"
