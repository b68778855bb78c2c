#!/usr/bin/env bash
# Makes the XCFramework and its archive, on a Mac or on Linux:
#
#     apple/build.sh OUT [PLATFORM]...    OUT/CWgEmbed.xcframework and OUT/CWgEmbed.xcframework.zip
#
# PLATFORM is one of platforms.txt; all of them without any. It prints the target for Package.swift. The libraries stay
# in target/apple. What it needs: see static.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
out=$1
shift
# shellcheck disable=SC2046 # Words.
[ $# -gt 0 ] || set -- $(grep -v '^#' apple/platforms.txt | cut -d ' ' -f 1 | uniq)

slices=()
for platform; do
  libraries=
  for target in $(sed -n "s/^$platform \([^ ]*\).*/\1/p" apple/platforms.txt); do
    library=${CARGO_TARGET_DIR:-target}/apple/$target/libwg_embed.a
    apple/static.sh "$target" "$library"
    libraries=$libraries,$library
  done
  [ -n "$libraries" ] || { echo "build.sh: $platform is not in apple/platforms.txt" >&2; exit 1; }
  slices+=("$platform=${libraries#,}")
done
apple/xcframework.py "$out" include/wg_embed.h "${slices[@]}"
