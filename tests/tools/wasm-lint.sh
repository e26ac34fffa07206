#!/usr/bin/env bash
# wasm-lint.sh: clippy for what is compiled to wasm alone, for the target it ships for.
source "$(dirname "$0")/common.sh"
source "$ROOT/tests/tools/toolchain.sh"

need cargo "install Rust, for example with rustup"
use_wasm_toolchain wasm32-wasip1
clippy=("$CARGO_WASM" clippy)
if [ "$CARGO_WASM" = /usr/bin/cargo ]; then
    # By its path: cargo would take the first cargo-clippy it finds, which may be another compiler's.
    [ -x /usr/bin/cargo-clippy ] || apt_install rust-web-clippy || die "install rust-web-clippy"
    export CARGO=/usr/bin/cargo
    clippy=(/usr/bin/cargo-clippy clippy)
fi
"${clippy[@]}" -p meshweft -p meshweft-empty -p meshweft-crossings "${CARGO_WASM_FLAGS[@]}" -- -D warnings </dev/null
