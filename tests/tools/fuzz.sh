#!/usr/bin/env bash
# fuzz.sh [TARGET…]: runs the fuzz targets of tests/fuzz, FUZZ_SECONDS (30) each, from the committed inputs.
# With FUZZ_RUNS it makes so many executions instead, the same in every run: for CI, which is not there to find.
# New inputs that reach new code are kept in the cache; one that fails is left in tests/fuzz/regressions, to be
# committed with the fix.
source "$(dirname "$0")/common.sh"
seconds=${FUZZ_SECONDS:-30}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "FUZZ_SECONDS is a number of seconds, not \"$seconds\""
[[ ${FUZZ_RUNS:-1} =~ ^[1-9][0-9]*$ ]] || die "FUZZ_RUNS is a number of executions, not \"$FUZZ_RUNS\""
[ $# -gt 0 ] || set -- answer config headers keep

"$ROOT/tests/tools/doctor.sh" cargo
need c++ "libFuzzer is C++ (Debian: apt-get install g++)"
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes for `--sanitizer none`. All of it is stable: safe Rust has no need of a sanitizer, and so
# no nightly compiler is needed either.
flags=(--cfg fuzzing -C passes=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=(-C "llvm-args=-sanitizer-coverage-$option")
done
# A target given by name keeps these flags from build scripts.
say "building"
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}") CARGO_TARGET_DIR=$TARGET_DIR/fuzz \
    "${CARGO:-cargo}" build --quiet --locked --release --target "$host" --manifest-path tests/fuzz/Cargo.toml </dev/null

failed=()
for target; do
    binary=$TARGET_DIR/fuzz/$host/release/$target
    [ -x "$binary" ] || die "there is no fuzz target $target"
    found=$CACHE/fuzz/$target
    bound=(-max_total_time="$seconds")
    if [ -n "${FUZZ_RUNS:-}" ]; then
        found=$TARGET_DIR/fuzz/$target
        rm -rf "$found"
        bound=(-runs="$FUZZ_RUNS" -seed=1)
    fi
    committed=(tests/fuzz/corpus/"$target" tests/fuzz/regressions/"$target")
    mkdir -p "$found" "${committed[@]}"
    dictionary=()
    [ ! -f "tests/fuzz/$target.dict" ] || dictionary=(-dict="tests/fuzz/$target.dict")
    log=$found.log
    # The first folder takes what is new.
    if "$binary" "${bound[@]}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 "${dictionary[@]}" \
        -artifact_prefix="tests/fuzz/regressions/$target/" "$found" "${committed[@]}" >"$log" 2>&1 </dev/null; then
        runs=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$log")
        [ "${runs:-0}" -gt 0 ] || die "$target did not run: $log"
        say "$target: $runs executions, $(find "$found" -type f | wc -l) inputs kept, nothing found"
    else
        grep -A3 'panicked at' "$log" | cut -c1-2000 >&2 || tail -n 20 "$log" >&2
        sed -n 's/.*Test unit written to /the input is in /p' "$log" >&2
        failed+=("$target")
    fi
done
[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
