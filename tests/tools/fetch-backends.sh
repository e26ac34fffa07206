#!/usr/bin/env bash
# fetch-backends.sh NAME…: gets these trace backends (otelcol, jaeger, zipkin), and SkyWalking's agent (skywalking),
# once, and prints a path each.
# The Go programs are built from modules that go.sum pins; the jar and the wheel are checked against backends.sha256.
# Cold, with modules to download, on two busy cores: the Collector 6 minutes, Jaeger 13, Zipkin some seconds;
# of a processor's time it is 9 minutes in all, of disk 4 GB, nearly all of that Go's own caches.
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/go.sh"
backends=$ROOT/tests/lab/backends
sums=$ROOT/tests/tools/backends.sha256

SHELF=$CACHE/backends

# The Collector, put together by its own builder.
build_otelcol() {
    go_build go.opentelemetry.io/collector/cmd/builder ./builder
    ./builder --config builder.yaml --skip-get-modules --skip-compilation
    go_build . ./otelcol
}

# The source is a copy, so that it can be adapted; go.sum has judged the original.
build_jaeger() {
    go mod download github.com/jaegertracing/jaeger
    cp -R --no-preserve=mode "$(go list -mod=readonly -m -f '{{.Dir}}' github.com/jaegertracing/jaeger)" source
    ./adapt.sh source
    go mod edit -replace github.com/jaegertracing/jaeger=./source
    go_build github.com/jaegertracing/jaeger/cmd/jaeger ./jaeger
}

# Zipkin's server, without the storages that are servers of their own. Sets PROGRAM.
zipkin_jar() {
    local artifact=io.zipkin:zipkin-server version=3.6.1 jar
    jar=zipkin-server-$version-slim.jar
    PROGRAM=$SHELF/$jar
    [ ! -f "$PROGRAM" ] || return 0
    "$ROOT/tests/tools/doctor.sh" java mvn
    say "getting Zipkin $version"
    new_folder
    if ! mvn -q -B dependency:copy -Dartifact="$artifact:$version:jar:slim" -DoutputDirectory="$WORK" \
        </dev/null >"$WORK/log" 2>&1; then
        cat "$WORK/log" >&2
        die "cannot get $artifact $version"
    fi
    (cd "$WORK" && grep -F " $jar" "$sums" | sha256sum --quiet --strict --check >&2) ||
        die "the jar of Zipkin $version is not the pinned one"
    mv "$WORK/$jar" "$PROGRAM"
    rm -rf "$WORK"
}

# The wheel of SkyWalking's agent for Python, of which its own reader and writer of contexts are used, and nothing that
# it depends on. Sets PROGRAM.
skywalking_wheel() {
    local version=1.3.0 wheel
    wheel=apache_skywalking-$version-py3-none-any.whl
    PROGRAM=$SHELF/$wheel
    [ ! -f "$PROGRAM" ] || return 0
    "$ROOT/tests/tools/doctor.sh" python3
    say "getting SkyWalking's agent $version"
    new_folder
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$WORK" \
        "apache-skywalking==$version" </dev/null >&2 || die "cannot get the wheel apache-skywalking $version"
    (cd "$WORK" && grep -F " $wheel" "$sums" | sha256sum --quiet --strict --check >&2) ||
        die "the wheel of SkyWalking's agent $version is not the pinned one"
    mv "$WORK/$wheel" "$PROGRAM"
    rm -rf "$WORK"
}

[ $# -gt 0 ] || die "name a backend: otelcol, jaeger, zipkin, skywalking"
for name in "$@"; do
    case $name in
    otelcol | jaeger)
        go_built "$backends/$name" "$name"
        PROGRAM=$BUILT/$name
        ;;
    zipkin) zipkin_jar ;;
    skywalking) skywalking_wheel ;;
    *) die "no backend is named $name" ;;
    esac
    printf '%s\n' "$PROGRAM"
done
