#!/bin/sh
# The whole promise to C in one command: the header is fresh, the symbols are known, C99, C11 and C++17 compile, and the C
# tests and examples pass under AddressSanitizer (with leak detection) and UndefinedBehaviorSanitizer, with either library.
#
# Environment: CBINDGEN (of exactly the version that cbindgen.toml names), CC, CXX, NM, PROFILE (dev or release; dev by default).
set -eu
cd "$(dirname "$0")/../.."
pinned=$(sed -n 's/^# cbindgen \([0-9.]*\).*/\1/p' cbindgen.toml)
CBINDGEN=${CBINDGEN:-cbindgen} CC=${CC:-gcc} CXX=${CXX:-g++} NM=${NM:-nm} PROFILE=${PROFILE:-dev}
target=${CARGO_TARGET_DIR:-target}
case $PROFILE in dev) libs=$target/debug ;; *) libs=$target/$PROFILE ;; esac
libs=$(mkdir -p "$libs" && cd "$libs" && pwd)
out=$libs/c-check
export LD_LIBRARY_PATH="$libs"
mkdir -p "$out"

fail() { echo "check.sh: $*" >&2; exit 1; }

"$CBINDGEN" --version 2>/dev/null | grep -qx "cbindgen $pinned" ||
  fail "needs cbindgen $pinned: cargo install cbindgen --version $pinned --locked"
"$CBINDGEN" -q . | diff -u include/wg_embed.h - || fail "the header is stale: $CBINDGEN -o include/wg_embed.h ."

cargo build -q --lib --profile "$PROFILE"
"$NM" -D --defined-only "$libs/libwg_embed.so" | awk '{print $3}' | LC_ALL=C sort | diff -u abi/symbols.txt - ||
  fail "the exported symbols are not those of abi/symbols.txt"
while read -r name; do
  grep -q "[ *]$name(" include/wg_embed.h || fail "$name is not in the header"
done <abi/symbols.txt

warn="-Wall -Wextra -Wpedantic -Werror -Iinclude"
printf '#include "wg_embed.h"\nint main(void) { return (int)wg_version_number() == 0; }\n' >"$out/alone.c"
$CC -std=c99 $warn -fsyntax-only "$out/alone.c"
$CC -std=c11 $warn -fsyntax-only "$out/alone.c"
$CXX -std=c++17 $warn -x c++ -fsyntax-only "$out/alone.c"

sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
for source in tests/c/layout.c tests/c/keys.c tests/c/endpoint.c tests/c/bind.c tests/c/options.c tests/c/log.c \
  tests/c/tunnel.c tests/c/sockets.c tests/c/resolve.c tests/c/events.c tests/c/stats.c tests/c/memory.c \
  tests/c/reentry.c tests/c/bring.c tests/c/lossy.c examples/c/*.c; do
  test=$(basename "$source" .c)
  case $test in layout | sockets) std=c11 ;; *) std=c99 ;; esac
  for kind in so a; do
    case $kind in
    so) link="-L$libs -lwg_embed -Wl,-rpath,$libs" ;;
    a) link="$libs/libwg_embed.a -lgcc_s -lutil -lrt -lm -ldl" ;;
    esac
    $CC -std=$std $warn $sanitize -pthread "$source" -o "$out/$test-$kind" $link
    "$NM" "$out/$test-$kind" | grep -q __asan_init || fail "AddressSanitizer is not in $test-$kind"
    "$NM" "$out/$test-$kind" | grep -q __ubsan_handle || fail "UndefinedBehaviorSanitizer is not in $test-$kind"
    ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 \
      "$out/$test-$kind" >"$out/$test-$kind.txt" || fail "$test-$kind"
  done
done
echo "all C checks pass"
