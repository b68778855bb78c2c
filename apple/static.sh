#!/usr/bin/env bash
# Makes the static library of wg_embed.h for one of Apple's targets, on a Mac or on Linux:
#
#     apple/static.sh TARGET OUT.a
#
# It shares no name with another library but the functions of the header, so that it can be linked beside another
# static library that is written in Rust.
#
# On Linux it needs clang, for ring's C, and `rustup component add llvm-tools`. A target for which rustup has no
# standard library is built with a nightly toolchain that has `rust-src`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
target=$1 out=$2
mkdir -p "$(dirname "$out")"
work=${CARGO_TARGET_DIR:-target}
mkdir -p "$work/apple"
. apple/environment.sh "$target" "$(cd "$work" && pwd)/apple"

toolchain=() std=()
if ! rustup target list --installed | grep -qx "$target"; then
  toolchain=(+nightly) std=(-Zbuild-std=std,panic_unwind)
fi
# In bash 3.2, which macOS has, an empty array is an unset variable.
cargo ${toolchain[@]+"${toolchain[@]}"} rustc -q --locked --release ${std[@]+"${std[@]}"} -p wg-embed-capi \
  --crate-type staticlib --target "$target"
library=$work/$target/release/libwg_embed.a
python3 apple/localize.py "$library" "$out" abi/symbols.txt
