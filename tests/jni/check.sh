#!/usr/bin/env bash
# wireguard-android's libwg-go.so in a Java virtual machine: its native methods, with a peer in another network
# namespace. tests/c/check.sh looks at its symbols, and at its functions for C.
#
# Needs gcc, a JDK, ip(8), wg(8) and ping(8), and root for namespaces. What cannot run is skipped, and the reason
# printed.
#
# PEER  the other end's program: called as PEER -f INTERFACE; default: wireguard-go if it is there, or else our daemon
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/jni
mkdir -p "$out"

fail() { echo "check.sh: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; exit 0; }

# Handles, and what is written to Android's log.
cargo test -q --package wg-embed-android --lib >"$out/unit.log" 2>&1 &&
  grep "test result: ok. [1-9]" "$out/unit.log" || { cat "$out/unit.log"; fail "the unit tests"; }
cargo build -q --package wg-embed-android
# The name that GoBackend.java asks for.
ln -sf ../debug/libwg_embed_android.so "$out/libwg-go.so"
# tests/c/check.sh does this with sanitizers; they know nothing of what is allocated and not lost.
gcc -std=c11 -Iinclude -pthread tests/c/compat_android.c -o "$out/compat_android" -L"$target/debug" -lwg_embed_android \
  -Wl,-rpath,"$target/debug"
timeout 120 "$out/compat_android"
echo "ok: libwg-go.so from C"

for tool in javac java ip wg ping; do
  command -v "$tool" >/dev/null || skip "libwg-go.so from Java: there is no $tool"
done
rm -rf "$out/classes" "$out/headers"
javac -Xlint:all -Werror -d "$out/classes" -h "$out/headers" tests/jni/com/wireguard/android/backend/*.java
# What javac makes of the declarations is what the library must export.
sed -n 's/^JNIEXPORT .* JNICALL \(Java_.*\)$/\1/p' "$out"/headers/*_GoBackend.h | LC_ALL=C sort |
  diff -u <(grep ^Java_ abi/symbols-compat-android.txt) - || fail "the native methods of GoBackend.java are others"
home=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
gcc -std=c11 -Wall -Wextra -Werror -shared -fPIC -D_GNU_SOURCE -I"$home/include" -I"$home/include/linux" \
  -include "$out/headers/com_wireguard_android_backend_Native.h" tests/jni/native.c -o "$out/libnative.so"

[ "$(id -u)" = 0 ] || skip "libwg-go.so in a Java virtual machine: network namespaces need root"
[ -e /dev/net/tun ] || skip "libwg-go.so in a Java virtual machine: there is no /dev/net/tun"
if [ -z "${PEER:-}" ]; then
  PEER=${PEERS:-target/peers/bin}/wireguard-go
  if [ ! -x "$PEER" ]; then
    cargo build -q --bin wg-embed
    PEER=$target/debug/wg-embed
  fi
fi

app=wgjni-$$-app server=wgjni-$$-srv tun=wj$$ interface=wjs$$
cleanup() {
  set +e # Each of these is to be done, whatever became of the one before; what fails says so.
  if [ -n "${peer:-}" ]; then
    kill "$peer"
    wait "$peer"
  fi
  for namespace in $app $server; do
    [ ! -e "/run/netns/$namespace" ] || ip netns delete "$namespace"
  done
  rm -f "$out/settings" "$out"/*.key
}
trap cleanup EXIT
ip netns add "$app"
ip netns add "$server"
ip -n "$app" link add veth0 type veth peer name veth0 netns "$server"
ip -n "$app" link set lo up
ip -n "$app" address add 192.0.2.1/24 dev veth0
ip -n "$app" link set veth0 up
ip -n "$server" address add 192.0.2.2/24 dev veth0
ip -n "$server" link set veth0 up
# As VpnService does it: the interface has its address and its routes before the library sees it.
ip -n "$app" tuntap add mode tun "$tun"
ip netns exec "$app" sysctl -q -w "net.ipv6.conf.$tun.disable_ipv6=1"
ip -n "$app" address add 10.77.0.1/24 dev "$tun"
ip -n "$app" link set "$tun" mtu 1280 up

umask 077
hex() { base64 -d <"$out/$1.key" | od -An -v -tx1 | tr -d ' \n'; }
wg genkey >"$out/app.key"
wg genkey >"$out/server.key"
wg genpsk >"$out/shared.key"
wg pubkey <"$out/server.key" >"$out/public.key"
cat >"$out/settings" <<END
private_key=$(hex app)
listen_port=51821
replace_peers=true
public_key=$(hex public)
preshared_key=$(hex shared)
endpoint=192.0.2.2:51820
persistent_keepalive_interval=25
allowed_ip=10.77.0.2/32
END

echo "the peer is $(basename "$PEER")"
WG_PROCESS_FOREGROUND=1 ip netns exec "$server" "$PEER" -f "$interface" >"$out/peer.log" 2>&1 &
peer=$!
for _ in $(seq 100); do
  [ ! -S "/var/run/wireguard/$interface.sock" ] || break
  sleep 0.05
done
wg set "$interface" private-key "$out/server.key" listen-port 51820 peer "$(wg pubkey <"$out/app.key")" \
  preshared-key "$out/shared.key" allowed-ips 10.77.0.1/32
ip -n "$server" address add 10.77.0.2/24 dev "$interface"
ip -n "$server" link set "$interface" mtu 1280 up

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
drive() {
  local what=$1
  shift
  # Nothing of the machine's own comes and goes with time: one heap, which is there from the beginning, and all its
  # threads.
  timeout 300 ip netns exec "$app" java "$@" -Xms64m -Xmx64m -XX:+AlwaysPreTouch -XX:+UseSerialGC \
    -XX:-UseDynamicNumberOfCompilerThreads -Djava.library.path="$out" -cp "$out/classes" \
    com.wireguard.android.backend.Driver "$what" "$tun" 10.77.0.2 "$out/settings" "$version" >"$out/$what.log" 2>&1 || {
    tail -n 60 "$out/$what.log"
    fail "libwg-go.so from Java: $what"
  }
}
drive behaviour -Xcheck:jni
if grep -E '^(WARNING|FATAL)' "$out/behaviour.log"; then
  fail "the virtual machine complains"
fi
drive cycles -Xint # A compiler would take memory whenever it likes.
cat "$out/behaviour.log" "$out/cycles.log"
echo "ok: libwg-go.so from Java"
