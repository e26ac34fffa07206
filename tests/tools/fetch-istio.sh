#!/usr/bin/env bash
# fetch-istio.sh NAME…: builds these parts of a mesh (istio-1.30, istio-1.31, envoy-gateway), once, and prints a folder each.
# Cold, on two free cores, it is about 12 minutes for both versions of Istio.
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/go.sh"
SHELF=$CACHE/istio

# istiod, its command, and the definitions of its resources.
istio() {
    local part source
    for part in pilot/cmd/pilot-discovery istioctl/cmd/istioctl; do
        # The tags are those of Istio's own releases.
        go_build "istio.io/istio/$part" "./${part##*/}" -tags vtprotobuf,disable_pgv
    done
    source=$(go list -mod=readonly -m -f '{{.Dir}}' istio.io/istio)
    cat "$source/manifests/charts/base/files/crd-all.gen.yaml" >crds.yaml
    cat "$source/tests/integration/pilot/testdata/gateway-api-crd.yaml" >gateway-api.yaml
}
build_istio_1_30() { istio; }

# Beside it the API of Kubernetes, a reader of images, one that asks as a proxy would, and one that gives proxies
# certificates: all share most of what they are made of.
build_istio_1_31() {
    istio
    go_build ./kube ./kube-api -tags vtprotobuf,disable_pgv
    go_build ./pull ./pull-image -tags vtprotobuf,disable_pgv
    go_build ./xds ./ask-xds -tags vtprotobuf,disable_pgv
    go_build ./sds ./give-secrets -tags vtprotobuf,disable_pgv
}

# The definitions of Envoy Gateway's resources, and nothing of it that runs.
build_envoy_gateway() {
    go mod download -json github.com/envoyproxy/gateway >module.json
    cat "$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' module.json)"/charts/gateway-helm/charts/crds/crds/generated/*.yaml >crds.yaml
}

[ $# -gt 0 ] || die "name a part: istio-1.30, istio-1.31, envoy-gateway"
for name in "$@"; do
    files=(pilot-discovery istioctl crds.yaml gateway-api.yaml)
    case $name in
    istio-1.30) ;;
    istio-1.31) files+=(kube-api pull-image ask-xds give-secrets) ;;
    envoy-gateway) files=(crds.yaml) ;;
    *) die "no part is named $name" ;;
    esac
    go_built "$ROOT/tests/lab/istio/$name" "${files[@]}"
    printf '%s\n' "$BUILT"
done
