#!/bin/sh
# Builds all fuzz targets with AddressSanitizer and runs each of them for a bounded number of inputs, beginning with
# seeds (src/bin/seeds.rs). `cargo fuzz run TARGET` runs one of them without an end.
#
#   fuzz/run.sh [TARGET...]
#
# It needs a nightly toolchain and a C++ compiler; without the former it prints that it is skipped.
#
# RUNS          inputs for each target; default: 20000
# SECONDS_EACH  the longest time for each target, after which it ends well; default: 12
# CORPUS        where inputs that reach new code are kept for the next run; default: a temporary directory
set -eu
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')

if ! rustup run nightly rustc --version >/dev/null 2>&1 &&
    ! rustup toolchain install nightly --profile minimal >/dev/null 2>&1; then
    echo "skipped: fuzzing needs a nightly toolchain, and there is none to be had"
    exit 0
fi
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
failed=0
for target; do
    log=$CARGO_TARGET_DIR/$target.log
    if "$programs/$target" -seed=1 -runs="${RUNS:-20000}" -max_total_time="${SECONDS_EACH:-12}" -max_len=4096 \
        -rss_limit_mb=2048 -timeout=60 -artifact_prefix="$CARGO_TARGET_DIR/$target-" -print_final_stats=1 \
        "$corpus/$target" >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs," \
            "$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d ' ' -f 2) places reached"
    else
        tail -n 60 "$log"
        failed=1
    fi
done
exit $failed
