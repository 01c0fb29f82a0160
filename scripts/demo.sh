#!/usr/bin/env bash
# Runs pods on this machine through their lifecycle: builds podbay, starts what is not running yet
# (containerd, a registry with one image) and two agents, runs one pod with the command line, one step
# by step through the CRI (examples/cri.rs) and replicas across both agents (examples/controller.rs),
# stops the agents, checks that nothing is left, and cleans up.
#
#   scripts/demo.sh        `scripts/setup.sh demo` installs what it needs
#
# It uses a containerd at /run/containerd/containerd.sock if one answers there, in a separate
# namespace; otherwise it starts a private one. Everything else lives in one temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."
# Prefixes: each agent has its own namespace, bridge and subnet.
readonly NAMESPACE=podbay-demo BRIDGE=podbay-demo SUBNET_PREFIX=10.88.7
shared_socket=${KIT_DEMO_CONTAINERD:-/run/containerd/containerd.sock}
me=demo
. scripts/kit.sh
use_line 1

# examples/cri.rs runs `demo.sh show SOCKET` in the middle: it shows the same pod with an outside
# client, if one is installed.
show() {
    local grpcurl pods=runtime.v1.RuntimeService/ListPodSandbox
    grpcurl=$(command -v grpcurl) || return 0
    printf '%14s$ grpcurl -plaintext -unix podbay.sock list\n' ''
    "$grpcurl" -plaintext -unix "$1" list | sed 's/^/                /'
    printf '%14s$ grpcurl -plaintext -emit-defaults -unix podbay.sock %s | grep -E "name|state"\n' '' $pods
    "$grpcurl" -plaintext -emit-defaults -unix "$1" $pods | grep -E "name|state" | sed 's/^/          /'
}
if [ "${1:-}" = show ]; then
    show "$2"
    exit
fi

need_root
exec 9>/tmp/podbay-demo.lock
flock -n 9 || die "another demo runs on this machine"
begin
built=${CARGO_TARGET_DIR:-target}/debug
forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
agents=()
controller=
private=no
containerd=$shared_socket

# took START TEXT: prints how long it took since START, which is in nanoseconds.
took() {
    local tenths=$((($(date +%s%N) - $1) / 100000))
    printf '%9s.%s ms  %s\n' "$((tenths / 10))" "$((tenths % 10))" "$2"
}
# step TEXT COMMAND...: runs the command and prints how long it took.
step() {
    local text=$1 start
    start=$(date +%s%N)
    shift
    "$@" || fail "$text"
    took "$start" "$text"
}
fail() {
    say "FAILED: $1" >&2
    for log in "$folder"/*.log; do
        [ -s "$log" ] || continue
        echo "--- the end of ${log##*/}" >&2
        tail -n 15 "$log" >&2
    done
    exit 1
}

