#!/usr/bin/env bash
# Makes the static library of wg_embed.h for one of Apple's targets, on a Mac or on Linux:
#
#     apple/static.sh TARGET OUT.a
#
# It shares no name with another library but the functions of the header, so that it can be linked beside another
# static library that is written in Rust.
#
# It needs rustup, whose standard library for the target it adds (see environment.sh), `rustup component add
# llvm-tools`, and python3. On Linux it needs clang as well, for ring's C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
target=$1 out=$2
mkdir -p "$(dirname "$out")"
work=${CARGO_TARGET_DIR:-target}
mkdir -p "$work/apple"
. apple/environment.sh "$target" "$(cd "$work" && pwd)/apple"

cargo rustc -q --locked --release -p wg-embed-capi --crate-type staticlib --target "$target"
python3 apple/localize.py "$work/$target/release/libwg_embed.a" "$out" abi/symbols.txt
