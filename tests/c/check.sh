#!/bin/sh
# Everything that is promised to C in one command: the header is fresh, the symbols are known, C99, C11 and C++11 to
# C++20 compile, and the C and C++ tests, the examples and the programs of README.md and docs/C_API.md pass under
# AddressSanitizer (with leak detection) and UndefinedBehaviorSanitizer, the shown programs with either library; some
# under valgrind as well. The compatibility libraries (docs/COMPAT.md) are checked at the end.
#
# The library is as it is shipped here: sanitizers see what it allocates, frees and copies, but not its own loads and
# stores. tests/c/instrumented.sh is for those.
#
# Environment: CBINDGEN (of exactly the version that cbindgen.toml names), CC, CXX, NM, PROFILE (dev or release; dev by
# default).
set -eu
cd "$(dirname "$0")/../.."
CBINDGEN=${CBINDGEN:-cbindgen} CC=${CC:-gcc} CXX=${CXX:-g++} NM=${NM:-nm} PROFILE=${PROFILE:-dev}
target=${CARGO_TARGET_DIR:-target}
case $PROFILE in dev) libs=$target/debug ;; *) libs=$target/$PROFILE ;; esac
libs=$(mkdir -p "$libs" && cd "$libs" && pwd)
out=$libs/c-check
mkdir -p "$out"

fail() { echo "check.sh: $*" >&2; exit 1; }
. tests/c/finds.sh

CBINDGEN=$CBINDGEN capi/header.sh >"$out/wg_embed.h" || fail "there is no header to compare with"
diff -u include/wg_embed.h "$out/wg_embed.h" || fail "the header is stale: capi/header.sh >include/wg_embed.h"

cargo build -q -p wg-embed-capi --profile "$PROFILE"
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
# Beside another library's header, in either order; the program runs with the others.
for order in OURS_FIRST OURS_LAST; do
  $CC -std=c99 $warn -D$order -fsyntax-only tests/c/wireguard_tools.c
  $CXX -std=c++11 $warn -D$order -x c++ -fsyntax-only tests/c/wireguard_tools.c
done

sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1

# The sanitizers are there, and find what they are for.
$CC -std=c11 $warn $sanitize -pthread tests/c/broken.c -o "$out/broken" "-L$libs" -lwg_embed "-Wl,-rpath,$libs"
timeout 60 "$out/broken" none || fail "what is not broken is reported"
finds "$out/broken" overflow heap-buffer-overflow
finds "$out/broken" freed heap-use-after-free
finds "$out/broken" leak LeakSanitizer
finds "$out/broken" number "signed integer overflow"

# The programs of the documents, as they stand there.
tests/c/snippets.sh "$out/snippets"

# c_test SOURCE COMPILER [NAME]: with the shared library of this name in $libs. The programs of the documents and the
# examples are linked with the static one as well: it is the same code.
c_test() {
  name=${3:-wg_embed}
  test=$(basename "$1" | sed 's/\.c.*//')
  case $1 in
  examples/* | */snippets/* | *.cpp | */compat_*) kinds="so a" ;;
  *) kinds=so ;;
  esac
  # Without sanitizers it runs for longer, below.
  case $test in cycles) arguments=500 ;; *) arguments= ;; esac
  # Without debug information programs are linked in a third of the time.
  small=$out/lib$name.a
  [ "$small" -nt "$libs/lib$name.a" ] || strip -g -o "$small" "$libs/lib$name.a"
  for kind in $kinds; do
    case $kind in
    so) link="-L$libs -l$name -Wl,-rpath,$libs" ;;
    a) link="$small -lgcc_s -lutil -lrt -lm -ldl" ;;
    esac
    $2 $warn $sanitize -pthread "$1" -o "$out/$test-$kind" $link
    "$NM" "$out/$test-$kind" | grep -q __asan_init || fail "AddressSanitizer is not in $test-$kind"
    # Of those that have nothing to check there is nothing to see.
    case $test in
    version | shown) ;;
    *) "$NM" "$out/$test-$kind" | grep -q __ubsan_handle || fail "UndefinedBehaviorSanitizer is not in $test-$kind" ;;
    esac
    LD_LIBRARY_PATH=$libs timeout 300 "$out/$test-$kind" $arguments >"$out/$test-$kind.txt" || fail "$test-$kind"
    sed -n "s/^skipped/$test: skipped/p" "$out/$test-$kind.txt"
  done
}

for source in tests/c/*.c tests/c/*.cpp examples/c/*.c "$out"/snippets/*.c; do
  case $source in
  */broken.c | */shortage.c | */compat_* | */net* | */wireproto.c | */manager.c) continue ;;
  */snippets/*) compiler="$CC -std=gnu11" ;;
  */layout.c | */sockets.c | */fuzz.c) compiler="$CC -std=c11" ;;
  *.cpp) compiler="$CXX -std=c++17" ;;
  *) compiler="$CC -std=c99" ;;
  esac
  c_test "$source" "$compiler"
done
cat "$out/fuzz-so.txt"

