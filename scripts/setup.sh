#!/usr/bin/env bash
# Installs the missing dependencies of podbay.
#
#   scripts/setup.sh demo   to build and to run `make demo`: compiler parts, containerd, runc, CNI
#                           plugins, busybox, a registry
#   scripts/setup.sh test   everything that `make test` and `make bench` use: the above, and a second,
#                           newer line of containerd with its runc and CNI plugins, and outside clients
#   scripts/setup.sh kubelet    the same, and a kubelet, which takes ten minutes to build on two cores
#
# For Debian 12 and later and Ubuntu 22.04 and later, as root, with Rust installed. Programs that are too old in the
# distribution are built with `go install` into $KIT_PARTS (default /opt/podbay-parts/bin). Only apt packages and that
# folder are changed. After one successful run no network is needed.
set -euo pipefail

readonly CONTAINERD=v2.4.2 RUNC=v1.5.2 CNI=v1.9.1 GRPCURL=v1.9.4 CARGO_DENY=0.20.2
readonly RUST_AT_LEAST=1.95 GO_AT_LEAST=1.26
parts=${KIT_PARTS:-/opt/podbay-parts/bin}
stamp=$parts/.versions
root=$(cd "$(dirname "$0")/.." && pwd)
log=$(mktemp "${TMPDIR:-/tmp}/podbay-setup.XXXXXX.log")
export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; } # at_least MIN ACTUAL

# Runs a command silently; on failure shows the end of its output.
quietly() {
    local what=$1 start=$SECONDS
    shift
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 25 "$log" >&2
        die "$what failed; the whole log is $log"
    fi
    say "$what ($((SECONDS - start)) s)"
}

rust_present() {
    have cargo || PATH="$PATH:$HOME/.cargo/bin"
    have cargo || die "cargo is missing: install Rust $RUST_AT_LEAST or newer from https://rustup.rs"
    local version
    version=$(cargo --version | awk '{print $2}')
    at_least "$RUST_AT_LEAST" "$version" || die "Rust is $version, $RUST_AT_LEAST or newer is needed"
}

# want TEST... -- PACKAGE: adds the package to the list if the test fails.
missing=()
want() {
    local test=()
    while [ "$1" != -- ]; do test+=("$1"); shift; done
    shift
    "${test[@]}" >/dev/null 2>&1 || missing+=("$1")
}
cni_there() { [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ]; }
# No `| grep -q` with pipefail: grep exits early, and the writer dies of SIGPIPE.
static_busybox() { [ -x /bin/busybox ] && grep -qx httpd <<<"$(/bin/busybox --list)"; }

packages_for_demo() {
    want test -e /etc/ssl/certs/ca-certificates.crt -- ca-certificates
    want have cc -- gcc
    want test -e /usr/include/features.h -- libc6-dev
    want have make -- make
    want have protoc -- protobuf-compiler
    want have containerd -- containerd
    want have runc -- runc
    want cni_there -- containernetworking-plugins
    want have iptables -- iptables
    want have ip -- iproute2
    want static_busybox -- busybox-static
    want have docker-registry -- docker-registry
    want have ps -- procps
    want have jq -- jq
}

packages_for_test() {
    packages_for_demo
    want have crun -- crun
    want have nft -- nftables
    want have conntrack -- conntrack
    want have socat -- socat
    want have dbus-daemon -- dbus
    want have skopeo -- skopeo
    want have buildah -- buildah
    want have curl -- curl
    want have criu -- criu
    want have pkg-config -- pkg-config
    want test -e /usr/include/seccomp.h -- libseccomp-dev
}

