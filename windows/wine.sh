# Sourced: Wine as the programs of this repository need it.

# wine_prefix FOLDER: makes or takes over the Wine prefix FOLDER/wine. Rust takes its randomness from
# bcryptprimitives.dll, which Wine 8 does not have.
wine_prefix() {
  local folder=${1:?}
  export WINEPREFIX=$folder/wine WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml="
  local shim=$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll
  [ -d "$WINEPREFIX" ] || { timeout 300 wineboot -i && timeout 300 wineserver -w; } || return
  [ -e "$shim" ] || x86_64-w64-mingw32-gcc -shared -O2 -s -o "$shim" -x c - -ladvapi32 <<'C'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T len) { return SystemFunction036(data, (ULONG)len); }
C
}
