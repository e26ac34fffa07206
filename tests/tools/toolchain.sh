# shellcheck shell=bash
# Chooses the compiler for a wasm target; sourced after common.sh.
#
# Two compilers can do it: the one on the path, if it has (or rustup can add) the target's standard library,
# or Debian's rustc-web, which builds the standard library from its own source package.
# MESHWEFT_WASM_TOOLCHAIN=path|debian insists on one of them.

DEBIAN_PACKAGES=(cargo-web libstd-rust-web-dev lld-19 rust-web-src rustc-web wasi-libc)
DEBIAN_SOURCES=/usr/lib/rustlib/src/rust

path_has_target() {
    local sysroot
    sysroot=$(rustc --print sysroot 2>/dev/null) || return 1
    [ -n "$(find "$sysroot/lib/rustlib/$1/lib" -name 'libstd-*.rlib' -print -quit 2>/dev/null)" ]
}

debian_complete() {
    [ -d "$DEBIAN_SOURCES/library/std" ] && [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && command -v wasm-ld-19 >/dev/null &&
        [ -e /usr/lib/wasm32-wasi/libc.a ] && /usr/bin/rustc --version | grep -q '^rustc 1\.9[5-9]\.'
}

rustup_add() {
    command -v rustup >/dev/null || return 1
    say "rustup target add $1"
    timeout 120 rustup --quiet target add "$1" >/dev/null 2>&1 </dev/null && path_has_target "$1"
}

choose_toolchain() {
    local target=$1
    case ${MESHWEFT_WASM_TOOLCHAIN:-any} in
    path) path_has_target "$target" || rustup_add "$target" || die "the compiler on the path has no $target" && echo path ;;
    debian) debian_complete || apt_install "${DEBIAN_PACKAGES[@]}" || die "install ${DEBIAN_PACKAGES[*]}" && echo debian ;;
    any)
        if path_has_target "$target"; then
            echo path
        elif debian_complete; then
            echo debian
        elif rustup_add "$target"; then
            echo path
        elif apt_install "${DEBIAN_PACKAGES[@]}" && debian_complete; then
            echo debian
        else
            die "no compiler for $target: run \`rustup target add $target\`, or as root \`apt-get install ${DEBIAN_PACKAGES[*]}\` (Debian 12 or newer)"
        fi
        ;;
    *) die "MESHWEFT_WASM_TOOLCHAIN is path or debian" ;;
    esac
}

# use_wasm_toolchain TARGET: sets CARGO_WASM (the command) and CARGO_WASM_FLAGS, and exports what cargo reads.
# With `--reproducible` no path of this machine goes into a module, so that a build elsewhere gives the same bytes; and no more bytes than it needs.
use_wasm_toolchain() {
    local target=$1 toolchain linker path
    local rustflags=() sources=() cargo_home=${CARGO_HOME:-$HOME/.cargo}
    toolchain=$(choose_toolchain "$target")
    CARGO_WASM_FLAGS=(--locked --target "$target")
    if [ "$toolchain" = debian ]; then
        CARGO_WASM=/usr/bin/cargo
        CARGO_WASM_FLAGS+=(-Z "build-std=std,panic_abort")
        linker=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
        export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1 "$linker=wasm-ld-19"
        [ "$target" != wasm32-wasip1 ] || rustflags+=(-L native=/usr/lib/wasm32-wasi)
        sources=("$DEBIAN_SOURCES" "$(realpath "$DEBIAN_SOURCES")")
    else
        CARGO_WASM=${CARGO:-cargo}
        sources=("$(rustc --print sysroot)/lib/rustlib/src/rust")
    fi

    if [ "${2:-}" = --reproducible ]; then
        # The registry's folder must exist before its name can be replaced.
        "$CARGO_WASM" fetch --locked --quiet </dev/null
        # The linker leaves five bytes for each number that it fills in, unless it is told not to.
        rustflags+=(-C link-arg=--compress-relocations)
        # The last prefix that fits wins.
        rustflags+=("--remap-path-prefix=$ROOT=/meshweft" "--remap-path-prefix=$cargo_home=/cargo")
        for path in "$cargo_home"/registry/src/*/; do
            rustflags+=("--remap-path-prefix=${path%/}=/crates")
        done
        for path in "${sources[@]}"; do
            rustflags+=("--remap-path-prefix=$path=/rust")
        done
    fi
    # Flags of the user's own would make another module; this variable outranks all other places for them.
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${rustflags[*]}")
    export CARGO_ENCODED_RUSTFLAGS
    # The two compilers keep apart folders, and neither rebuilds what a plain `cargo` has built.
    export CARGO_TARGET_DIR=$TARGET_DIR/wasm/$toolchain
    say "$target with $("${RUSTC:-rustc}" --version | cut -d' ' -f1-2) ($toolchain)"
}
