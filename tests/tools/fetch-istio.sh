#!/usr/bin/env bash
# fetch-istio.sh NAME…: builds these versions of Istio (istio-1.30, istio-1.31), once, and prints a folder each.
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

# Beside it the API of Kubernetes, and a reader of images: they share most of what they are made of.
build_istio_1_31() {
    istio
    go_build ./kube ./kube-api -tags vtprotobuf,disable_pgv
    go_build ./pull ./pull-image -tags vtprotobuf,disable_pgv
}

[ $# -gt 0 ] || die "name a version: istio-1.30, istio-1.31"
for name in "$@"; do
    files=(pilot-discovery istioctl crds.yaml gateway-api.yaml)
    case $name in
    istio-1.30) ;;
    istio-1.31) files+=(kube-api pull-image) ;;
    *) die "no version is named $name" ;;
    esac
    go_built "$ROOT/tests/lab/istio/$name" "${files[@]}"
    printf '%s\n' "$BUILT"
done
