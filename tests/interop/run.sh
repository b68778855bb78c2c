#!/usr/bin/env bash
# The daemon against the Linux kernel's WireGuard and against other userspace implementations.
#
#   run.sh [kernel|peers|all] [NAME ...]    all of them (about four minutes, and more the first time), or scenarios
#                                           whose names contain a NAME
#
# Prints "ok - check" or "FAIL - check: why" for each check as it comes, lines with # about the rest, and a count at the
# end; the status is 0 if nothing failed. Needs root, Debian on x86-64 and Rust; installs what else it needs. Everything
# happens in network namespaces that it makes and removes.
#
# DAEMON       the program under test; default: built here
# PEERS        where boringtun-cli and wireguard-go are, or are installed to
# INTEROP_DIR  kept for the next run: the VM, the other implementations; default: ~/.cache/wg-embed-interop
# JOBS         scenarios side by side; default: 3
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
WHICH=${1:-all}
shift $(($# > 0 ? 1 : 0))
case $WHICH in
  kernel | peers | all) ;;
  *) sed -n '4p' "$0" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "run.sh: needs root" >&2; exit 2; }

INTEROP_DIR=${INTEROP_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/wg-embed-interop}
PEERS=${PEERS:-$INTEROP_DIR/bin}
BORINGTUN=0.7.1 WIREGUARD_GO=v0.0.0-20260522210424-ecfc5a8d5446
mkdir -p "$INTEROP_DIR" "$PEERS"

need=()
for package in iproute2 iputils-ping wireguard-tools iperf3 nftables python3 procps; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || need+=("$package")
done
if [ ${#need[@]} -gt 0 ]; then
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${need[@]}" >/dev/null
fi

if [ -z "${DAEMON:-}" ]; then
  (cd "$ROOT" && cargo build -q --release --bin wg-embed)
  DAEMON=${CARGO_TARGET_DIR:-$ROOT/target}/release/wg-embed
fi

arguments=(--daemon "$(realpath "$DAEMON")" --jobs "${JOBS:-3}")

if [ "$WHICH" != kernel ]; then
  [ -x "$PEERS/boringtun-cli" ] || cargo install -q --version "$BORINGTUN" --root "${PEERS%/bin}" boringtun-cli
  if [ ! -x "$PEERS/wireguard-go" ] && command -v go >/dev/null; then
    GOBIN=$PEERS go install golang.zx2c4.com/wireguard@$WIREGUARD_GO
    mv "$PEERS/wireguard" "$PEERS/wireguard-go"
  fi
  arguments+=(--peer "boringtun=$PEERS/boringtun-cli")
  if [ -x "$PEERS/wireguard-go" ]; then
    arguments+=(--peer "wireguard-go=$PEERS/wireguard-go")
  else
    echo "# wireguard-go: skipped, since Go is missing"
  fi
fi

if [ "$WHICH" != peers ]; then
  vm=$HERE/../kernel/vm.sh
  [ "$INTEROP_DIR/vm/initramfs.gz" -nt "$vm" ] || "$vm" build "$INTEROP_DIR/vm" >/dev/null
  arguments+=(--vm-script "$vm" --vm-directory "$INTEROP_DIR/vm")
fi

PYTHONDONTWRITEBYTECODE=1 exec python3 "$HERE/main.py" "${arguments[@]}" "$WHICH" "$@"
