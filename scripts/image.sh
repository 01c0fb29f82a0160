#!/usr/bin/env bash
# Builds the static binary as dist/podbay and, with buildah, its image as dist/podbay-image.tar (an
# OCI archive for `ctr images import`). Pulls no base image. Needs root, but no daemon.
#
#   PROFILE=dev scripts/image.sh    a quick unoptimised binary, to test the image itself
#   DIST_ONLY=1 scripts/image.sh    uses dist/podbay as it is
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-release}
me=image
. scripts/kit.sh
command -v buildah >/dev/null || die "buildah is missing: run scripts/setup.sh test"

if [ -z "${DIST_ONLY:-}" ]; then
    host=$(rustc -vV | sed -n 's/^host: //p')
    say "static binary for $host, profile $profile"
    RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build -q --locked --profile "$profile" --bin podbay --target "$host"
    folder=$profile
    [ "$profile" != dev ] || folder=debug
    install -D "${CARGO_TARGET_DIR:-target}/$host/$folder/podbay" dist/podbay
fi
[ -x dist/podbay ] || die "dist/podbay is missing"
linkage=$(ldd dist/podbay 2>&1 || true)
case $linkage in
*"statically linked"* | *"not a dynamic executable"*) ;;
*) die "dist/podbay is not static: $linkage" ;;
esac
say "dist/podbay: $(stat -c %s dist/podbay) bytes, static"

work=$(mktemp -d /var/tmp/podbay-image.XXXXXX)
trap 'rm -rf "$work"' EXIT
# A context of two files avoids copying the whole checkout. vfs and chroot also work where overlay on
# overlay and new namespaces do not.
mkdir -p "$work/context/dist"
cp Dockerfile "$work/context/"
cp dist/podbay "$work/context/dist/"
buildah=(buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs)
"${buildah[@]}" build --quiet --isolation chroot --format oci --target prebuilt \
    --tag localhost/podbay:latest "$work/context" >/dev/null </dev/null
rm -f dist/podbay-image.tar
"${buildah[@]}" push --quiet localhost/podbay:latest \
    "oci-archive:$PWD/dist/podbay-image.tar:localhost/podbay:latest" >/dev/null </dev/null
say "dist/podbay-image.tar: $(stat -c %s dist/podbay-image.tar) bytes"
