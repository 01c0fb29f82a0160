# Shared by scripts that start pods: starts and stops a private containerd and registry. To be sourced
# after creating the folder for the script's files and setting `folder` to it; the pids of started
# processes are added to the list `pids`.
# shellcheck shell=bash disable=SC2154

parts=${KIT_PARTS:-/opt/podbay-parts/bin}
pids=()

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
