#!/usr/bin/env bash
# check.sh [all | update]: what libwg_embed_jni.so needs of a phone: whether it links against the names of API 24
# (link.sh), imports what abi/imports-android.txt has, exports the C functions and JNI_OnLoad, and has its name, and
# segments that devices with pages of 16 KiB load. It prints the sizes.
#
#   check.sh          arm64-v8a alone, as in .ci/run: each ABI takes more than a minute
#   check.sh all      all ABIs
#   check.sh update   the same, and writes abi/imports-android.txt
#
# Needs clang, lld, llvm, rustup, and python3 with pip, which fetches the sources of libunwind (ziglang on PyPI).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/android/ndkless list=abi/imports-android.txt zig=0.17.1
mkdir -p "$out"
fail() { echo "check.sh: $*" >&2; exit 1; }

if [ -z "${ZIG:-}" ]; then
  export ZIG=$out/zig/ziglang
  [ -d "$ZIG" ] || {
    python3 -m pip download -q --no-deps -d "$out" "ziglang==$zig" || { echo "skipped: there is no ziglang"; exit 0; }
    python3 -m zipfile -e "$out"/ziglang-*.whl "$out/zig"
  }
fi
abis=(arm64-v8a=aarch64-linux-android)
[ -z "${1:-}" ] ||
  abis+=(armeabi-v7a=armv7-linux-androideabi x86=i686-linux-android x86_64=x86_64-linux-android)
: >"$out/imports"
for pair in "${abis[@]}"; do
  abi=${pair%%=*} rust=${pair#*=}
  if ! rustup target add "$rust" >"$out/rustup.log" 2>&1; then
    echo "skipped: $abi: $(grep -im 1 error "$out/rustup.log")"
    continue
  fi
  android/ndkless/link.sh "$rust" "$out/$rust"
  library=$target/$rust/release/libwg_embed_jni.so
  # Weak ones may be missing.
  llvm-readelf --dyn-syms -W "$library" | awk -v abi="$abi" '$7 == "UND" && $8 != "" {
    sub(/@.*/, "", $8); print abi, $8 ($5 == "WEAK" ? " weak" : "") }' | LC_ALL=C sort >>"$out/imports"
  llvm-readelf --dyn-syms -W "$library" | awk '$7 != "UND" && $5 == "GLOBAL" { print $8 }' | LC_ALL=C sort |
    diff <(LC_ALL=C sort abi/symbols.txt <(echo JNI_OnLoad)) - || fail "$abi exports something else"
  # All of them, though only 64-bit devices have such pages.
  ! llvm-readelf -lW "$library" | awk '$1 == "LOAD" { print $NF }' | grep -vq 0x4000 || fail "$abi is not aligned"
  llvm-readelf -d "$library" | grep -q 'soname: \[libwg_embed_jni.so\]' || fail "$abi has no name"
  llvm-strip --strip-all -o "$out/$rust/stripped.so" "$library"
  echo "$abi: $(stat -c %s "$out/$rust/stripped.so") bytes stripped"
done
if [ "${1:-}" = update ]; then
  [ "$(cut -d ' ' -f 1 "$out/imports" | sort -u | wc -l)" = "${#abis[@]}" ] || fail "not all ABIs were linked"
  cp "$out/imports" "$list"
else
  # Of the ABIs that were linked.
  grep -f <(cut -d ' ' -f 1 "$out/imports" | sort -u | sed 's/.*/^& /') "$list" | diff - "$out/imports" ||
    fail "$list is another: newer names need a look at bionic's libc.map.txt"
fi
echo "ok: imports of each ABI"
