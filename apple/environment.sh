# shellcheck shell=bash
# Sourced: what cargo needs for one of Apple's targets, on a Mac or on Linux.
#
#     . apple/environment.sh TARGET WORK     WORK: a folder for files; STUBS: more flags of clang
#
# On Linux clang compiles ring's C without any system's headers. It asks for TargetConditionals.h, and can do without
# what is in it. Without SDKROOT, xcrun is asked for an SDK.

# As in Package.swift.
export IPHONEOS_DEPLOYMENT_TARGET=15.0 MACOSX_DEPLOYMENT_TARGET=11.0
if [ "$(uname)" != Darwin ]; then
  mkdir -p "$2/include"
  : >"$2/include/TargetConditionals.h"
  export SDKROOT=$2 "CC_${1//-/_}=clang" "AR_${1//-/_}=$(command -v llvm-ar || command -v ar)"
  export "CFLAGS_${1//-/_}=-ffreestanding -nostdlibinc -DRING_CORE_NOSTDLIBINC=1 -isystem $2/include ${STUBS:-}"
fi
