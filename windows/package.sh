#!/usr/bin/env bash
# Makes wg_embed.dll, and what a program is linked with, of the DLL that Cargo has built: there it is
# wg_embed_windows.dll, as the library of capi/ has the other name.
#
#     windows/package.sh target/x86_64-pc-windows-gnu/release FOLDER
#
# FOLDER gets wg_embed.dll, the import library libwg_embed.dll.a, wg_embed.def, of which Visual Studio's tools make
# theirs (lib /def:wg_embed.def /machine:x64 /out:wg_embed.lib), and the headers. Needs binutils for mingw.
set -euo pipefail
built=${1:?the folder of wg_embed_windows.dll} folder=${2:?the folder to fill}
repository=$(dirname "${BASH_SOURCE[0]}")/..
mkdir -p "$folder/include/compat"
cp "$built/wg_embed_windows.dll" "$folder/wg_embed.dll"
{
  echo 'LIBRARY wg_embed.dll'
  echo EXPORTS
  LC_ALL=C sort "$repository/abi/symbols.txt" "$repository/abi/symbols-compat-windows.txt" | sed 's/^/  /'
} >"$folder/wg_embed.def"
x86_64-w64-mingw32-dlltool -d "$folder/wg_embed.def" -l "$folder/libwg_embed.dll.a"
cp "$repository/include/wg_embed.h" "$folder/include/"
cp "$repository/include/compat/windows.h" "$folder/include/compat/"
