#!/usr/bin/env bash
# Writes registry storage with one image, the machine's static busybox, to a folder.
#
#   scripts/busybox-registry.sh FOLDER REPOSITORY TAG [FILES [CONFIG]]
#
# Files of the folder FILES are added to the image's root; CONFIG, a JSON object, replaces the image's
# default configuration. The last line printed is the manifest's digest.
#
# The layout is that of the distribution registry's filesystem driver, so `docker-registry serve` finds
# the image without any tool or upload.
set -euo pipefail
[ $# -ge 3 ] && [ $# -le 5 ] || { echo "usage: $0 FOLDER REPOSITORY TAG [FILES [CONFIG]]" >&2; exit 2; }
storage=$1/docker/registry/v2
repository=$storage/repositories/$2
tag=$3 files=${4:-}
image_config=${5:-}
[ -n "$image_config" ] || image_config='{"Env":["PATH=/bin"],"Cmd":["sh"]}'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) architecture=$(uname -m) ;;
esac

# put FILE KIND: stores a blob, links it as a layer or a revision, and prints the hex of its digest.
put() {
    local hex
    hex=$(sha256sum "$1" | cut -d' ' -f1)
    mkdir -p "$storage/blobs/sha256/${hex:0:2}/$hex" "$repository/$2/sha256/$hex"
    cp "$1" "$storage/blobs/sha256/${hex:0:2}/$hex/data"
    printf 'sha256:%s' "$hex" >"$repository/$2/sha256/$hex/link"
    echo "$hex"
}
size() { stat -c %s "$1"; }

root=$work/root
mkdir -p "$root/bin" "$root/etc" "$root/root"
mkdir -m 1777 "$root/tmp"
install -m 755 /bin/busybox "$root/bin/busybox"
/bin/busybox --list | grep -vx busybox | (cd "$root/bin" && /bin/busybox xargs -n1 /bin/busybox ln -s busybox)
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
[ -z "$files" ] || cp -a --remove-destination "$files/." "$root/"
tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
gzip -n -1 -c "$work/layer.tar" >"$work/layer.tar.gz"

diff_id=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
layer=$(put "$work/layer.tar.gz" _layers)
cat >"$work/config" <<JSON
{"architecture":"$architecture","os":"linux","created":"2024-01-01T00:00:00Z","config":$image_config,"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]}}
JSON
config=$(put "$work/config" _layers)
oci=application/vnd.oci.image
cat >"$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"$oci.manifest.v1+json","config":{"mediaType":"$oci.config.v1+json","digest":"sha256:$config","size":$(size "$work/config")},"layers":[{"mediaType":"$oci.layer.v1.tar+gzip","digest":"sha256:$layer","size":$(size "$work/layer.tar.gz")}]}
JSON
manifest=$(put "$work/manifest" _manifests/revisions)
mkdir -p "$repository/_manifests/tags/$tag/current" "$repository/_manifests/tags/$tag/index/sha256/$manifest"
printf 'sha256:%s' "$manifest" >"$repository/_manifests/tags/$tag/current/link"
printf 'sha256:%s' "$manifest" >"$repository/_manifests/tags/$tag/index/sha256/$manifest/link"
echo "sha256:$manifest"
