#!/usr/bin/env bash
# link.sh TARGET OUT: links libwg_embed_jni.so for Android without an NDK, to see what it needs of a phone. Its libc,
# libdl, libm and liblog are stand-ins that export the names in symbols.txt and nothing else, all of which API 24 has,
# so a newer one fails to link. What it makes was never loaded by Android: a release is built with the NDK (README.md).
#
# TARGET  aarch64-linux-android, armv7-linux-androideabi, x86_64-linux-android or i686-linux-android
# OUT     a folder for what is made on the way
# ZIG     a folder with lib/libunwind and lib/libc of Zig, of the Python package ziglang: LLVM's libunwind and C headers
#
# Needs clang, lld, llvm-ar and rustup.
set -euo pipefail
target=$1 out=$(realpath -m "$2") zig=$(realpath "$ZIG") api=24
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case $target in
  aarch64-linux-android) clang=aarch64-linux-android$api musl=aarch64-linux-musl word=.quad ;;
  armv7-linux-androideabi) clang=armv7a-linux-androideabi$api musl=arm-linux-musl word=.word ;;
  x86_64-linux-android) clang=x86_64-linux-android$api musl=x86_64-linux-musl word=.quad ;;
  i686-linux-android) clang=i686-linux-android$api musl=x86-linux-musl word=.long ;;
  *) echo "link.sh: $target is no target of Android" >&2; exit 2 ;;
esac
lib=$out/sysroot/usr/lib
mkdir -p "$lib" "$out/unwind"
cc=(clang "--target=$clang")

stand_in() {
  local name kind
  while read -r name kind; do
    case $kind in
      var) printf '.data\n.globl %s\n.type %s,%%object\n.size %s,8\n' "$name" "$name" "$name" ;;
      *) printf '.text\n.globl %s\n.type %s,%%function\n' "$name" "$name" ;;
    esac
    printf '%s: %s 0\n' "$name" "$word"
  done >"$out/$1.s"
  "${cc[@]}" -c "$out/$1.s" -o "$out/$1.o"
  ld.lld -shared -soname "$1.so" -o "$lib/$1.so" "$out/$1.o"
}
for library in libc libdl libm liblog; do
  sed -n "s/^$library //p" "$here/symbols.txt" | stand_in "$library"
done
# As the NDK's: these two are no exports of Android's libc, but parts of each library.
"${cc[@]}" -fPIC -x c -c - -o "$lib/crtbegin_so.o" <<'C'
#define HIDDEN __attribute__((visibility("hidden")))
extern void __cxa_finalize(void *);
extern int __cxa_atexit(void (*)(void *), void *, void *);
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
HIDDEN void *__dso_handle = &__dso_handle;
__attribute__((destructor)) static void finalize(void) { __cxa_finalize(&__dso_handle); }
HIDDEN int atexit(void (*function)(void)) { return __cxa_atexit((void (*)(void *))function, 0, &__dso_handle); }
HIDDEN int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  return __register_atfork(prepare, parent, child, &__dso_handle);
}
C
"${cc[@]}" -x c -c /dev/null -o "$lib/crtend_so.o"

headers=(-nostdlibinc -isystem "$zig/lib/libc/include/$musl" -isystem "$zig/lib/libc/include/generic-musl"
  -I "$zig/lib/libunwind/include" -I "$zig/lib/libunwind/src")
rm -f "$lib/libunwind.a"
for file in libunwind.cpp UnwindLevel1.c UnwindLevel1-gcc-ext.c Unwind-EHABI.cpp UnwindRegistersRestore.S \
  UnwindRegistersSave.S; do
  case $file in
    *.cpp) language=(-std=c++17 -fno-exceptions -fno-rtti) ;;
    *.S) language=() ;;
    *) language=(-std=c11) ;;
  esac
  "${cc[@]}" -w -O2 -fPIC -fvisibility=hidden -funwind-tables -D_LIBUNWIND_IS_NATIVE_ONLY -DNDEBUG \
    -D__errno_location=__errno "${headers[@]}" "${language[@]}" -c "$zig/lib/libunwind/src/$file" \
    -o "$out/unwind/${file%.*}.o"
done
llvm-ar rcs "$lib/libunwind.a" "$out"/unwind/*.o

cat >"$out/linker" <<LINKER
#!/bin/sh
exec clang --target=$clang --sysroot=$out/sysroot -fuse-ld=lld -nodefaultlibs "\$@"
LINKER
chmod +x "$out/linker"
lower=${target//-/_} upper=${target//-/_}
upper=${upper^^}
# As ring wants it where there are no headers of the system.
export "CC_$lower=clang" "AR_$lower=llvm-ar" \
  "CFLAGS_$lower=--target=$clang -nostdlibinc -DRING_CORE_NOSTDLIBINC=1 -ffreestanding -isystem $out/include" \
  "CARGO_TARGET_${upper}_LINKER=$out/linker"
mkdir -p "$out/include"
rustup target list --installed | grep -qx "$target" || rustup target add "$target" >/dev/null 2>&1
cd "$here/../.."
RUSTFLAGS="${RUSTFLAGS:-} -C link-arg=-Wl,-z,defs" cargo build -q --release --locked -p wg-embed-jni --target "$target"
