#!/usr/bin/env bash
# bench.sh [ARGUMENT…]: measures what tracing costs, with the modules that `make bench` has built.
source "$(dirname "$0")/common.sh"

"$ROOT/tests/tools/doctor.sh" cargo python3
MESHWEFT_ENVOY=$("$ROOT/tests/tools/fetch-envoy.sh" "${ENVOY_VERSION:-1.40.0}")
export MESHWEFT_ENVOY
# Optimized: the client and the servers share the processors with Envoy.
"${CARGO:-cargo}" build --quiet --locked --profile tool -p meshweft-lab --bin bench </dev/null
exec "${CARGO_TARGET_DIR:-target}/tool/bench" "$@"