install_packages() {
    [ ${#missing[@]} -gt 0 ] || { say "all packages are there"; return; }
    have apt-get || die "no apt-get here; please install by hand: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "these packages are missing, and only root can install them: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Scripts start their own docker-registry; the packaged services stay disabled.
    local policy=/usr/sbin/policy-rc.d made_policy=no
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        made_policy=yes
    fi
    # shellcheck disable=SC2064 # expand the values now
    trap "[ $made_policy = no ] || rm -f $policy" EXIT
    quietly "package lists" apt-get update -q
    quietly "packages ${missing[*]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
    [ $made_policy = no ] || rm -f $policy
    trap - EXIT
}

stamped() { [ -x "$parts/$1" ] && grep -qxF "$1 $2" "$stamp" 2>/dev/null; }
put_stamp() {
    { grep -v "^$1 " "$stamp" 2>/dev/null || true; echo "$1 $2"; } >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# Whether a binary without our stamp is exactly this module at this version.
is_built_from() {
    [ -x "$parts/$1" ] && have go || return 1
    grep -qxF "$2 $3" <<<"$(go version -m "$parts/$1" 2>/dev/null | awk '$1 == "mod" {print $2, $3}')"
}

need_go() {
    have go || {
        missing=(golang-go)
        install_packages
    }
    local version
    version=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
    # From 1.21 on, Go downloads the toolchain that a module requires.
    at_least "$GO_AT_LEAST" "$version" && return
    at_least 1.21 "$version" && [ "$(go env GOTOOLCHAIN)" != local ] && return
    die "Go is $version; building containerd $CONTAINERD needs $GO_AT_LEAST (https://go.dev/dl), or 1.21 and GOTOOLCHAIN=auto"
}

# go_part NAME MODULE VERSION PACKAGE [build flags]; PACKAGE is empty if it is the module's root.
go_part() {
    local name=$1 module=$2 version=$3 package=$4
    shift 4
    stamped "$name" "$version" && return
    if is_built_from "$name" "$module" "$version"; then
        put_stamp "$name" "$version"
        return
    fi
    need_go
    quietly "$name $version" env GOBIN="$parts" GOFLAGS=-buildvcs=false CGO_ENABLED="${CGO:-0}" \
        go install -trimpath -ldflags='-s -w' "$@" "$module${package:+/$package}@$version"
    put_stamp "$name" "$version"
}

go_parts() {
    mkdir -p "$parts"
    local name
    for name in containerd containerd-shim-runc-v2 ctr; do
        go_part $name github.com/containerd/containerd/v2 $CONTAINERD cmd/$name
    done
    CGO=1 go_part runc github.com/opencontainers/runc $RUNC '' -tags=seccomp
    for name in main/bridge main/ptp main/loopback main/macvlan main/host-device \
        ipam/host-local ipam/static meta/portmap meta/firewall meta/bandwidth meta/tuning meta/sbr; do
        go_part ${name#*/} github.com/containernetworking/plugins $CNI plugins/$name
    done
    go_part grpcurl github.com/fullstorydev/grpcurl $GRPCURL cmd/grpcurl
    say "parts in $parts: containerd $CONTAINERD, runc $RUNC, CNI plugins $CNI, grpcurl $GRPCURL"
}

# go_client NAME FOLDER [linker flags]: builds an outside client for the tests from tests/clients.
go_client() {
    local name=$1 source="$root/tests/clients/$2" flags=${3:-} version
    version=$(cat "$source"/*.go "$source"/go.* | sha256sum | cut -c1-16)
    stamped "$name" "$version" && return
    need_go
    quietly "$name" env CGO_ENABLED=0 \
        go build -C "$source" -trimpath -buildvcs=false -ldflags="-s -w $flags" -o "$parts/$name" .
    put_stamp "$name" "$version"
}

# crictl, and the conformance suite critest, at the version in tests/clients/cri-tools.
cri_tools() {
    local source="$root/tests/clients/cri-tools" version flags
    version=$(awk '$1 == "sigs.k8s.io/cri-tools" && NF == 2 {print $2}' "$source/go.mod")
    [ -n "$version" ] || die "tests/clients/cri-tools/go.mod does not name a version of cri-tools"
    flags="-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=${version#v}"
    stamped crictl "$version" || {
        need_go
        quietly "crictl $version" env CGO_ENABLED=0 go build -C "$source" -trimpath -ldflags="$flags" \
            -o "$parts/crictl" sigs.k8s.io/cri-tools/cmd/crictl
        put_stamp crictl "$version"
    }
    stamped critest "$version" || {
        need_go
        quietly "critest $version" env CGO_ENABLED=0 go test -C "$source" -c -trimpath -ldflags="$flags" \
            -o "$parts/critest" sigs.k8s.io/cri-tools/cmd/critest
        put_stamp critest "$version"
    }
}

# A sample plugin of NRI's reference implementation, built with the stub of its version.
nri_sample() {
    local source="$root/tests/clients/nri-sample" version
    version=$(awk '$2 == "github.com/containerd/nri" {print $3}' "$source/go.mod")
    [ -n "$version" ] || die "tests/clients/nri-sample/go.mod does not name a version of nri"
    stamped nri-ulimit-adjuster "$version" && return
    need_go
    quietly "nri-ulimit-adjuster $version" env CGO_ENABLED=0 \
        go build -C "$source" -trimpath -buildvcs=false -ldflags='-s -w' \
        -o "$parts/nri-ulimit-adjuster" github.com/containerd/nri/plugins/ulimit-adjuster
    put_stamp nri-ulimit-adjuster "$version"
}

# Debian 12's CRIU does not know the vDSO of kernels from 6.13 on: there the tests preload a library
# (see its source). If that does not help either, they check how podbay reports that CRIU does not
# work.
criu_kit() {
    local kit="$parts/criu-kit" source="$root/tests/clients/criu/maps.c" version
    version=$(sha256sum "$source" | cut -c1-16)
    stamped criu-kit/criu "$version" && return
    criu check >/dev/null 2>&1 && return
    mkdir -p "$kit"
    quietly "criu-kit" cc -O1 -Wall -shared -fPIC -o "$kit/maps.so" "$source"
    # shellcheck disable=SC2016 # for the script's own shell
    printf '#!/bin/sh\nLD_PRELOAD=${0%%/*}/maps.so exec %s "$@"\n' "$(command -v criu)" >"$kit/criu"
    chmod 755 "$kit/criu"
    "$kit/criu" check >/dev/null 2>&1 || say "CRIU does not work on this kernel, with criu-kit neither"
    put_stamp criu-kit/criu "$version"
}

# It prints its version only if the linker sets it.
kubelet() {
    local version
    version=$(sed -n 's/^require k8s.io\/kubernetes //p' "$root/tests/clients/kubelet/go.mod")
    go_client kubelet kubelet "-X k8s.io/component-base/version.gitVersion=$version"
}

# Unoptimised on purpose: it compiles in a third of the time and runs for two seconds per check.
cargo_deny() {
    stamped cargo-deny $CARGO_DENY && return
    have cargo-deny && at_least $CARGO_DENY "$(cargo-deny --version | awk '{print $2}')" && return
    local to
    to=$(mktemp -d)
    quietly "cargo-deny $CARGO_DENY" env CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$to/target" \
        cargo install cargo-deny --version $CARGO_DENY --locked --debug --root "$to"
    strip -o "$parts/cargo-deny" "$to/bin/cargo-deny" 2>/dev/null || cp "$to/bin/cargo-deny" "$parts/"
    rm -rf "$to"
    put_stamp cargo-deny $CARGO_DENY
}

crates() {
    cargo fetch -q --locked --offline --manifest-path "$root/Cargo.toml" 2>/dev/null ||
        quietly "crates" cargo fetch --locked --manifest-path "$root/Cargo.toml"
}

case "${1:-}" in
demo)
    rust_present
    packages_for_demo
    install_packages
    crates
    ;;
test | kubelet)
    rust_present
    packages_for_test
    install_packages
    crates
    go_parts
    go_client streaming-client streaming
    go_client nri-plugin nri
    nri_sample
    cri_tools
    criu_kit
    cargo_deny
    [ "$1" = test ] || kubelet
    ;;
*) die "usage: $0 demo|test|kubelet" ;;
esac
rm -f "$log"
say "ready for $1 ($SECONDS s)"
