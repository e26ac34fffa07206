# shellcheck shell=bash
# Programs built from Go modules that a committed go.sum pins; sourced after common.sh.

# The environment must not bend the build: no other modules, no newer toolchain, no C.
export GOWORK=off GOTOOLCHAIN=local CGO_ENABLED=0

# go_build PACKAGE OUTPUT [FLAG…]: a program of the module in $PWD, just as its go.mod and go.sum say.
go_build() { go build -mod=readonly -trimpath -buildvcs=false -ldflags '-s -w' "${@:3}" -o "$2" "$1"; }

# new_folder: sets WORK to a folder in $SHELF that goes with this script.
new_folder() {
    mkdir -p "$SHELF"
    WORK=$(mktemp -d "$SHELF/.new.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
}

# go_built SOURCE FILE…: sets BUILT to a folder with these files, which the function build_NAME makes in a copy of
# the folder SOURCE, whose last part is NAME; once: a change of what is in SOURCE makes another folder.
go_built() {
    local source=$1 name=${1##*/} key log
    log=$SHELF/$name.log
    key=$(cd "$source" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 cat -- | sha256sum | cut -c1-12)
    BUILT=$SHELF/$name-$key
    [ ! -d "$BUILT" ] || return 0
    "$ROOT/tests/tools/doctor.sh" go
    say "building $name (once, 3 to 15 minutes)"
    new_folder
    # A child of its own, as `set -e` does not hold where a failure is looked at.
    (cd "$WORK" && cp -R "$source"/. . && "build_${name//[-.]/_}") >"$log" 2>&1 </dev/null &
    if ! wait $!; then
        tail -n 20 "$log" >&2
        die "cannot build $name; all of it is in $log"
    fi
    mkdir "$WORK/.built"
    (cd "$WORK" && mv "${@:2}" .built)
    # Whoever was first, where two build at once.
    mv -T "$WORK/.built" "$BUILT" 2>/dev/null || [ -d "$BUILT" ]
    rm -rf "$WORK"
}
