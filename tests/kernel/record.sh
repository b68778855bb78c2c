#!/usr/bin/env bash
# Records what the Linux kernel's WireGuard sends, and when, in the scenarios of scenarios.py.
#   record.sh [-o DIR] [-w DIR] [NAME ...]     all scenarios (about five minutes, they run side by side) or those named
#   -o  where the .trace files go              default: tests/vectors/traces
#   -w  where the VM and the Python environment are kept for the next run; default: a temporary directory
# Needs root and Debian on x86-64; installs what it needs (see vm.sh).
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
CRYPTOGRAPHY=cryptography==50.0.2
OUT=$HERE/../vectors/traces WORK=
while getopts o:w: option; do
  case $option in
    o) OUT=$OPTARG ;;
    w) WORK=$OPTARG ;;
    *) sed -n 3,6p "$0"; exit 2 ;;
  esac
done
shift $((OPTIND - 1))

NS=wgtrace$$ TAP=wgtrace HOST4=198.18.0.1 VM4=198.18.0.2 SCRATCH=
if [ -z "$WORK" ]; then SCRATCH=$(mktemp -d); WORK=$SCRATCH; fi
VM=$WORK/vm
cleanup() {
  "$HERE/vm.sh" stop "$VM" "$NS" "$TAP"
  [ -z "$SCRATCH" ] || rm -rf "$SCRATCH"
}
trap cleanup EXIT

[ -s "$VM/initramfs.gz" ] || "$HERE/vm.sh" build "$VM"
if ! "$WORK/venv/bin/pip" freeze 2>/dev/null | grep -qix "$CRYPTOGRAPHY"; then
  python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -q --no-install-recommends python3-venv >/dev/null
  python3 -m venv "$WORK/venv"
  "$WORK/venv/bin/pip" -q install "$CRYPTOGRAPHY"
fi

# What else the machine does must not show in the times.
VM_NICE=-10 "$HERE/vm.sh" start "$VM" "$NS" "$TAP" "$HOST4" "$VM4"
mkdir -p "$OUT"
PYTHONDONTWRITEBYTECODE=1 nice -n -10 ip netns exec "$NS" "$WORK/venv/bin/python" "$HERE/record.py" \
  --tap "$TAP" --host "$HOST4" --vm "$VM4" --hz "$(sed -n 's/^CONFIG_HZ=//p' "$VM"/kernel/boot/config-*)" --out "$OUT" "$@"
