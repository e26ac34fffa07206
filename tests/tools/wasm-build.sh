#!/usr/bin/env bash
# wasm-build.sh OUT [CRATE]: builds the release module, or that of another crate, and leaves it at OUT.
source "$(dirname "$0")/common.sh"
source "$ROOT/tests/tools/toolchain.sh"
out=${1:?usage: wasm-build.sh OUT [CRATE]}
crate=${2:-meshweft}

need cargo "install Rust, for example with rustup"
use_wasm_toolchain wasm32-wasip1 --reproducible
"$CARGO_WASM" build --release -p "$crate" "${CARGO_WASM_FLAGS[@]}" </dev/null

built=$CARGO_TARGET_DIR/wasm32-wasip1/release/${crate//-/_}.wasm
for path in "$ROOT" "$HOME/" "${CARGO_HOME:-$HOME/.cargo}" /usr/lib/ /usr/src/; do
    ! LC_ALL=C grep -aqF -- "$path" "$built" || die "the module contains the path $path of this machine"
done

mkdir -p "$(dirname "$out")"
cp "$built" "$out.new"
mv "$out.new" "$out"
say "$out: $(stat -c %s "$out") bytes, sha256 $(sha256sum "$out" | cut -d' ' -f1)"
