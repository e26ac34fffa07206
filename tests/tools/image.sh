#!/usr/bin/env bash
# image.sh: packs target/meshweft.wasm as OCI images into target/image, beside what it is made of.
source "$(dirname "$0")/common.sh"
"${CARGO:-cargo}" metadata --locked --format-version 1 --filter-platform wasm32-wasip1 </dev/null |
    "${CARGO:-cargo}" run --quiet --locked --release -p meshweft-image -- target/meshweft.wasm target/image
