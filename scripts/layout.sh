#!/usr/bin/env bash
# Lists the functions that an agent at work enters, in the order in which it first enters them, into
# scripts/layout/order.gz. The build places these functions side by side at the start of the release
# binary (build.rs): scattered, they would keep nearly all of its pages in memory.
#
# A name that no longer exists is ignored, so an old list does no harm; run this again when the
# memory of the agent grows. Needs root and an x86_64 host, and builds the release binary.
set -euo pipefail
cd "$(dirname "$0")/.."
me=layout
. scripts/kit.sh
begin
use_line 2
readonly CGROUP=podbay-layout BRIDGE=pblayout0
# Neither processes nor networks of pods.
no_pods() {
    [ -z "$(ctr --address "$folder/containerd.sock" --namespace podbay tasks ls -q)" ] &&
        [ -z "$(ls "$folder/netns" "$folder/cni-cache/results" 2>/dev/null | grep -v ':$')" ]
}
clean_up() {
    local status=$?
    set +e
    ask delete pods --all --force --grace-period=0 >/dev/null 2>&1
    until_true 30 no_pods
    stop_agent
    clean_world $BRIDGE $CGROUP
    exit $status
}
trap clean_up EXIT

cc -O1 -Wall -o "$folder/touched" scripts/layout/touched.c
if [ -z "${KIT_AGENT:-}" ]; then
    KEEP_SYMBOLS=1 cargo build --locked --release --bin podbay
fi
binary=${KIT_AGENT:-target/release/podbay}
private_containerd || die "containerd did not start"
private_registry || die "the registry did not start"
image=127.0.0.1:$registry/podbay/busybox:latest
socket=unix://$folder/podbay.sock
mkdir "$folder/manifests" "$folder/logs"
echo 'timeout: 20' >"$folder/crictl.yaml"
{
    agent_config "$folder" "$folder/containerd.sock" podbay
    cat <<TOML
default_bridge = "$BRIDGE"
default_subnets = ["10.213.16.0/20"]
[pods]
cgroup_root = "$CGROUP"
TOML
} >"$folder/podbay.toml"
ask() { "$binary" --address "$socket" "$@"; }
cri() { crictl --config "$folder/crictl.yaml" --runtime-endpoint "$socket" --image-endpoint "$socket" -t 20s "$@"; }
# start_agent FILE: writes the functions it enters to FILE
start_agent() {
    "$folder/touched" "$1" "$binary" agent --config "$folder/podbay.toml" --manifests "$folder/manifests" \
        >>"$folder/podbay.log" 2>&1 &
    agent=$!
    until_true 30 ask get pods || die "the agent did not start"
}
stop_agent() {
    [ -n "$agent" ] || return 0
    pkill -TERM -P "$agent"
    wait "$agent"
    agent=
}
ready() { [ "$(ask get pods --no-headers 2>/dev/null | grep -c "$1")" -ge "$2" ]; }

for number in 1 2 3 4; do
    sed "s|IMAGE|$image|; s|NUMBER|$number|" scripts/layout/pods.yaml
    echo ---
done >"$folder/pods.yaml"
sed "s|IMAGE|$image|" scripts/layout/static.yaml >"$folder/static.yaml"
cat >"$folder/pod.json" <<JSON
{"metadata": {"name": "cri", "namespace": "default", "uid": "uid-cri", "attempt": 0}, "log_directory": "$folder/logs",
 "labels": {"app": "cri"}, "dns_config": {"servers": ["10.0.0.1"]}, "linux": {}}
JSON
cat >"$folder/container.json" <<JSON
{"metadata": {"name": "app", "attempt": 0}, "image": {"image": "$image"}, "log_path": "app.log",
 "command": ["sh", "-c", "while true; do echo line; sleep 0.2; done"], "envs": [{"key": "a", "value": "b"}],
 "mounts": [{"container_path": "/logs", "host_path": "$folder/logs"}],
 "linux": {"resources": {"cpu_shares": 100, "memory_limit_in_bytes": 67108864}}}
JSON

through_the_cri() {
    local pod container
    pod=$(cri runp "$folder/pod.json")
    container=$(cri create "$pod" "$folder/container.json" "$folder/pod.json")
    cri start "$container"
    cri ps && cri pods && cri images && cri info && cri imagefsinfo && cri version
    cri inspect "$container" && cri inspectp "$pod" && cri inspecti "$image"
    cri exec -s "$container" ls / && cri exec "$container" ls / && cri exec -r websocket "$container" ls /
    timeout -s KILL 3 crictl --config "$folder/crictl.yaml" --runtime-endpoint "$socket" events || true
    timeout -s KILL 2 crictl --config "$folder/crictl.yaml" --runtime-endpoint "$socket" attach "$container" || true
    cri stats && cri statsp && cri metricsp && cri update --cpu-share 200 "$container" && cri logs "$container"
    cri stop --timeout 1 "$container" && cri rm "$container" && cri stopp "$pod" && cri rmp "$pod"
}
whole_pods() {
    ask apply -f "$folder/pods.yaml"
    cp "$folder/static.yaml" "$folder/manifests/"
    until_true 60 ready 2/2 4 || die "the pods are not ready"
    until_true 60 ready static 1 || die "the static pod does not run"
    ask get pods -o wide && ask get pods -o yaml && ask describe pod web-1 && ask explain pod web-1
    ask logs web-1 -c log && ask exec web-1 -c web -- cat /data/index.html && ask events && ask node
    timeout -s KILL 3 "$binary" --address "$socket" get pods -w || true
    timeout -s KILL 2 "$binary" --address "$socket" logs -f web-2 -c log || true
    ask top pod && ask images
}
say "an agent starts and runs pods"
start_agent "$folder/first"
ask pull "$image" >/dev/null
whole_pods >/dev/null
through_the_cri >/dev/null
sleep 12
ask delete pod web-1 job-1 >/dev/null
say "it is stopped, and the next one takes over"
stop_agent
start_agent "$folder/second"
until_true 60 ready 2/2 3 || die "the pods are not ready again"
through_the_cri >/dev/null
rm "$folder/manifests/static.yaml"
ask delete pods --all >/dev/null
until_true 60 no_pods || die "the pods do not end"
stop_agent
cat "$folder/first" "$folder/second" | awk '!seen[$0]++' >"$folder/order"
gzip -9nc "$folder/order" >scripts/layout/order.gz
say "$(wc -l <"$folder/order") functions"
