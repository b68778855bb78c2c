#!/usr/bin/env bash
# Compares the public items of the packages for Rust programs with the lists in this folder:
#
#     abi/rust-api/check.sh           prints what differs; the status is then 1
#     abi/rust-api/check.sh update    writes the lists, after an intended change
#
# The lists are of Linux, and without features. The items are read from the JSON of a nightly toolchain's rustdoc. Where
# there is no such toolchain, or where it is too new for the version of public-api in Cargo.lock, the script prints that
# it is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
packages=(wg-embed wg-embed-netstack wg-embed-proxy wg-embed-wireproto)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/rust-api} CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0

failed=0

skip() {
  echo "skipped: the public items for Rust: $1"
  exit "$failed"
}

if ! rustup run nightly rustdoc --version >/dev/null 2>&1 &&
  ! rustup toolchain install nightly --profile minimal >/dev/null 2>&1; then
  skip "there is no nightly toolchain to be had"
fi
cargo build -q --locked --manifest-path abi/rust-api/Cargo.toml
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for package in "${packages[@]}"; do
  list=abi/rust-api/$package.txt
  cargo +nightly rustdoc -q --locked -p "$package" --lib -- -Z unstable-options --output-format json --cap-lints allow
  json=$CARGO_TARGET_DIR/doc/${package//-/_}.json
  status=0
  "$CARGO_TARGET_DIR/debug/rust-api" "$json" >"$found/items" 2>"$found/error" || status=$?
  case $status in
    0) ;;
    2) skip "$(rustc +nightly --version): $(tail -n 1 "$found/error")" ;;
    *) cat "$found/error" >&2 && exit 1 ;;
  esac
  if [ "${1:-}" = update ]; then
    cp "$found/items" "$list"
  elif ! diff -u "$list" "$found/items"; then
    failed=1
  fi
done
[ "$failed" = 0 ] || echo "after an intended change, run abi/rust-api/check.sh update" >&2
exit "$failed"
