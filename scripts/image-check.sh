#!/usr/bin/env bash
# Runs dist/podbay-image.tar: imports it into a private containerd and lets it print its version.
set -euo pipefail
cd "$(dirname "$0")/.."
parts=${KIT_PARTS:-/opt/podbay-parts/bin}
export PATH="$PATH:/usr/sbin:/sbin:$parts"
die() { printf 'image-check: %s\n' "$*" >&2; exit 1; }
[ -f dist/podbay-image.tar ] || die "dist/podbay-image.tar is missing: run scripts/image.sh"
[ "$(id -u)" = 0 ] || die "needs root"

work=$(mktemp -d /tmp/podbay-image-check.XXXXXX)
socket=$work/containerd.sock
pid=
clean_up() {
    local status=$?
    set +e
    if [ -n "$pid" ]; then
        kill -TERM "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    fi
    awk -v below="$work/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | tac |
        while read -r mount; do umount -l "$mount"; done
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT

cat >"$work/containerd.toml" <<TOML
version = 2
root = "$work/root"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "$socket"
[ttrpc]
  address = "$socket.ttrpc"
TOML
containerd --config "$work/containerd.toml" >"$work/log" 2>&1 &
pid=$!
run_ctr() { timeout 60 ctr --address "$socket" --namespace podbay-image-check "$@" </dev/null; }
for _ in $(seq 200); do
    if [ -S "$socket" ] && run_ctr version >/dev/null 2>&1; then break; fi
    kill -0 "$pid" 2>/dev/null || { tail -n 15 "$work/log" >&2; die "containerd did not start"; }
    sleep 0.05
done
run_ctr images import dist/podbay-image.tar >/dev/null
answer=$(run_ctr run --rm localhost/podbay:latest podbay-image-check /podbay version) ||
    die "podbay does not run in the image"
grep -qi podbay <<<"$answer" || die "not a version: $answer"
printf 'image-check: from the image: %s\n' "$(head -n 1 <<<"$answer")"
