#!/usr/bin/env bash
# demo.sh: prepares what the demo needs, one line a stage, and runs it.
source "$(dirname "$0")/common.sh"

stages=4
number=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# stage TEXT COMMAND…: runs the command quietly; what it said is shown if it fails.
stage() {
    local text=$1 begin=$SECONDS pid step
    shift
    number=$((number + 1))
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    if [ -t 1 ]; then
        while kill -0 "$pid" 2>/dev/null; do
            step=$(tail -n 1 "$log" | tr -dc '[:print:]' | cut -c1-40)
            printf '\r\033[K[%d/%d] %s … %d s  %s' "$number" "$stages" "$text" $((SECONDS - begin)) "$step"
            sleep 0.5
        done
        printf '\r\033[K'
    fi
    [ -t 1 ] || printf '[%d/%d] %s …\n' "$number" "$stages" "$text"
    if ! wait "$pid"; then
        tail -n 40 "$log" >&2
        die "stage $number failed: $text"
    fi
    printf '[%d/%d] %s: %d s\n' "$number" "$stages" "$text" $((SECONDS - begin))
}

"$ROOT/tests/tools/doctor.sh" cargo python3
stage "Fetching Envoy ${ENVOY_VERSION:=1.40.0}" "$ROOT/tests/tools/fetch-envoy.sh" "$ENVOY_VERSION"
stage "Building the filter, target/meshweft.wasm" "${MAKE:-make}" --no-print-directory target/meshweft.wasm
stage "Building the tool, target/meshweft" "${MAKE:-make}" --no-print-directory target/meshweft
stage "Building the demo's applications and collector" "${CARGO:-cargo}" build --locked -p meshweft-lab --bin demo

MESHWEFT_ENVOY=$("$ROOT/tests/tools/fetch-envoy.sh" "$ENVOY_VERSION")
export MESHWEFT_ENVOY
exec "${CARGO:-cargo}" run --quiet --locked -p meshweft-lab --bin demo -- "$@"
