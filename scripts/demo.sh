#!/usr/bin/env bash
# A pod on this machine, from nothing to nothing: builds podbay, starts what does not run yet
# (containerd, a registry with one image), starts the agent, lets examples/controller.rs run a pod
# through gRPC, stops the agent, checks that nothing is left, and cleans up.
#
#   scripts/demo.sh        what it needs is installed by `scripts/setup.sh demo`
#
# It uses a containerd at /run/containerd/containerd.sock when one answers there, in a namespace of
# its own; otherwise it starts a private one. Everything else lives in one temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly NAMESPACE=podbay-demo BRIDGE=podbay-demo0 SUBNET=10.88.77.0/24 SUBNET_PREFIX=10.88.77.
parts=${KIT_PARTS:-/opt/podbay-parts/bin}
shared_socket=${KIT_DEMO_CONTAINERD:-/run/containerd/containerd.sock}
export PATH="$PATH:/usr/sbin:/sbin:$parts"

# `demo.sh show SOCKET` is what the controller runs in the middle: the same pod through an outside
# client, when there is one.
show() {
    local grpcurl request
    grpcurl=$(command -v grpcurl) || return 0
    for request in list runtime.v1.RuntimeService/ListPodSandbox; do
        printf '%14s$ grpcurl -plaintext -unix podbay.sock %s\n' '' "$request"
        "$grpcurl" -plaintext -unix "$1" "$request" | sed -n '1,16s/^/                /p'
    done
}
if [ "${1:-}" = show ]; then
    show "$2"
    exit
fi

[ "$(id -u)" = 0 ] || { echo "demo: needs root" >&2; exit 1; }
exec 9>/tmp/podbay-demo.lock
flock -n 9 || { echo "demo: another demo runs on this machine" >&2; exit 1; }

folder=$(mktemp -d /tmp/podbay-demo.XXXXXX)
began=$(date +%s%N)
forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
pids=()
agent=
private=no

