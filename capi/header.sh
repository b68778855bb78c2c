#!/usr/bin/env bash
# Writes include/wg_embed.h to the standard output: cbindgen's, with one line in place of the twelve that it has around
# each enum. clang has enums of a fixed size in C as well, and Swift needs them.
#
#     capi/header.sh >include/wg_embed.h
#
# Environment: CBINDGEN, of exactly the version that cbindgen.toml names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pinned=$(sed -n 's/^# cbindgen \([0-9.]*\).*/\1/p' cbindgen.toml)
cbindgen=${CBINDGEN:-cbindgen}
if [ ! -x "$(command -v "$cbindgen")" ] && [ -x target/tools/bin/cbindgen ]; then cbindgen=target/tools/bin/cbindgen; fi
if ! "$cbindgen" --version 2>/dev/null | grep -qx "cbindgen $pinned"; then
  echo "needs cbindgen $pinned: cargo install cbindgen --version $pinned --locked" >&2
  exit 1
fi
"$cbindgen" -q --config cbindgen.toml capi/ffi | awk '
  # enum NAME / #if .. / : TYPE / #endif .. / {
  /^enum wg_[a-z0-9_]*$/ { name = $2; for (i = 0; i < 4; i++) { getline; if ($1 == ":") type = $2 }
                           print "WG_ENUM(" name ", " type ") {"; next }
  # The typedefs behind it, between #ifndef and #endif: WG_ENUM has them.
  /^#ifndef __cplusplus$/ { getline; if (/^#if __STDC_VERSION__/) { while (!/^#endif .* __cplusplus$/) getline; next }
                            print "#ifndef __cplusplus" }
  { print }'
