#!/bin/sh
# The C tests with AddressSanitizer, then with ThreadSanitizer, in the library as well: Rust, its standard library and C
# are all instrumented, with the userspace network. (tests/c/check.sh instruments C only: there the library's own memory
# is watched, its accesses are not.)
#
# It needs a nightly toolchain with rust-src; without one it says that it is skipped.
#
# Environment: CC, NM, SECONDS_TO_FUZZ (25), SECONDS_TO_FUZZ_NET (5), KINDS ("address thread").
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-gcc} NM=${NM:-nm} KINDS=${KINDS:-address thread}
target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')

fail() { echo "instrumented.sh: $*" >&2; exit 1; }
. tests/c/finds.sh

if ! rustup component add --toolchain nightly rust-src >/dev/null 2>&1 &&
  ! rustup toolchain install nightly --profile minimal -c rust-src >/dev/null 2>&1; then
  echo "skipped: instrumenting Rust needs a nightly toolchain with rust-src, and there is none to be had"
  exit 0
fi
runtimes=$(rustc +nightly --print sysroot)/lib/rustlib/$host/lib

for kind in $KINDS; do
  case $kind in address) short=asan ;; thread) short=tsan ;; esac
  build=$target/$short
  libraries=$(mkdir -p "$build/$host/debug" && cd "$build/$host/debug" && pwd)

  # library PACKAGE NAME ARGUMENTS...: builds its shared library, which each program links in a tenth of the time that
  # the static one takes.
  library() {
    library=$2
    package=$1
    shift 2
    RUSTFLAGS="-Zsanitizer=$kind" CARGO_TARGET_DIR=$build cargo +nightly build -q -Zbuild-std --target "$host" \
      --package "$package" "$@"
    "$NM" -D "$libraries/lib$library.so" | grep -q "U __${short}_" || fail "the library is not instrumented"
  }
  library wg-embed-capi wg_embed --features netstack,control
  out=$build/c-check
  mkdir -p "$out"
  runtime=$runtimes/librustc-nightly_rt.$short.a

  # make PROGRAM SOURCE: C by the C compiler, the runtime by Rust's, whose instrumentation may be newer.
  make() {
    $CC -std=c11 -Wall -Wextra -Wpedantic -Werror -Iinclude -DWG_EMBED_NETSTACK -DWG_EMBED_CONTROL -g \
      -fno-omit-frame-pointer \
      -fsanitize=$kind -pthread -c "$2" -o "$1.o"
    $CC "$1.o" -o "$1" -Wl,--export-dynamic -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive \
      "-L$libraries" "-l$library" "-Wl,-rpath,$libraries" -lpthread -lrt -ldl -lm -lutil -lgcc_s
    "$NM" "$1" | grep -q "T __${short}_init" || fail "the sanitizer is not in $1"
  }

  export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 TSAN_OPTIONS=halt_on_error=1
  make "$out/broken" tests/c/broken.c
  timeout 60 "$out/broken" none || fail "what is not broken is reported"
  case $kind in
  address)
    finds "$out/broken" overflow heap-buffer-overflow
    finds "$out/broken" leak LeakSanitizer
    finds "$out/broken" short-key heap-buffer-overflow
    ;;
  thread)
    finds "$out/broken" race "data race"
    finds "$out/broken" key-race "data race"
    ;;
  esac

  # run SOURCE ARGUMENTS...
  tests=0
  run() {
    test=$(basename "$1" .c)
    make "$out/$test" "$1"
    shift
    timeout 300 "$out/$test" "$@" >"$out/$test.txt" || fail "$test with the $kind sanitizer"
    tests=$((tests + 1))
  }
  for source in tests/c/*.c examples/c/*.c; do
    case $source in
    # A sanitizer takes address space of its own, and ends the process when there is none (shortage.c).
    # The stack of an instrumented library is deeper than that of one that ships, and not all in one place.
    */layout.c | */broken.c | */secrets.c | */shortage.c | */compat_*) ;;
    # These take long, and what they are for check.sh sees as well; the programs that are shown do nothing else.
    */net_limits.c | examples/c/net_*) ;;
    */net_errors.c | */net_ends.c) [ "$kind" = address ] || run "$source" ;;
    # ThreadSanitizer has no threads in a child.
    */fork.c | */exit.c) [ "$kind" = thread ] || run "$source" ;;
    */net_fuzz.c) run "$source" 20261129 "${SECONDS_TO_FUZZ_NET:-5}" ;;
    */fuzz.c) run "$source" 20261122 "${SECONDS_TO_FUZZ:-25}" ;;
    */net_cycles.c) [ "$kind" = address ] || run "$source" 3 30 ;;
    */cycles.c) run "$source" 500 ;;
    *) run "$source" ;;
    esac
  done
  for leaf in apple mullvad; do
    library "wg-embed-$leaf" "wg_embed_$leaf"
    run "tests/c/compat_$leaf.c"
  done
  echo "$kind sanitizer in C and Rust: $tests programs"
  cat "$out/fuzz.txt" "$out/net_fuzz.txt" "$out/cycles.txt"
done
