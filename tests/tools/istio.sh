#!/usr/bin/env bash
# istio.sh: runs the filter in a mesh under Istio's own control plane.
source "$(dirname "$0")/common.sh"
tools=$ROOT/tests/tools
# All that is missing is known before the long part.
"$tools/doctor.sh" cargo python3 go
MESHWEFT_ENVOY=$("$tools/fetch-envoy.sh" "${ENVOY_VERSION:-}")
MESHWEFT_ISTIO_1_30=$("$tools/fetch-istio.sh" istio-1.30)
MESHWEFT_ISTIO_1_31=$("$tools/fetch-istio.sh" istio-1.31)
MESHWEFT_ENVOY_GATEWAY=$("$tools/fetch-istio.sh" envoy-gateway)
export MESHWEFT_ENVOY MESHWEFT_ISTIO_1_30 MESHWEFT_ISTIO_1_31 MESHWEFT_ENVOY_GATEWAY
"$tools/image.sh"
# Three at once, as they wait more than they work.
"${CARGO:-cargo}" test --locked --no-fail-fast -p meshweft-lab --test istio_image --test istio_manifests --test istio -- --nocapture --test-threads 3 </dev/null
