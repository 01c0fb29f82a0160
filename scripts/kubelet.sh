#!/usr/bin/env bash
# Tests a real kubelet on podbay: a static pod with an init container, probes, hooks, a host port and
# a crashing container runs, can be read, survives a kill of the agent, and ends when its file is
# removed.
#
#   make kubelet          builds the kubelet first (ten minutes on two cores)
set -euo pipefail
cd "$(dirname "$0")/.."
agent_binary=${KIT_AGENT:-target/release/podbay}
me=kubelet
. scripts/kit.sh
begin
use_line 2
readonly CGROUP=podbay-kubelet BRIDGE=pbkubelet0
kubelet=
clean_up() {
    local status=$?
    set +e
    if [ $status != 0 ]; then tail -n 8 "$folder"/*.log >&2; fi
    # The kubelet first, because it would recreate its pods.
    [ -z "$kubelet" ] || end "$kubelet"
    clean_world $BRIDGE $CGROUP
    exit $status
}
trap clean_up EXIT

[ -x "$parts/kubelet" ] || die "the kubelet is missing: run scripts/setup.sh kubelet"
[ -x "$agent_binary" ] || die "$agent_binary is missing: run make build"
private_containerd || die "containerd did not start"
private_registry || die "the registry did not start"

{
    agent_config "$folder" "$folder/containerd.sock" k8s.io
    cat <<TOML
default_bridge = "$BRIDGE"
default_subnets = ["10.213.32.0/20"]
TOML
} >"$folder/podbay.toml"
start_agent() {
    launch_agent "$agent_binary" "$folder/podbay.toml" "$folder/podbay.sock" "$folder/podbay.log" ||
        die "the agent did not start"
}
start_agent

health=$(free_port) api=$(free_port) read_only=$(free_port) host_port=$(free_port)
mkdir "$folder/manifests"
# In the hierarchies of cgroup v1, or in the unified one.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then tops=(/sys/fs/cgroup); else tops=(/sys/fs/cgroup/*/); fi
for top in "${tops[@]}"; do mkdir -p "$top/$CGROUP"; done
# Where the kubelet's own cAdvisor finds containerd. From 1.37 on it looks only at the default place; then the
# kubelet asks the agent for all statistics and metrics.
if kubelet --help | grep -q -- '--containerd '; then
    stats_flag=(--containerd "$folder/containerd.sock")
else
    stats_flag=(--feature-gates PodAndContainerStatsFromCRI=true)
fi
cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$folder/podbay.sock
staticPodPath: $folder/manifests
podLogsDir: $folder/logs
volumePluginDir: $folder/plugins
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {}
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
failCgroupV1: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
port: $api
readOnlyPort: $read_only
healthzPort: $health
fileCheckFrequency: 1s
YAML
kubelet --config "$folder/kubelet.yaml" --root-dir "$folder/kubelet" --cert-dir "$folder/pki" \
    "${stats_flag[@]}" --hostname-override node >"$folder/kubelet.log" 2>&1 &
kubelet=$!
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
# Runs a command in the app through the kubelet, which calls the agent for it.
run_in_app() { curl -fsk -X POST "https://127.0.0.1:$api/run/default/web-node/app?cmd=$1"; }
# How often the kubelet has listed pods and containers.
relists() { curl -fsk "https://127.0.0.1:$api/metrics" | awk '$1 == "kubelet_pleg_relist_duration_seconds_count" {print $2}'; }
of() { printf '.containerStatuses[] | select(.name == "%s")' "$1"; }
until_true 60 status "$(of app) | select(.ready)" || die "the app is not ready"
say "the pod runs, after its init container, and is ready by its probe"
[ "$(curl -fs "http://127.0.0.1:$host_port/")" = hello ] || die "the host port does not answer"
say "it answers on its host port"
until_true 60 status "$(of crash) | select(.restartCount > 0 and .lastState.terminated.exitCode == 3)" ||
    die "the crashing container is not started again"
say "its crashing container is started again; the exit code is right"
[ "$(curl -fsk "https://127.0.0.1:$api/containerLogs/default/web-node/app")" = started ] || die "no log"
answer=$(run_in_app ls%20/tmp/begun)
[ "$answer" = /tmp/begun ] || die "the hook after the start did not run: $answer"
streamed=$(streaming-client exec -url "https://127.0.0.1:$api/exec/default/web-node/app?command=cat&command=/data/index.html&output=1&error=1")
jq -e '.stdout.text == "hello\n"' <<<"$streamed" >/dev/null || die "exec by a stream: $streamed"
say "log, command and stream go through the kubelet; the hook after the start has run"
in_cadvisor() {
    curl -fsk -o "$folder/metrics" "https://127.0.0.1:$api/metrics/cadvisor" &&
        grep -q '^container_memory_working_set_bytes{container="app".*pod="web-node"' "$folder/metrics"
}
until_true 60 in_cadvisor || die "the metrics do not have the container"
say "the kubelet's metrics have the container"

before=$(status "$(of app) | .containerID")
kill -KILL "$agent"
wait "$agent" 2>/dev/null || true
start_agent
# The kubelet knows its pods from before: it has to reach the new agent, and then to list them twice.
until_true 30 run_in_app true || die "the kubelet does not reach the new agent"
lists=$(relists)
listed_twice() { [ "$(relists)" -ge $((lists + 2)) ]; }
until_true 30 listed_twice || die "the kubelet does not list its pods"
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
