#!/usr/bin/env bash
# Runs dist/podbay-image.tar: imports it into a private containerd and runs it to print its version.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'image-check: %s\n' "$*" >&2; exit 1; }
[ -f dist/podbay-image.tar ] || die "dist/podbay-image.tar is missing: run scripts/image.sh"
[ "$(id -u)" = 0 ] || die "needs root"

folder=$(mktemp -d /tmp/podbay-image-check.XXXXXX)
. scripts/kit.sh
export PATH="$PATH:/usr/sbin:/sbin:$parts"
clean_up() {
    local status=$?
    set +e
    end_all
    unmount_all
    rm -rf "$folder"
    exit $status
}
trap clean_up EXIT

private_containerd || {
    tail -n 15 "$folder/containerd.log" >&2
    die "containerd did not start"
}
run_ctr() { timeout 60 ctr --address "$folder/containerd.sock" --namespace podbay-image-check "$@" </dev/null; }
run_ctr images import dist/podbay-image.tar >/dev/null
answer=$(run_ctr run --rm localhost/podbay:latest podbay-image-check /podbay version) ||
    die "podbay does not run in the image"
grep -qi podbay <<<"$answer" || die "not a version: $answer"
printf 'image-check: from the image: %s\n' "$(head -n 1 <<<"$answer")"
