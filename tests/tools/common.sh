# shellcheck shell=bash
# What the scripts beside this file share; each of them sources it.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/meshweft
# shellcheck disable=SC2034 # read by the scripts that source this
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
cd "$ROOT"

# The tool that speaks, without its folder and ending.
SCRIPT=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }

# Ends the script with one line that says what is wrong and what to do.
die() {
    say "error: $*"
    exit 1
}

# need COMMAND HINT: a missing command is an error that names its remedy.
need() { command -v "$1" >/dev/null || die "\`$1\` is missing: $2"; }

# Installs Debian packages; false where that is not possible. What is installed already is never removed for them.
apt_install() {
    command -v apt-get >/dev/null || return 1
    local as_root=() log="$CACHE/apt.log"
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    mkdir -p "$CACHE"
    say "installing Debian packages: $*"
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive bash -c '
        apt-get -q -o DPkg::Lock::Timeout=300 update &&
        apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends --no-remove install "$@"
    ' apt "$@" >"$log" 2>&1 </dev/null; then
        tail -n 5 "$log" >&2
        return 1
    fi
}

# The version that Cargo.lock pins for a crate.
locked_version() {
    awk -v name="name = \"$1\"" '$0 == name { getline; gsub(/version = |"/, ""); print; exit }' Cargo.lock
}

# cargo_tool CRATE VERSION BINARY: sets TOOL to a program from crates.io of just this version, installed once into the cache.
cargo_tool() {
    local crate=$1 version=$2 binary=$3 folder=$CACHE/$1-$2
    TOOL=$folder/bin/$binary
    [ ! -x "$TOOL" ] || return 0
    need cargo "install Rust, for example with rustup"
    say "installing $binary $version (once, some minutes)"
    mkdir -p "$CACHE"
    local install=(cargo install "$crate" --version "=$version" --bin "$binary" --root "$folder" --no-track)
    if ! CARGO_TARGET_DIR=$CACHE/build-$crate "${install[@]}" --locked </dev/null; then
        # A registry mirror may lag behind the tool's own lock file; the tool's version is pinned either way.
        say "trying again with the dependencies that this registry has"
        CARGO_TARGET_DIR=$CACHE/build-$crate "${install[@]}" </dev/null || die "cannot install $crate $version"
    fi
    rm -rf "$CACHE/build-$crate"
}
