#!/usr/bin/env bash
# Compiles for every platform, and runs the tests of those that can be emulated. docs/platforms.md says what that
# proves.
#
#     .ci/cross.sh           both of these
#     .ci/cross.sh check     clippy for each target (rustup, clang)
#     .ci/cross.sh test      tests on musl, on arm64 under qemu, on Windows under Wine
#
# For a Debian machine with rustup, as root. It installs what it needs (packages, Rust targets); a target that cannot be
# had is skipped, and the reason printed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export CARGO_TERM_COLOR=never DEBIAN_FRONTEND=noninteractive
# What is compiled out on one platform must not leave an unused import behind.
export RUSTFLAGS=-Dwarnings
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 PROPTEST_CASES=${PROPTEST_CASES:-64}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/cross
work=$CARGO_TARGET_DIR/work
mkdir -p "$work/include"
# shellcheck source=windows/wine.sh
. windows/wine.sh
failed=0

report() { printf '%-5s %-40s %5s s  %s\n' "$1" "$2" "$((SECONDS - begin))" "${3:-}"; }

remarks() {
  awk '/^test result/ { ok += $4; out += $12 } END { if (ok) print ok " passed, " out " left out" }' "$work/log"
  [ "$rust" = "$usual" ] || echo "with Rust $rust, as $usual has no such target"
}

# step NAME NEED COMMAND...: NEED gets what COMMAND cannot do without. One line comes out, and the log if COMMAND fails.
step() {
  local name=$1 need=$2 begin=$SECONDS
  shift 2
  if ! eval "$need" >"$work/log" 2>&1; then
    report skip "$name" "$(grep -im 1 error "$work/log" || echo "failed: $need")"
  elif "$@" >"$work/log" 2>&1; then
    report ok "$name" "$(remarks)"
  else
    report FAIL "$name"
    tail -n 60 "$work/log"
    failed=1
  fi
}

packages() {
  dpkg -s "$@" >/dev/null 2>&1 && return
  [ -n "${updated:-}" ] || apt-get update -q
  updated=1
  apt-get install -y -q --no-install-recommends "$@"
}

# The Rust that has TARGET's standard library: the usual one, or else the oldest that will do.
rust_for() {
  rust=$usual
  rustup target add --toolchain "$rust" "$1" && return
  rust=$oldest
  rustup toolchain install --profile minimal --target "$1" "$rust"
}

# Of ring's C no more is asked than that it compiles: clang does that for every target, without any system's headers.
# The static library needs no linker; clippy alone would not look at assembly.
clippy() {
  local target=$1 lint=clippy flags="-ffreestanding -nostdlibinc -DRING_CORE_NOSTDLIBINC=1 -isystem $work/include"
  shift
  case $target in armv7-*) flags+=" --target=armv7a-linux-androideabi" ;; esac # clang does not know Rust's name.
  [ "$rust" = "$usual" ] || lint=check # An old clippy knows less, and warns of other things.
  # SDKROOT: or else xcrun is asked for one.
  local -x SDKROOT=$work "CC_${target//-/_}=clang" "AR_${target//-/_}=ar" "CFLAGS_${target//-/_}=$flags"
  cargo "+$rust" "$lint" -q --locked "$@" --target "$target" &&
    cargo "+$rust" rustc -q --locked -p wg-embed-capi --crate-type staticlib --target "$target"
}
: >"$work/include/TargetConditionals.h" # Apple's; ring asks for it and can do without what is in it.

# What needs neither root nor a TUN.
suites=(-p wg-embed -p wg-embed-ffi --lib)
for suite in batch_udp device_pair device_opening device_sockets kernel_traces noise_traps boringtun_interop \
  snow_transcripts uapi_vectors; do
  suites+=(--test "$suite")
done

# tests TARGET CC LINKER RUNNER [argument of libtest]...
tests() {
  local target=$1 upper=${1//-/_} suites=("${suites[@]}")
  case $target in
    *-windows-*)
      suites+=(--test wintun -p wg-embed-cli -p wg-embed-manager --bin wg-embed --test windows)
      suites+=(-p wg-embed-tunnel --test engine)
      ;;
  esac
  upper=${upper^^}
  env "CC_${target//-/_}=$2" "CARGO_TARGET_${upper}_LINKER=$3" "CARGO_TARGET_${upper}_RUNNER=$4" \
    timeout 1800 cargo "+$rust" test --locked --target "$target" "${suites[@]}" -- "${@:5}"
}

