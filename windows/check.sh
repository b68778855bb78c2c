#!/usr/bin/env bash
# The library, the service and the C# file for Windows, as far as a Linux machine with mono and Wine goes: plans,
# numbers and names are compared; C# passes packets over the library of Linux; the DLL is built with mingw, its symbols
# compared, and used from C, as is the library with connections inside a tunnel; services are created, started, asked
# for their state, stopped and deleted by Wine's service manager, and pass packets over a stand-in of wintun.dll.
#
# Needs gcc and python3. For C# it needs mono-mcs, mono-runtime and libmono-system-core4.0-cil; for the DLL
# gcc-mingw-w64-x86-64-win32; to run it wine64 and wine. What cannot run is skipped, and the reason printed.
#
# Environment: CBINDGEN (of exactly the version that cbindgen.toml names; without it the header is not compared).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/windows
mkdir -p "$out/csharp"
# shellcheck source=windows/wine.sh
. windows/wine.sh

fail() { echo "check.sh: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; }
has() { command -v "$1" >/dev/null; }

# --- What needs neither mono nor Windows.

compare() {
  python3 abi/vocabulary.py include/wg_embed.h csharp "errors=$1:WgError" "events=$1:TunnelEventKind" \
    "levels=$1:LogLevel" && python3 windows/imports.py include/wg_embed.h "$1"
}
compare windows/csharp/WgEmbed.cs || fail "C# and the header differ"
for change in 's/TooLarge = -5/TooLarge = -6/' 's/wg_trim(int handle)/wg_trim(int handle, int more)/' \
  's/Workers, Queues;/Workers;/'; do
  sed "$change" windows/csharp/WgEmbed.cs >"$out/differs.cs"
  if (compare "$out/differs.cs") >"$out/differs.log" 2>&1; then fail "a difference was not noticed: $change"; fi
done
# Unit tests, and golden files.
cargo test -q -p wg-embed-windows-tunnel >"$out/plans.log" 2>&1 &&
  [ "$(grep -c '^test result: ok. [1-9]' "$out/plans.log")" = 2 ] ||
  { tail -n 60 "$out/plans.log"; fail "the tests of wg-embed-windows-tunnel"; }
grep '^test result' "$out/plans.log"

if [ -n "${CBINDGEN:-}" ]; then
  source=windows/src/tunnel_dll.rs
  "$CBINDGEN" -q -c abi/compat-windows.toml "$source" 2>/dev/null | diff -u include/compat/windows.h - ||
    fail "the header is stale: $CBINDGEN -c abi/compat-windows.toml -o include/compat/windows.h $source"
else
  skip "include/compat/windows.h is not compared: there is no CBINDGEN"
fi
names() { gcc -std=c11 -Wall -Wextra -Wpedantic -Werror -Wno-array-parameter -Iinclude -fsyntax-only "$@"; }
names tests/c/compat_windows_names.c
if names -DDIFFERS tests/c/compat_windows_names.c 2>/dev/null; then
  fail "a declaration that differs was not noticed"
fi

# --- C#, over the library of this system.

csharp() {
  mcs -langversion:6 -warnaserror+ -warn:4 -doc:"$out/csharp/WgEmbed.xml" -target:library \
    -out:"$out/csharp/WgEmbed.dll" windows/csharp/WgEmbed.cs
  mcs -langversion:6 -warnaserror+ -r:"$out/csharp/WgEmbed.dll" -out:"$out/csharp/Test.exe" windows/csharp/Test.cs \
    windows/csharp/Scenario.cs
  cargo build -q -p wg-embed-capi
  MONO_THREADS_SUSPEND=coop LD_LIBRARY_PATH=$target/debug timeout 1800 mono "$out/csharp/Test.exe" ||
    fail "C# over libwg_embed.so"
}

if has mcs && has mono; then csharp; else skip "C#: there is no mcs, or no mono"; fi

# --- The DLL and the service.

triple=x86_64-pc-windows-gnu
dlls=$target/$triple/debug
for tool in x86_64-w64-mingw32-gcc x86_64-w64-mingw32-objdump; do
  has "$tool" || { skip "the DLL: there is no $tool"; exit 0; }
done
if has rustup; then rustup target add "$triple" >/dev/null 2>&1 || true; fi
[ -d "$(rustc --print sysroot)/lib/rustlib/$triple" ] || { skip "the DLL: Rust has no $triple"; exit 0; }
export CC_x86_64_pc_windows_gnu=x86_64-w64-mingw32-gcc CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
cargo build -q --target "$triple" -p wg-embed-windows -p wg-embed-service

x86_64-w64-mingw32-objdump -p "$dlls/wg_embed_windows.dll" |
  sed -n '/^\[Ordinal\/Name Pointer\] Table/,/^$/s/^\t\[ *[0-9]*\] //p' | LC_ALL=C sort >"$out/symbols"
LC_ALL=C sort abi/symbols.txt abi/symbols-compat-windows.txt | diff -u - "$out/symbols" ||
  fail "the DLL exports something else than abi/symbols.txt and abi/symbols-compat-windows.txt"
echo "ok: the symbols of the DLL"
# What mingw would have to be shipped with.
for file in wg_embed_windows.dll wg-embed-service.exe; do
  if x86_64-w64-mingw32-objdump -p "$dlls/$file" | grep -i 'DLL Name: lib'; then fail "$file needs DLLs of mingw"; fi
done

app=$out/app
rm -rf "$app"
mkdir -p "$app"
windows/package.sh "$dlls" "$app"
cp "$dlls/wg-embed-service.exe" "$app/"
compile() { x86_64-w64-mingw32-gcc -std=c11 -Wall -Wextra -Werror -O2 -Iinclude "$@" -Wl,-Bstatic -lwinpthread; }
compile examples/c/packets.c -o "$app/packets.exe" "$app/libwg_embed.dll.a"
compile windows/testing/peer.c -o "$app/peer.exe" "$app/libwg_embed.dll.a"
compile windows/testing/pipe.c -o "$app/pipe.exe" -ladvapi32
compile -municode windows/c/adapter.c -o "$app/adapter.exe" "$app/libwg_embed.dll.a"
compile -municode windows/c/service.c -o "$app/service.exe" "$app/libwg_embed.dll.a" -ladvapi32
x86_64-w64-mingw32-gcc -O2 -shared -s -o "$app/wintun.dll" tests/windows/wintun.c
for program in packets peer adapter service; do
  x86_64-w64-mingw32-objdump -p "$app/$program.exe" | grep 'DLL Name: wg_embed.dll' >/dev/null ||
    fail "$program.exe needs another DLL than wg_embed.dll"
done
echo "ok: programs in C are linked with it"

has wine && has wineboot || { skip "the DLL and the service are not run: there is no wine"; exit 0; }
wine_prefix "$out" || { skip "the DLL and the service are not run: Wine makes no prefix"; exit 0; }
timeout 600 wine winecfg -v win10 >/dev/null 2>&1
trap 'timeout 60 wineserver -k || true' EXIT
run() { timeout 600 wine "$@" 2>"$out/wine.err" | tr -d '\r'; }

# The stand-in returns what the tunnel gives it. Services have the environment of the registry, which the service
# manager reads when it starts.
run reg add 'HKLM\System\CurrentControlSet\Control\Session Manager\Environment' /v FAKE_WINTUN_ECHO /d 1 /f >/dev/null
timeout 60 wineserver -k || true

run "$app/packets.exe" 1000 || fail "packets.exe"
run "$app/service.exe" /keys | tee "$out/keys"
grep -q '^wg-embed .* [A-Za-z0-9+/]\{43\}=$' "$out/keys" || fail "WireGuardGenerateKeypair"

# In Rust: rows, routes, watching, DPAPI.
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
timeout 1800 cargo test -q --target "$triple" -p wg-embed-windows-tunnel --lib -- --show-output >"$out/lib.log" 2>&1 ||
  { tail -n 60 "$out/lib.log"; fail "the tests of wg-embed-windows-tunnel under Wine"; }
tr -d '\r' <"$out/lib.log" | grep -E '^(test result|skipped)'

# --- Connections inside a tunnel: the tests of the pump, and the library with `netstack`, from C.

net_tests() {
  timeout 1800 cargo test -q --target "$triple" "$@" >"$out/net.log" 2>&1 ||
    { tail -n 60 "$out/net.log"; fail "under Wine: $*"; }
  tr -d '\r' <"$out/net.log" | grep '^test result: ok. [1-9]' || fail "there is no test: $*"
}

net() {
  local folder=$out/net
  mkdir -p "$folder"
  net_tests -p wg-embed-netstack --lib pump::
  net_tests -p wg-embed-netstack --test pump --test pump_ends
  net_tests -p wg-embed-ffi --features netstack --lib net::
  cargo build -q --target "$triple" -p wg-embed-capi --features netstack
  cp "$dlls/wg_embed.dll" "$folder/"
  compile windows/testing/net.c -o "$folder/net.exe" "$dlls/libwg_embed.dll.a" -lws2_32
  run "$folder/net.exe" || fail "net.exe: $(cat "$out/wine.err")"
}

net

# --- A tunnel that a program starts by the name of an adapter.

adapter() {
  local port= i input=$out/input process
  write_conf adapter
  # Without wintun.dll there is none.
  mkdir -p "$out/bare"
  cp "$app/adapter.exe" "$app/wg_embed.dll" "$out/bare/"
  if run "$out/bare/adapter.exe" adapter "$(winepath -w "$app/adapter.conf")"; then
    fail "a tunnel without wintun.dll"
  fi
  grep -q 'wintun.dll' "$out/wine.err" || fail "without wintun.dll: $(cat "$out/wine.err")"
  rm -f "$input"
  mkfifo "$input"
  FAKE_WINTUN_ECHO=1 timeout 600 wine "$app/adapter.exe" adapter "$(winepath -w "$app/adapter.conf")" \
    <"$input" >"$out/adapter.log" 2>&1 &
  process=$!
  exec 3>"$input"
  for i in $(seq 600); do
    port=$(sed -n 's/.* on port \([0-9]*\)\..*/\1/p' "$out/adapter.log")
    [ -z "$port" ] && kill -0 "$process" 2>/dev/null || break
    sleep 0.5
  done
  [ -n "$port" ] || fail "adapter.exe: $(cat "$out/adapter.log")"
  for i in 'address 10.99.0.2/24' 'route 10.99.0.1/32'; do
    tr -d '\r' <"$out/adapter.log" | grep -xF "$i" >/dev/null || fail "adapter.exe: no $i: $(cat "$out/adapter.log")"
  done
  run "$app/peer.exe" "$port" "$key_of_peer" "$public_of_service" || fail "adapter.exe: packets"
  echo >&3
  exec 3>&-
  wait "$process" || fail "adapter.exe: $(cat "$out/adapter.log")"
  echo "ok: a tunnel by the name of an adapter"
}

# --- Services.

state() { run sc query "WireGuardTunnel\$$1" | sed -n 's/.*STATE *: *[0-9]* *//p'; }
# until_state SERVICE STATE: waits for it. The limit only bounds a hang.
until_state() {
  local i
  for i in $(seq 600); do
    [[ "$(state "$1")" != $2* ]] || return 0
    sleep 0.5
  done
  run "$app/wg-embed-service.exe" dumplog "$(winepath -w "$app/log.bin")"
  fail "the service $1 is not $2 but $(state "$1")"
}

# Two pairs of keys, for this only.
key_of_service=yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
public_of_service=HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=
key_of_peer=gI6EdUSYvn8ugXOt8QQD6Yc+JyiZxIhp3GInSWRfWGE=
public_of_peer=gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=

# write_conf NAME
write_conf() {
  cat >"$app/$1.conf" <<CONF
[Interface]
PrivateKey = $key_of_service
Address = 10.99.0.2/24
[Peer]
PublicKey = $public_of_peer
AllowedIPs = 10.99.0.1/32
CONF
}

# passes_packets NAME: also reads the port from the control pipe, as Windows has chosen it.
passes_packets() {
  local port
  run "$app/pipe.exe" "$1" >"$out/pipe" || fail "$1: the control pipe: $(cat "$out/pipe")"
  port=$(sed -n 's/^listen_port=//p' "$out/pipe")
  [ -n "$port" ] || fail "$1: the control pipe: $(grep -v private "$out/pipe")"
  run "$app/peer.exe" "$port" "$key_of_peer" "$public_of_service" || fail "$1: packets"
}

# A tunnel that its own program installs, and another that wg-embed-service does: both have to pass packets.
# service NAME INSTALL... -- REMOVE...
service() {
  local name=$1 install=()
  shift
  while [ "$1" != -- ]; do install+=("$1"); shift; done
  shift
  write_conf "$name"
  run "${install[@]}" || fail "$name: cannot be installed: $(cat "$out/wine.err")"
  until_state "$name" RUNNING
  passes_packets "$name"
  if [ "$name" = host ]; then
    run sc stop "WireGuardTunnel\$$name" >/dev/null
    until_state "$name" STOPPED
    run sc start "WireGuardTunnel\$$name" >/dev/null
    until_state "$name" RUNNING
    passes_packets "$name"
  fi
  run "$@" || fail "$name: cannot be removed: $(cat "$out/wine.err")"
  for _ in $(seq 600); do
    [ -n "$(state "$name")" ] || break
    sleep 0.5
  done
  [ -z "$(state "$name")" ] || fail "$name is still there: $(state "$name")"
  run "$app/wg-embed-service.exe" dumplog "$(winepath -w "$app/log.bin")" >"$out/$name.log"
  grep -q "\[$name\] the tunnel has been stopped" "$out/$name.log" || { cat "$out/$name.log"; fail "$name: the log"; }
  sed -n 's/.*\(network settings: .*\)/\1/p' "$out/$name.log" | sort -u |
    while read -r line; do skip "$name: $line"; done
  echo "ok: the service of $name"
}

adapter
service host "$app/service.exe" /install "$(winepath -w "$app/host.conf")" -- "$app/service.exe" /remove host
service own "$app/wg-embed-service.exe" install "$(winepath -w "$app/own.conf")" -- \
  "$app/wg-embed-service.exe" uninstall own
if run "$app/wg-embed-service.exe" run "$(winepath -w "$app/own.conf")"; then fail "run without the service manager"; fi
grep -q "service manager" "$out/wine.err" || fail "run without the service manager: $(cat "$out/wine.err")"
skip "sc sidtype, the firewall, addresses, routes and name servers, and the driver itself: Wine has none of them"
