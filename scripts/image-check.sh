#!/usr/bin/env bash
# Runs dist/podbay-image.tar: imports it into a private containerd and runs it to print its version.
set -euo pipefail
cd "$(dirname "$0")/.."
me=image-check
. scripts/kit.sh
[ -f dist/podbay-image.tar ] || die "dist/podbay-image.tar is missing: run scripts/image.sh"

begin
use_line 1
clean_up() {
    local status=$?
    set +e
    clean_world
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
say "from the image: $(head -n 1 <<<"$answer")"
