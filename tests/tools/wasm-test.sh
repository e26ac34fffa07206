#!/usr/bin/env bash
# wasm-test.sh [ARGUMENT…]: runs the core's tests in Node, compiled for wasm32-unknown-unknown.
source "$(dirname "$0")/common.sh"
source "$ROOT/tests/tools/toolchain.sh"

need cargo "install Rust, for example with rustup"
need node "install Node.js 20 or newer (Debian: apt-get install nodejs)"

# The runner must be of the very version that the tests link.
version=$(locked_version wasm-bindgen)
[ -n "$version" ] || die "Cargo.lock names no wasm-bindgen"
tools=$CACHE/wasm-bindgen-$version
runner=$tools/bin/wasm-bindgen-test-runner
if [ ! -x "$runner" ]; then
    say "installing wasm-bindgen-test-runner $version (once, some minutes)"
    install=(cargo install wasm-bindgen-cli --version "=$version" --bin wasm-bindgen-test-runner --root "$tools")
    # A registry mirror may lag behind the tool's own lock file; the tool's version is pinned either way.
    CARGO_TARGET_DIR=$CACHE/build "${install[@]}" --locked </dev/null ||
        CARGO_TARGET_DIR=$CACHE/build "${install[@]}" </dev/null ||
        die "cannot install wasm-bindgen-cli $version"
    rm -rf "$CACHE/build"
fi

use_wasm_toolchain wasm32-unknown-unknown
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$runner
export WASM_BINDGEN_TEST_ONLY_NODE=1
"$CARGO_WASM" test -p meshweft-core --lib --tests "${CARGO_WASM_FLAGS[@]}" "$@" </dev/null
