#!/bin/sh
# The whole promise to C in one command: the header is fresh, the symbols are known, C99, C11 and C++11 to C++20 compile, and
# the C and C++ tests, the examples and what docs/C_API.md shows pass under AddressSanitizer (with leak detection) and
# UndefinedBehaviorSanitizer, with either library; the last of them under valgrind as well.
#
# The library is as it is shipped here: sanitizers see what it allocates, frees and copies, but not its own loads and stores.
# tests/c/instrumented.sh is for those.
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
. tests/c/finds.sh

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
for std in c++11 c++17 c++20; do
  $CXX -std=$std $warn -x c++ -fsyntax-only "$out/alone.c"
done

sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1

# The sanitizers are there, and find what they are for.
$CC -std=c11 $warn $sanitize -pthread tests/c/broken.c -o "$out/broken" "-L$libs" -lwg_embed
timeout 60 "$out/broken" none || fail "what is not broken is reported"
finds "$out/broken" overflow heap-buffer-overflow
finds "$out/broken" freed heap-use-after-free
finds "$out/broken" leak LeakSanitizer
finds "$out/broken" number "signed integer overflow"

# What the document shows, as it shows it.
tests/c/snippets.sh "$out/snippets"

for source in tests/c/*.c tests/c/*.cpp examples/c/*.c "$out"/snippets/*.c; do
  test=$(basename "$source" | sed 's/\.c.*//')
  case $source in
  */broken.c) continue ;;
  */snippets/*) compiler="$CC -std=gnu11" ;;
  */layout.c | */sockets.c | */fuzz.c) compiler="$CC -std=c11" ;;
  *.cpp) compiler="$CXX -std=c++17" ;;
  *) compiler="$CC -std=c99" ;;
  esac
  for kind in so a; do
    case $kind in
    so) link="-L$libs -lwg_embed -Wl,-rpath,$libs" ;;
    a) link="$libs/libwg_embed.a -lgcc_s -lutil -lrt -lm -ldl" ;;
    esac
    $compiler $warn $sanitize -pthread "$source" -o "$out/$test-$kind" $link
    "$NM" "$out/$test-$kind" | grep -q __asan_init || fail "AddressSanitizer is not in $test-$kind"
    # Of one that has nothing to check there is nothing to see.
    [ "$test" = version ] || "$NM" "$out/$test-$kind" | grep -q __ubsan_handle || fail "UndefinedBehaviorSanitizer is not in $test-$kind"
    case $test-$kind in
    cycles-a) continue ;; # once is enough
    esac
    timeout 300 "$out/$test-$kind" >"$out/$test-$kind.txt" || fail "$test-$kind"
  done
done
cat "$out/fuzz-so.txt" "$out/cycles-so.txt"

# Without sanitizers, which keep freed memory, what the process takes shows.
$CC -std=c99 $warn -g -pthread tests/c/cycles.c -o "$out/cycles" "-L$libs" -lwg_embed
timeout 300 "$out/cycles" || fail "cycles"
if command -v valgrind >/dev/null; then
  # Blocks of which a pointer to their middle is left ("possible") are Rust's `Arc`s.
  GLIBC_TUNABLES= timeout 300 valgrind -q --leak-check=full --show-leak-kinds=definite,indirect \
    --errors-for-leak-kinds=definite,indirect --error-exitcode=9 "$out/cycles" 200 || fail "cycles under valgrind"
else
  echo "skipped: there is no valgrind"
fi
echo "all C checks pass"
