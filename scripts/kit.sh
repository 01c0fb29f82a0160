# Shared by scripts that start pods: a private containerd, registry and agent, and the removal of all that
# they leave. To be sourced by a script that has set `me` to its name. The pids of started processes are
# added to the list `pids`, except the agent's, which is `agent`.
# shellcheck shell=bash disable=SC2154

parts=${KIT_PARTS:-/opt/podbay-parts/bin}
pids=()
agent=

say() { printf '%s: %s\n' "$me" "$*"; }
die() { say "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "needs root"; }
# Makes the folder for the script's files, `folder`.
begin() {
    need_root
    folder=$(mktemp -d "/tmp/podbay-$me.XXXXXX")
}

# use_line 1|2: which programs come first: the distribution's containerd and runc, or the newer parts.
use_line() {
    if [ "$1" = 1 ]; then
        export PATH="$PATH:/usr/sbin:/sbin:$parts"
    else
        export PATH="$parts:$PATH:/usr/sbin:/sbin"
    fi
}

until_true() { # until_true SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

# Whether a containerd answers at this socket.
answers() { [ -S "$1" ] && timeout 5 ctr --address "$1" version; }

# A containerd without its CRI plugin, at $folder/containerd.sock.
private_containerd() {
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
    # The daemon must not inherit the script's lock.
    containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 9>&- &
    pids+=($!)
    until_true 20 answers "$folder/containerd.sock"
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
free_port() {
    local port
    for _ in 1 2 3 4 5 6 7 8; do
        port=$((20000 + RANDOM % 20000))
        port_open $port 2>/dev/null || { echo $port; return; }
    done
    return 1
}

# A registry with the image podbay/busybox:latest at 127.0.0.1:$registry.
private_registry() {
    scripts/busybox-registry.sh "$folder/registry" podbay/busybox latest >/dev/null || return 1
    for _ in 1 2 3 4 5; do
        registry=$(free_port) || return 1
        printf 'version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s", secret: kit}\n' \
            "$folder/registry" "$registry" >"$folder/registry.yml"
        docker-registry serve "$folder/registry.yml" >"$folder/registry.log" 2>&1 9>&- &
        pids+=($!)
        until_true 5 port_open "$registry" && return
    done
    return 1
}

# The existing folders of CNI plugins, as items of a TOML list.
cni_dirs() {
    local dir
    for dir in /opt/cni/bin /usr/lib/cni /usr/libexec/cni "$parts"; do
        [ ! -x "$dir/bridge" ] || printf '"%s", ' "$dir"
    done
}

# agent_config FOLDER CONTAINERD-SOCKET NAMESPACE: prints the configuration of an agent whose files are all
# in this folder. Its last table is [network], so a caller can add keys of that and then other tables.
agent_config() {
    cat <<TOML
root = "$1/podbay"
state = "$1/podbay-state"
[cri]
socket = "$1/podbay.sock"
[containerd]
address = "$2"
namespace = "$3"
[network]
conf_dir = "$1/net.d"
bin_dirs = [$(cni_dirs)]
cache_dir = "$1/cni-cache"
netns_dir = "$1/netns"
TOML
}

# launch_agent BINARY CONFIG SOCKET LOG: starts an agent, sets `agent` to its pid, and waits until it answers.
launch_agent() {
    "$1" agent --config "$2" >>"$4" 2>&1 9>&- &
    agent=$!
    until_true 30 agent_answers "$1" "$3"
}
# The pid too, because a killed agent leaves its socket.
agent_answers() { kill -0 "$agent" && "$1" --address "$2" get pods; }

# Ends a child: SIGTERM, then SIGKILL after ten seconds.
gone() { until_true "$1" eval "! kill -0 $2"; } # gone SECONDS PID
end() {
    kill -TERM "$1" 2>/dev/null || return 0
    gone 10 "$1" || kill -KILL "$1" 2>/dev/null || true
}
# Ends all started processes, in reverse order.
end_all() {
    local number
    for ((number = ${#pids[@]} - 1; number >= 0; number--)); do end "${pids[number]}"; done
}
unmount_all() {
    awk -v below="$folder/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | tac |
        while read -r mount; do umount -l "$mount"; done
}

# Kills shims that a containerd of this script left.
kill_shims() {
    local pid
    for pid in $(pgrep -f "containerd-shim.*-address $folder/"); do kill -KILL "$pid"; done
}
# no_cgroups PREFIX: kills what still runs in cgroups with this prefix and removes them; whether none is left.
no_cgroups() {
    local below="/sys/fs/cgroup*/$1*" cgroup
    while read -r cgroup; do
        xargs -r kill -KILL <"$cgroup/cgroup.procs"
        rmdir "$cgroup"
    done < <(find /sys/fs/cgroup -depth -type d -path "$below")
    [ -z "$(find /sys/fs/cgroup -type d -path "$below")" ]
}
# clean_world [BRIDGE [CGROUP]]: ends everything that was started and removes what it left.
clean_world() {
    [ -z "$agent" ] || end "$agent"
    end_all
    kill_shims
    unmount_all
    [ -z "${2:-}" ] || until_true 10 no_cgroups "$2"
    [ -z "${1:-}" ] || ip link delete "$1" 2>/dev/null
    rm -rf "$folder"
}
