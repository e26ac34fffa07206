#!/usr/bin/env bash
# wasm-test.sh [ARGUMENT…]: runs the core's tests in Node, compiled for wasm32-unknown-unknown.
source "$(dirname "$0")/common.sh"
source "$ROOT/tests/tools/toolchain.sh"

need node "install Node.js 18 or newer (Debian: apt-get install nodejs)"
# The runner must be of the very version that the tests link.
cargo_tool wasm-bindgen-cli "$(locked_version wasm-bindgen)" wasm-bindgen-test-runner
use_wasm_toolchain wasm32-unknown-unknown
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$TOOL WASM_BINDGEN_TEST_ONLY_NODE=1
"$CARGO_WASM" test --no-fail-fast -p meshweft-core --lib --tests "${CARGO_WASM_FLAGS[@]}" "$@" </dev/null
