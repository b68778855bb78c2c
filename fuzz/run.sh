#!/usr/bin/env bash
# Builds all fuzz targets with AddressSanitizer and runs each of them for a bounded time, two at a time. They begin with
# the inputs in corpus/ and with seeds (src/bin/seeds.rs). `cargo fuzz run TARGET` runs one of them without an end.
#
#   fuzz/run.sh [TARGET...]
#   fuzz/run.sh keep [TARGET...]    also replaces corpus/TARGET by a few inputs that reach much
#
# It needs a nightly toolchain and a C++ compiler; without the former it prints that it is skipped.
#
# SECONDS_EACH  the time for each target; default: 20
# RUNS          the most inputs for each target; default: no limit
# JOBS          the number of targets at a time; default: 2
# CORPUS        where inputs that reach new code are kept for the next run; default: a temporary directory
set -euo pipefail
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
# The most that corpus/ has for a target: inputs, and bytes of one.
most_inputs=40 longest=512

if ! rustup run nightly rustc --version >/dev/null 2>&1 &&
    ! rustup toolchain install nightly --profile minimal >/dev/null 2>&1; then
    echo "skipped: fuzzing needs a nightly toolchain, and there is none to be had"
    exit 0
fi
keep=
if [ "${1:-}" = keep ]; then keep=1 && shift; fi
# shellcheck disable=SC2046 # Names without spaces.
[ $# -gt 0 ] || set -- $(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' Cargo.toml)

# As cargo-fuzz does it: coverage, and the checks of a debug build.
export RUSTFLAGS="-Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-../target}/fuzz" CARGO_INCREMENTAL=0
# clang's own libFuzzer saves the time to compile another one.
if [ -z "${CUSTOM_LIBFUZZER_PATH:-}" ] && command -v clang >/dev/null; then
    library=$(clang -print-runtime-dir)/libclang_rt.fuzzer-$(uname -m).a
    if [ -e "$library" ]; then export CUSTOM_LIBFUZZER_PATH="$library"; fi
fi
cargo +nightly build -q --locked --release --target "$host" --bins
programs=$CARGO_TARGET_DIR/$host/release

corpus=${CORPUS:-$(mktemp -d)}
[ -n "${CORPUS:-}" ] || trap 'rm -rf "$corpus"' EXIT
"$programs/seeds" "$corpus"

# run_one TARGET: new inputs go to the first directory. One allocation of more than 64 MB is a failure.
run_one() {
    local log=$CARGO_TARGET_DIR/$1.log
    mkdir -p "$corpus/$1" "corpus/$1"
    if ! "$programs/$1" -seed=1 -runs="${RUNS:--1}" -max_total_time="${SECONDS_EACH:-20}" -max_len=4096 \
        -rss_limit_mb=1024 -malloc_limit_mb=64 -timeout=60 -artifact_prefix="$CARGO_TARGET_DIR/$1-" \
        -print_final_stats=1 "$corpus/$1" "corpus/$1" >"$log" 2>&1; then
        tail -n 60 "$log"
        return 1
    fi
    echo "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs," \
        "$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d ' ' -f 2) places reached"
}

# keep_one TARGET: of the fewest inputs that reach all that was reached, the longest ones, which reach the most. Inputs
# with names of their own, which once failed, stay.
keep_one() {
    local kept
    kept=$(mktemp -d)
    "$programs/$1" -set_cover_merge=1 -max_len="$longest" "$kept" "$corpus/$1" "corpus/$1" \
      >"$CARGO_TARGET_DIR/$1.log" 2>&1
    find "corpus/$1" -type f -regextype egrep -regex '.*/[0-9a-f]{40}' -delete
    find "$kept" -type f -printf '%s %p\n' | sort -rn | sed -n "1,${most_inputs}p" | cut -d ' ' -f 2 |
        xargs -r cp -t "corpus/$1"
    rm -rf "$kept"
}

export -f run_one
export corpus programs
printf '%s\n' "$@" | xargs -n 1 -P "${JOBS:-2}" bash -c 'run_one "$1"' _
if [ -n "$keep" ]; then
    for target; do keep_one "$target"; done
fi
