#!/usr/bin/env bash
# A real kubelet on podbay: a static pod with an init container, probes, hooks, a host port and a
# crashing neighbour runs, is read, survives a kill of the agent, and goes when its file goes.
#
#   make kubelet          builds the kubelet first, which takes ten minutes on two cores
set -euo pipefail
cd "$(dirname "$0")/.."
parts=${KIT_PARTS:-/opt/podbay-parts/bin}
export PATH="$parts:$PATH:/usr/sbin:/sbin"
agent_binary=${KIT_AGENT:-target/release/podbay}
die() { printf 'kubelet: %s\n' "$*" >&2; exit 1; }
say() { printf 'kubelet: %s\n' "$*"; }
[ "$(id -u)" = 0 ] || die "needs root"

if [ ! -x "$parts/kubelet" ]; then
    say "building the kubelet"
    version=$(awk '$1 == "k8s.io/kubernetes" {print $2}' tests/clients/kubelet/go.mod)
    CGO_ENABLED=0 go build -C tests/clients/kubelet -buildvcs=false -o "$parts/kubelet" \
        -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version" .
fi
[ -x "$agent_binary" ] || cargo build -q --locked --release --bin podbay

folder=$(mktemp -d /tmp/podbay-kubelet.XXXXXX)
pids=()
agent=
clean_up() {
    local status=$?
    set +e
    if [ $status != 0 ]; then tail -n 8 "$folder"/*.log >&2; fi
    [ -z "$agent" ] || pids=("$agent" "${pids[@]}")
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    for pid in $(pgrep -f "containerd-shim.*-address $folder/"); do kill -KILL "$pid"; done
    awk -v below="$folder/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | tac |
        while read -r mount; do umount -l "$mount"; done
    ip link delete pbkubelet0 2>/dev/null
    rm -rf "$folder"
    exit $status
}
trap clean_up EXIT
until_true() { # until_true SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.2
    done
}
free_port() {
    local port
    for _ in 1 2 3 4 5 6 7 8; do
        port=$((20000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo $port; return; }
    done
    die "no free port"
}

cat >"$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "$folder/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "$folder/containerd.sock"
[ttrpc]
  address = "$folder/containerd.sock.ttrpc"
TOML
containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 &
pids+=($!)
until_true 20 test -S "$folder/containerd.sock" || die "containerd did not start"

registry=$(free_port)
scripts/busybox-registry.sh "$folder/registry" podbay/busybox latest
printf 'version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s", secret: kubelet}\n' \
    "$folder/registry" "$registry" >"$folder/registry.yml"
docker-registry serve "$folder/registry.yml" >"$folder/registry.log" 2>&1 &
pids+=($!)

dirs=$(for dir in /opt/cni/bin /usr/lib/cni /usr/libexec/cni "$parts"; do
    [ ! -x "$dir/bridge" ] || printf '"%s", ' "$dir"
done)
cat >"$folder/podbay.toml" <<TOML
root = "$folder/podbay"
state = "$folder/podbay-state"
[cri]
socket = "$folder/podbay.sock"
[containerd]
address = "$folder/containerd.sock"
namespace = "k8s.io"
[network]
conf_dir = "$folder/net.d"
bin_dirs = [$dirs]
cache_dir = "$folder/cni-cache"
netns_dir = "$folder/netns"
default_bridge = "pbkubelet0"
default_subnets = ["10.213.32.0/20"]
TOML
start_agent() {
    "$agent_binary" agent --config "$folder/podbay.toml" >>"$folder/podbay.log" 2>&1 &
    agent=$!
    until_true 20 test -S "$folder/podbay.sock" || die "the agent did not start"
}
start_agent

health=$(free_port) api=$(free_port) read_only=$(free_port) host_port=$(free_port)
mkdir "$folder/manifests"
cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$folder/podbay.sock
staticPodPath: $folder/manifests
podLogsDir: $folder/logs
cgroupDriver: cgroupfs
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {}
localStorageCapacityIsolation: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
port: $api
readOnlyPort: $read_only
healthzPort: $health
fileCheckFrequency: 1s
YAML
kubelet --config "$folder/kubelet.yaml" --root-dir "$folder/kubelet" --cert-dir "$folder/pki" \
    --containerd "$folder/containerd.sock" --hostname-override node >"$folder/kubelet.log" 2>&1 &
pids+=($!)
until_true 60 curl -fs "http://127.0.0.1:$health/healthz" || die "the kubelet is not healthy"
say "$(kubelet --version) is healthy"

image=127.0.0.1:$registry/podbay/busybox:latest
cat >"$folder/web.yaml" <<YAML
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 5
  initContainers:
  - {name: init, image: $image, command: [sh, -c, "echo hello > /data/index.html"], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: app
    image: $image
    command: [sh, -c, "echo started; exec httpd -f -p 8080 -h /data"]
    ports: [{containerPort: 8080, hostPort: $host_port}]
    volumeMounts: [{name: data, mountPath: /data}]
    resources: {limits: {memory: 64Mi, cpu: 200m}}
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: ["true"]}, periodSeconds: 2}
    lifecycle: {postStart: {exec: {command: [touch, /tmp/begun]}}, preStop: {exec: {command: [touch, /data/ended]}}}
  - {name: crash, image: $image, command: [sh, -c, "sleep 1; exit 3"]}
  volumes: [{name: data, emptyDir: {}}]
YAML
mv "$folder/web.yaml" "$folder/manifests/"
status() { curl -fs "http://127.0.0.1:$read_only/pods" | jq -e "(.items // [])[] | select(.metadata.name == \"web-node\") | .status | $1"; }
of() { printf '.containerStatuses[] | select(.name == "%s")' "$1"; }
until_true 60 status "$(of app) | select(.ready)" || die "the app is not ready"
say "the pod runs, after its init container, and is ready by its probe"
[ "$(curl -fs "http://127.0.0.1:$host_port/")" = hello ] || die "the host port does not answer"
say "it answers on its host port"
until_true 60 status "$(of crash) | select(.restartCount > 0 and .lastState.terminated.exitCode == 3)" ||
    die "the crashing container is not started again"
say "its crashing container is started again; the exit code is right"
[ "$(curl -fsk "https://127.0.0.1:$api/containerLogs/default/web-node/app")" = started ] || die "no log"
answer=$(curl -fsk -X POST "https://127.0.0.1:$api/run/default/web-node/app?cmd=ls%20/tmp/begun")
[ "$answer" = /tmp/begun ] || die "the hook after the start did not run: $answer"
streamed=$(streaming-client exec -url "https://127.0.0.1:$api/exec/default/web-node/app?command=cat&command=/data/index.html&output=1&error=1")
jq -e '.stdout.text == "hello\n"' <<<"$streamed" >/dev/null || die "exec by a stream: $streamed"
say "log, command and stream go through the kubelet; the hook after the start has run"
in_cadvisor() {
    curl -fsk -o "$folder/metrics" "https://127.0.0.1:$api/metrics/cadvisor" &&
        grep -q '^container_memory_working_set_bytes{container="app".*pod="web-node"' "$folder/metrics"
}
until_true 60 in_cadvisor || die "cAdvisor does not know the container"
say "cAdvisor knows the container"

before=$(status "$(of app) | .containerID")
kill -KILL "$agent"
wait "$agent" 2>/dev/null || true
start_agent
sleep 3
until_true 30 status "$(of app) | select(.ready and .containerID == $before and .restartCount == 0)" ||
    die "the app did not outlive the agent"
[ "$(curl -fs "http://127.0.0.1:$host_port/")" = hello ] || die "the host port is gone"
say "the agent was killed and came back; the pod did not notice"

rm "$folder/manifests/web.yaml"
no_pods() { [ "$(curl -fs "http://127.0.0.1:$read_only/pods" | jq '(.items // []) | length')" = 0 ]; }
no_tasks() { [ -z "$(ctr --address "$folder/containerd.sock" --namespace k8s.io tasks ls -q)" ]; }
until_true 60 no_pods || die "the kubelet still has the pod"
until_true 30 no_tasks || die "processes are left"
say "the file went, and the pod with it"
