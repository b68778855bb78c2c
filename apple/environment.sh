# shellcheck shell=bash
# Sourced: what cargo needs for one of Apple's targets, on a Mac or on Linux.
#
#     . apple/environment.sh TARGET WORK     WORK: a folder for files; STUBS: more flags of clang
#
# It adds Rust's standard library for the target. Where rustup offers none, cargo builds one, with a nightly toolchain;
# without that as well, the status is 1.
#
# On Linux clang compiles ring's C without any system's headers. It asks for TargetConditionals.h, and can do without
# what is in it. Without SDKROOT, xcrun is asked for an SDK.

read -r _ _ _ _ oldest <<<"$(grep " $1 " apple/platforms.txt)"
if [ -z "$oldest" ]; then
  echo "$1 is not in apple/platforms.txt" >&2
  return 1
fi
case $1 in
  *-darwin) export MACOSX_DEPLOYMENT_TARGET=$oldest ;;
  *) export IPHONEOS_DEPLOYMENT_TARGET=$oldest ;;
esac
if ! rustup target add "$1" >/dev/null 2>&1; then
  if ! rustup component add --toolchain nightly rust-src llvm-tools >/dev/null 2>&1 &&
    ! rustup toolchain install nightly --profile minimal -c rust-src -c llvm-tools >/dev/null 2>&1; then
    echo "$1: rustup has neither a standard library for it nor a nightly toolchain with rust-src and llvm-tools" >&2
    return 1
  fi
  export RUSTUP_TOOLCHAIN=nightly CARGO_UNSTABLE_BUILD_STD=std,panic_unwind
fi
if [ "$(uname)" != Darwin ]; then
  mkdir -p "$2/include"
  : >"$2/include/TargetConditionals.h"
  export SDKROOT=$2 "CC_${1//-/_}=clang" "AR_${1//-/_}=$(command -v llvm-ar || command -v ar)"
  export "CFLAGS_${1//-/_}=-ffreestanding -nostdlibinc -DRING_CORE_NOSTDLIBINC=1 -isystem $2/include ${STUBS:-}"
fi
