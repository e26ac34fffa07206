#!/usr/bin/env bash
# backends.sh: runs the filter in Envoy before the trace backends that people run.
source "$(dirname "$0")/common.sh"
tools=$ROOT/tests/tools
# All that is missing is known before the long part.
"$tools/doctor.sh" cargo python3 go java mvn
MESHWEFT_ENVOY=$("$tools/fetch-envoy.sh" "${ENVOY_VERSION:-}")
MESHWEFT_OTELCOL=$("$tools/fetch-backends.sh" otelcol)
MESHWEFT_JAEGER=$("$tools/fetch-backends.sh" jaeger)
MESHWEFT_ZIPKIN=$("$tools/fetch-backends.sh" zipkin)
MESHWEFT_SKYWALKING=$("$tools/fetch-backends.sh" skywalking)
MESHWEFT_CHROMIUM=$(command -v chromium || true)
if [ -z "$MESHWEFT_CHROMIUM" ]; then
    apt_install chromium || die "chromium is missing, which opens the pages of backends: apt-get install chromium"
    MESHWEFT_CHROMIUM=$(command -v chromium) || die "the package chromium has no program of this name"
fi
export MESHWEFT_CHROMIUM MESHWEFT_ENVOY MESHWEFT_OTELCOL MESHWEFT_JAEGER MESHWEFT_SKYWALKING MESHWEFT_ZIPKIN
"${CARGO:-cargo}" test --locked --no-fail-fast -p meshweft-lab --test backends </dev/null