milliseconds() { echo $((($(date +%s%N) - $1) / 1000000)); }
line() { printf '%9s.%s ms  %s\n' "$(($1 / 10))" "$(($1 % 10))" "$2"; }
# step TEXT COMMAND...: runs it, then prints how long it took.
step() {
    local text=$1 start
    start=$(date +%s%N)
    shift
    "$@" || fail "$text"
    line $((($(date +%s%N) - start) / 100000)) "$text"
}
fail() {
    echo "demo: FAILED: $1" >&2
    for log in "$folder"/*.log; do
        [ -s "$log" ] || continue
        echo "--- the end of ${log##*/}" >&2
        tail -n 15 "$log" >&2
    done
    exit 1
}
until_true() { # until_true SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}
# gone SECONDS PID: waits for the end of a child of ours.
gone() { until_true "$1" eval "! kill -0 $2"; }
end() {
    kill -TERM "$1" 2>/dev/null || return 0
    gone 10 "$1" || kill -KILL "$1" 2>/dev/null || true
}

clean_up() {
    local status=$? pid
    set +e
    [ -z "$agent" ] || end "$agent"
    # After a failure whole pods may be left: their processes are found by this demo's namespace.
    if [ $status != 0 ]; then
        for pid in $(shims); do kill -KILL "$pid"; done 2>/dev/null
        find /sys/fs/cgroup -depth -type d -path "*/$NAMESPACE/*" -exec rmdir {} + 2>/dev/null
    fi
    if [ $private = no ] && [ -S "$containerd" ]; then empty_namespace; fi
    for pid in "${pids[@]}"; do end "$pid"; done
    unmount_all
    ip link delete $BRIDGE 2>/dev/null
    echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
    rm -rf "$folder"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM

ctr_() { timeout 20 ctr --address "$containerd" --namespace $NAMESPACE "$@"; }
empty_namespace() {
    local id
    for id in $(ctr_ tasks ls -q 2>/dev/null); do ctr_ tasks kill -s KILL "$id"; ctr_ tasks rm -f "$id"; done
    for id in $(ctr_ containers ls -q); do ctr_ containers rm "$id"; done
    for id in $(ctr_ leases ls -q); do ctr_ leases rm "$id"; done
    for id in $(ctr_ images ls -q); do ctr_ images rm --sync "$id"; done
    for id in $(ctr_ snapshots ls | awk 'NR > 1 {print $1}' | tac); do ctr_ snapshots rm "$id"; done
    for id in $(ctr_ content ls -q); do ctr_ content rm "$id"; done
    ctr_ namespaces rm $NAMESPACE
} >/dev/null 2>&1
unmount_all() {
    awk -v below="$folder/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | tac |
        while read -r mount; do umount -l "$mount"; done
}
shims() { pgrep -f "containerd-shim.*-namespace $NAMESPACE .*-address $containerd" || true; }

build() {
    cargo build -q --locked --release --bin podbay --example controller
}
answers() { [ -S "$1" ] && timeout 5 ctr --address "$1" version; }
start_containerd() {
    containerd=$shared_socket
    if answers "$containerd" >/dev/null 2>&1; then return; fi
    private=yes
    containerd=$folder/containerd.sock
    cat >"$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "$folder/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "$containerd"
[ttrpc]
  address = "$containerd.ttrpc"
TOML
    containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 9>&- &
    pids+=($!)
    until_true 20 answers "$containerd"
}
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
start_registry() {
    scripts/busybox-registry.sh "$folder/registry" podbay/busybox latest
    local attempt
    for attempt in 1 2 3 4 5; do
        port=$((20000 + (RANDOM % 20000)))
        ! port_open $port 2>/dev/null || continue
        printf 'version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s", secret: demo}\n' \
            "$folder/registry" "$port" >"$folder/registry.yml"
        docker-registry serve "$folder/registry.yml" >"$folder/registry.log" 2>&1 9>&- &
        pids+=($!)
        until_true 5 port_open $port && return
    done
    return 1
}
start_agent() {
    local dirs
    dirs=$(for dir in /opt/cni/bin /usr/lib/cni /usr/libexec/cni "$parts"; do
        [ ! -x "$dir/bridge" ] || printf '"%s", ' "$dir"
    done)
    cat >"$folder/podbay.toml" <<TOML
root = "$folder/podbay"
state = "$folder/podbay-state"
[cri]
socket = "$folder/podbay.sock"
[containerd]
address = "$containerd"
namespace = "$NAMESPACE"
[network]
conf_dir = "$folder/net.d"
bin_dirs = [${dirs%, }]
cache_dir = "$folder/cni-cache"
netns_dir = "$folder/netns"
default_network = true
default_bridge = "$BRIDGE"
default_subnets = ["$SUBNET"]
TOML
    target/release/podbay agent --config "$folder/podbay.toml" >"$folder/agent.log" 2>&1 9>&- &
    agent=$!
    until_true 10 test -S "$folder/podbay.sock" && kill -0 $agent
}
stop_agent() {
    local status=0
    kill -TERM "$agent"
    gone 10 "$agent" || return 1
    wait "$agent" || status=$?
    agent=
    [ $status = 0 ] || { echo "demo: the agent ended with code $status" >&2; return 1; }
}

# Everything that a pod could have left. Prints what it finds.
leftovers() {
    ls -A "$folder/netns" 2>/dev/null | sed 's/^/network namespace /'
    ls -A /sys/class/net/$BRIDGE/brif 2>/dev/null | sed 's/^/veth /'
    awk -v below="$folder/podbay" 'index($5, below) == 1 {print "mount", $5}' /proc/self/mountinfo
    { iptables-save; ip6tables-save; } 2>/dev/null | grep -F -e "$SUBNET_PREFIX" -e "$BRIDGE" | sed 's/^/firewall rule /'
    shims | sed 's/^/shim /'
    ctr_ tasks ls -q | sed 's/^/task /'
    ctr_ containers ls -q | sed 's/^/container /'
    ctr_ snapshots ls | awk 'NR > 1 && $3 == "Active" {print "snapshot", $1}'
    find "$folder/podbay-state" -type p 2>/dev/null | sed 's/^/fifo /'
    find "$folder/podbay" "$folder/podbay-state" -regextype egrep -regex '.*/[0-9a-f]{64}' 2>/dev/null | sed 's/^/file /'
    find "$folder" /var/lib/cni/networks -type f -name "${SUBNET_PREFIX}[0-9]*" 2>/dev/null | sed 's/^/address /'
}
nothing_left() { [ -z "$(leftovers)" ]; }
leak_check() {
    until_true 30 nothing_left && return
    leftovers >&2
    return 1
}

echo "podbay demo: one pod, from nothing to nothing"
step "build podbay and the controller (release)" build
start_text() { [ $private = yes ] && echo "private, $1" || echo "the one at $shared_socket, $1"; }
start=$(date +%s%N)
start_containerd || fail "start containerd"
version=$(ctr_ version | awk '/Version:/ {v = $2} END {print v}')
line $((($(date +%s%N) - start) / 100000)) "containerd $version ($(start_text "namespace $NAMESPACE"))"
step "registry with one image, busybox" start_registry
step "podbay agent" start_agent
echo "--- the controller, a plain gRPC client"
target/release/examples/controller --socket "$folder/podbay.sock" \
    --image "127.0.0.1:$port/podbay/busybox:latest" --folder "$folder/controller" \
    --while-running "scripts/demo.sh show $folder/podbay.sock" || fail "the controller"
echo "---"
step "SIGTERM, the agent ends with code 0" stop_agent
step "leak check: namespaces, veths, mounts, rules, shims, tasks, snapshots, files" leak_check
echo "demo: done in $(($(milliseconds "$began") / 1000)) s, nothing is left"