clean_up() {
    local status=$? pid at
    set +e
    for pid in $controller "${agents[@]}" $agent; do end "$pid"; done
    # After a failure whole pods may remain; their processes are found by this demo's namespace.
    if [ $status != 0 ]; then
        for pid in $(shims); do kill -KILL "$pid"; done 2>/dev/null
    fi
    if [ $private = no ] && [ -S "$containerd" ]; then
        for at in a b; do empty_namespace $at; done
    fi
    for at in a b; do ip link delete $BRIDGE-$at 2>/dev/null; done
    # An agent keeps the cgroups of its QoS classes for the next one.
    clean_world "" $NAMESPACE
    echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# in_space a|b COMMAND...: ctr in the namespace of this agent.
in_space() {
    local space=$1
    shift
    timeout 20 ctr --address "$containerd" --namespace "$NAMESPACE-$space" "$@"
}
empty_namespace() { # empty_namespace a|b
    local at=$1 id
    for id in $(in_space "$at" tasks ls -q); do in_space "$at" tasks kill -s KILL "$id"; in_space "$at" tasks rm -f "$id"; done
    for id in $(in_space "$at" containers ls -q); do in_space "$at" containers rm "$id"; done
    for id in $(in_space "$at" leases ls -q); do in_space "$at" leases rm "$id"; done
    for id in $(in_space "$at" images ls -q); do in_space "$at" images rm --sync "$id"; done
    for id in $(in_space "$at" snapshots ls | awk 'NR > 1 {print $1}' | tac); do in_space "$at" snapshots rm "$id"; done
    for id in $(in_space "$at" content ls -q); do in_space "$at" content rm "$id"; done
    in_space "$at" namespaces rm "$NAMESPACE-$at"
} >/dev/null 2>&1
shims() { pgrep -f "containerd-shim.*-namespace $NAMESPACE-[ab] .*-address $containerd" || true; }

# The development build: it compiles in a third of the time of `make build`, and the tests reuse
# it.
build() {
    cargo build -q --locked --bin podbay --example controller --example cri
}
start_containerd() {
    containerd=$shared_socket
    if answers "$containerd" >/dev/null 2>&1; then return; fi
    private=yes
    containerd=$folder/containerd.sock
    private_containerd
}
# The version of containerd, and whose it is.
which_containerd() {
    in_space a version | awk '/Version:/ {v = $2} END {printf "%s", v}'
    [ $private = yes ] && printf ' (private' || printf ' (the one at %s' "$shared_socket"
    echo ", namespaces $NAMESPACE-a and -b)"
}
# start_agent a|b
start_agent() {
    local at=$folder/$1
    mkdir -p "$at"
    {
        agent_config "$at" "$containerd" "$NAMESPACE-$1"
        cat <<TOML
default_network = true
default_bridge = "$BRIDGE-$1"
default_subnets = ["$([ "$1" = a ] && echo ${SUBNET_PREFIX}7 || echo ${SUBNET_PREFIX}8).0/24"]
[pods]
node_name = "node-$1"
log_root = "$at/logs"
cgroup_root = "$NAMESPACE-$1"
eviction = []
TOML
    } >"$at/podbay.toml"
    launch_agent "$built/podbay" "$at/podbay.toml" "$at/podbay.sock" "$folder/agent-$1.log" || return 1
    agents[$([ "$1" = a ] && echo 0 || echo 1)]=$agent
}
stop_agents() {
    local status pid
    kill -TERM "${agents[@]}"
    for pid in "${agents[@]}"; do
        status=0
        gone 10 "$pid" || return 1
        wait "$pid" || status=$?
        [ $status = 0 ] || { say "an agent ended with code $status" >&2; return 1; }
    done
    agents=() agent=
}

# Prints everything that a pod may have left behind.
leftovers() {
    local at
    ls -A "$folder"/[ab]/netns 2>/dev/null | grep -v ":$" | sed '/^$/d; s/^/network namespace /'
    ls -A /sys/class/net/$BRIDGE-[ab]/brif 2>/dev/null | grep -v ":$" | sed '/^$/d; s/^/veth /'
    awk -v below="$folder/" 'index($5, below) == 1 && $5 !~ /netns$|containerd-state/ {print "mount", $5}' /proc/self/mountinfo
    { iptables-save; ip6tables-save; } 2>/dev/null | grep -F -e "$SUBNET_PREFIX" -e "$BRIDGE" | sed 's/^/firewall rule /'
    shims | sed 's/^/shim /'
    for at in a b; do
        in_space $at tasks ls -q | sed 's/^/task /'
        in_space $at containers ls -q | sed 's/^/container /'
        in_space $at snapshots ls | awk 'NR > 1 && $3 == "Active" {print "snapshot", $1}'
    done
    find "$folder"/[ab]/podbay-state -type p 2>/dev/null | sed 's/^/fifo /'
    find "$folder"/[ab] -regextype egrep -regex '.*/[0-9a-f]{64}' 2>/dev/null | sed 's/^/file /'
    find "$folder"/[ab]/podbay/pods -mindepth 1 2>/dev/null | sed 's/^/volume /'
    find "$folder" /var/lib/cni/networks -type f -name "${SUBNET_PREFIX}[78].[0-9]*" 2>/dev/null | sed 's/^/address /'
    find /sys/fs/cgroup -type d -path "*/$NAMESPACE-[ab]/*pod*" 2>/dev/null | sed 's/^/cgroup /'
}
nothing_left() { [ -z "$(leftovers)" ]; }
leak_check() {
    until_true 30 nothing_left && return
    leftovers >&2
    return 1
}

# Runs podbay against agent a and shows the command as typed in a shell.
says() {
    echo "\$ podbay $*"
    "$built"/podbay --address "$folder/a/podbay.sock" "$@" || fail "podbay $*"
}
# with_image NAME: writes a manifest of examples/ to the demo's folder, with the image of its registry.
with_image() { sed "s|image: .*|image: $image|" "examples/$1" >"$folder/$1"; }
# by_person: the life of a pod, with the command line.
by_person() {
    local forward local_port
    with_image web.yaml
    says apply --wait -f "$folder/web.yaml"
    says get pods -o wide
    says logs web --all-containers --prefix --tail 2
    says exec web -c client -- wget -q -O - http://localhost:8080/
    echo '$ podbay port-forward web :8080 &'
    "$built"/podbay --address "$folder/a/podbay.sock" port-forward web :8080 >"$folder/forward.log" 2>&1 9>&- &
    forward=$!
    pids+=("$forward")
    until_true 10 grep -q 8080 "$folder/forward.log" || fail "port-forward"
    local_port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$folder/forward.log" | head -n 1)
    exec 3<>"/dev/tcp/127.0.0.1/$local_port"
    printf 'GET / HTTP/1.0\r\n\r\n' >&3
    echo "from this host: $(tail -n 1 <&3)"
    exec 3>&-
    end "$forward"
    echo '$ podbay describe pod web | head -n 12'
    "$built"/podbay --address "$folder/a/podbay.sock" describe pod web | sed -n '1,12p'
    says explain pod web
    says delete pod web
}
living() { # living COUNT [ab]...: so many replicas run on these agents
    local want=$1 count=0 at
    shift
    for at in "$@"; do
        count=$((count + $("$built"/podbay --address "$folder/$at/podbay.sock" get pods -o json |
            jq '[.items[] | select(.status.phase == "Running" and .metadata.deletionTimestamp == null)] | length')))
    done
    [ "$count" = "$want" ]
}
by_controller() {
    local victim
    with_image replica.yaml
    "$built"/examples/controller --agent "$folder/a/podbay.sock" --agent "$folder/b/podbay.sock" \
        --replicas 4 "$folder/replica.yaml" 9>&- &
    controller=$!
    until_true 30 living 4 a b || fail "four replicas"
    victim=$("$built"/podbay --address "$folder/a/podbay.sock" get pods -o name | head -n 1)
    says delete "$victim" --wait=false
    until_true 30 living 4 a b || fail "a new one for the deleted one"
    echo '$ kill -9 the agent of node-b; its replicas are made on node-a'
    kill -KILL "${agents[1]}"
    wait "${agents[1]}" 2>/dev/null || true
    until_true 30 living 4 a || fail "all four on node-a"
    echo '$ start it again; its containers never stopped, and two of six are too many'
    start_agent b || fail "the agent again"
    until_true 30 living 4 a b || fail "four again"
    kill -INT $controller
    gone 30 $controller || fail "the controller's end"
    controller=
    until_true 30 no_pods || fail "no pods"
}
no_pods() {
    local at
    for at in a b; do
        [ -z "$("$built"/podbay --address "$folder/$at/podbay.sock" get pods -o name)" ] || return 1
    done
}

echo "podbay demo: pods, from nothing to nothing"
echo "(the first build takes some minutes)"
step "build podbay and the examples" build
start=$(date +%s%N)
start_containerd || fail "start containerd"
took "$start" "containerd $(which_containerd)"
step "registry with one image, busybox" private_registry
image=127.0.0.1:$registry/podbay/busybox:latest
step "podbay agent of node-a" start_agent a
step "podbay agent of node-b" start_agent b
echo "--- a pod, by the command line"
by_person
echo "--- the same kind of pod step by step, through the CRI"
"$built"/examples/cri --socket "$folder/a/podbay.sock" \
    --image "$image" --folder "$folder/cri" \
    --while-running "scripts/demo.sh show $folder/a/podbay.sock" || fail "the CRI"
echo "--- four replicas over two agents, by a small controller"
by_controller
echo "---"
step "SIGTERM, both agents end with code 0" stop_agents
step "leak check: namespaces, veths, mounts, rules, shims, tasks, snapshots, files, cgroups" leak_check
say "done in $SECONDS s, nothing is left"