# Without sanitizers, which take address space of their own, there can be too little of it.
$CC -std=c99 $warn -g -pthread tests/c/shortage.c -o "$out/shortage" "-L$libs" -lwg_embed "-Wl,-rpath,$libs"
timeout 300 "$out/shortage" || fail "shortage"

# Without sanitizers, which keep freed memory, what the process takes shows.
$CC -std=c99 $warn -g -pthread tests/c/cycles.c -o "$out/cycles" "-L$libs" -lwg_embed "-Wl,-rpath,$libs"
timeout 300 "$out/cycles" || fail "cycles"
if command -v valgrind >/dev/null; then
  # Blocks of which a pointer to their middle is left ("possible") are Rust's `Arc`s.
  GLIBC_TUNABLES= timeout 300 valgrind -q --leak-check=full --show-leak-kinds=definite,indirect \
    --errors-for-leak-kinds=definite,indirect --error-exitcode=9 "$out/cycles" 200 || fail "cycles under valgrind"
else
  echo "skipped: there is no valgrind"
fi

# With the userspace network, control calls and managers: the same, and the functions for them.
(
  # In place of the library without it, which was tested above.
  cargo build -q -p wg-embed-capi --features netstack,control --profile "$PROFILE"
  LC_ALL=C sort abi/symbols.txt abi/symbols-netstack.txt abi/symbols-control.txt >"$out/symbols-netstack.txt"
  "$NM" -D --defined-only "$libs/libwg_embed.so" | awk '{print $3}' | LC_ALL=C sort |
    diff -u "$out/symbols-netstack.txt" - ||
    fail "the exported symbols are not those of abi/symbols.txt, abi/symbols-netstack.txt and abi/symbols-control.txt"
  cat abi/symbols-netstack.txt abi/symbols-control.txt | while read -r name; do
    grep -q "[ *]$name(" include/wg_embed.h || fail "$name is not in the header"
  done
  warn="$warn -DWG_EMBED_NETSTACK -DWG_EMBED_CONTROL"
  for source in tests/c/net*.c tests/c/wireproto.c tests/c/manager.c tests/c/layout.c tests/c/sizes.c \
    tests/c/reentry.c tests/c/descriptors.c examples/c/net*.c "$out"/snippets/net*.c; do
    case $source in
    */snippets/*) compiler="$CC -std=gnu11" ;;
    */layout.c | */net_fuzz.c) compiler="$CC -std=c11" ;;
    *) compiler="$CC -std=c99" ;;
    esac
    c_test "$source" "$compiler"
  done
  cat "$out/net_fuzz-so.txt"
  # 10,000 connections, without sanitizers.
  $CC -std=c99 $warn -g -pthread tests/c/net_cycles.c -o "$out/net_cycles" "-L$libs" -lwg_embed "-Wl,-rpath,$libs"
  timeout 300 "$out/net_cycles" 20 500 || fail "net_cycles"
  if command -v valgrind >/dev/null; then
    for test in net_errors net_ends net_proxies; do
      $CC -std=c99 $warn -g -pthread "tests/c/$test.c" -o "$out/$test" "-L$libs" -lwg_embed "-Wl,-rpath,$libs"
      GLIBC_TUNABLES= timeout 300 valgrind -q --leak-check=full --show-leak-kinds=definite,indirect \
        --errors-for-leak-kinds=definite,indirect --error-exitcode=9 "$out/$test" || fail "$test under valgrind"
    done
  fi
)

# The libraries with functions of other ones.
for leaf in android apple mullvad; do
  case $leaf in
  android) source=android/src/go.rs ;;
  apple) source=apple/src/lib.rs ;;
  mullvad) source=compat/mullvad/src/lib.rs ;;
  esac
  "$CBINDGEN" -q -c "abi/compat-$leaf.toml" "$source" | diff -u "include/compat/$leaf.h" - ||
    fail "the header is stale: $CBINDGEN -c abi/compat-$leaf.toml -o include/compat/$leaf.h $source"
  for std in c99 c11; do $CC -std=$std $warn -x c -fsyntax-only "include/compat/$leaf.h"; done
  $CXX -std=c++17 $warn -x c++ -fsyntax-only -include "include/compat/$leaf.h" /dev/null
  # What a header says of the length of an array is no part of the type.
  names="$CC -std=c11 $warn -Wno-array-parameter -fsyntax-only tests/c/compat_${leaf}_names.c"
  $names
  if $names -DDIFFERS 2>/dev/null; then fail "a declaration that differs was not noticed in compat_${leaf}_names.c"; fi

  cargo build -q -p "wg-embed-$leaf" --profile "$PROFILE"
  "$NM" -D --defined-only "$libs/libwg_embed_$leaf.so" | awk '{print $3}' | LC_ALL=C sort >"$out/symbols-$leaf.txt"
  LC_ALL=C sort abi/symbols.txt "abi/symbols-compat-$leaf.txt" | diff -u - "$out/symbols-$leaf.txt" ||
    fail "the exported symbols are not those of abi/symbols.txt and abi/symbols-compat-$leaf.txt"
  c_test "tests/c/compat_$leaf.c" "$CC -std=c11" "wg_embed_$leaf"
done
echo "all C checks pass"