# The stand-in for wintun.dll, whose path Wine's tests get.
stand_in() {
  local dll=$work/wintun.dll
  x86_64-w64-mingw32-gcc -O2 -s -shared -Wall -Wextra -Werror -o "$dll" tests/windows/wintun.c || return
  export WG_EMBED_TEST_WINTUN=Z:${dll//\//\\}
}

check_all() {
  # Servers have the daemon and the tools; apps link libraries. What musl needs is compiled by its tests.
  local target=aarch64-unknown-linux-gnu
  step "clippy $target" "packages clang && rust_for $target" clippy "$target" --lib --bins
  for target in aarch64-linux-android armv7-linux-androideabi aarch64-apple-ios; do
    step "clippy $target, libraries" "packages clang && rust_for $target" \
      clippy "$target" -p wg-embed -p wg-embed-capi --features wg-embed-capi/netstack,wg-embed-capi/control
  done
  # The libraries with functions of other ones, where their apps run.
  for target in aarch64-linux-android armv7-linux-androideabi; do
    step "clippy $target, for Java" "packages clang && rust_for $target" \
      clippy "$target" -p wg-embed-android -p wg-embed-jni
  done
  target=aarch64-linux-android
  step "clippy $target, wg-embed-mullvad" "packages clang && rust_for $target" clippy "$target" -p wg-embed-mullvad
  target=aarch64-apple-ios
  step "clippy $target, wg-embed-apple" "packages clang && rust_for $target" clippy "$target" -p wg-embed-apple
  target=x86_64-pc-windows-gnu
  step "clippy $target, the DLL and the service" "packages clang binutils-mingw-w64-x86-64 && rust_for $target" \
    clippy "$target" -p wg-embed-windows -p wg-embed-service -p wg-embed-windows-tunnel --all-targets
  step "clippy $target, connections inside a tunnel" "packages clang binutils-mingw-w64-x86-64 && rust_for $target" \
    clippy "$target" -p wg-embed-capi -p wg-embed-ffi --features wg-embed-capi/netstack --lib --tests
  # With the tests: these two stand for what is not Linux. Rust makes import libraries for the latter by dlltool.
  for target in aarch64-apple-darwin x86_64-pc-windows-gnu; do
    step "clippy $target, tests too" "packages clang binutils-mingw-w64-x86-64 && rust_for $target" \
      clippy "$target" --lib --bins --tests
  done
}

test_all() {
  local target=x86_64-unknown-linux-musl
  step "test $target" "packages musl-tools && rust_for $target" tests $target musl-gcc cc env
  target=aarch64-unknown-linux-gnu
  # qemu does not tell a program that another one, like wg(8), is not installed.
  step "test $target" \
    "packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static && rust_for $target" \
    tests $target aarch64-linux-gnu-gcc aarch64-linux-gnu-gcc "qemu-aarch64-static -L /usr/aarch64-linux-gnu" \
    --skip wg_understands_ours
  target=x86_64-pc-windows-gnu
  rm -f "$CARGO_TARGET_DIR/$target/debug/wg-embed.exe" # One of before must not be tested.
  step "test $target" \
    "packages gcc-mingw-w64-x86-64-win32 wine64 wine && rust_for $target && wine_prefix $work && stand_in" \
    tests $target x86_64-w64-mingw32-gcc x86_64-w64-mingw32-gcc wine
  step "Ctrl-C $target" "wine_prefix $work && stand_in && test -e $CARGO_TARGET_DIR/$target/debug/wg-embed.exe" \
    timeout 600 tests/windows/ctrl_c.py "$CARGO_TARGET_DIR/$target/debug/wg-embed.exe" "$work/wintun.dll"
}

command -v rustup >/dev/null || { echo "cross.sh: needs rustup: https://rustup.rs"; exit 1; }
prepare() {
  oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  packages gcc libc6-dev || return
  rustup show active-toolchain || rustup default stable || return
  usual=$(rustup show active-toolchain | cut -d ' ' -f 1) rust=$usual
  rustup component add --toolchain "$usual" clippy
}

prepare >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
case ${1:-all} in
  check) check_all ;;
  test) test_all ;;
  all) check_all && test_all ;;
  *) echo "usage: .ci/cross.sh [check|test]" && exit 2 ;;
esac
echo "all in $SECONDS s"
exit $failed
