#!/usr/bin/env bash
# e2e.sh VERSION…: runs the end-to-end tests against each of these versions of Envoy.
source "$(dirname "$0")/common.sh"
[ $# -gt 0 ] || die "name at least one version of Envoy"
# All are fetched first, so that a missing one is known before the long part.
for version in "$@"; do
    "$ROOT/tests/tools/fetch-envoy.sh" "$version" >/dev/null
done
failed=()
for version in "$@"; do
    say "Envoy $version"
    MESHWEFT_ENVOY=$("$ROOT/tests/tools/fetch-envoy.sh" "$version")
    export MESHWEFT_ENVOY
    "${CARGO:-cargo}" test --locked --no-fail-fast -p meshweft-lab </dev/null || failed+=("$version")
done
[ ${#failed[@]} = 0 ] || die "failed with Envoy ${failed[*]}"
