#!/bin/sh
# What a distribution and an app's developer do with the library: `cargo cinstall` puts it below a prefix, and programs
# are built there with what pkg-config says, and nothing else.
#
# Environment: CC, NM, READELF, PKG_CONFIG. It needs cargo-c: cargo install --locked cargo-c --version, as
# capi/Cargo.toml has it in `min_version`.
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-gcc} NM=${NM:-nm} READELF=${READELF:-readelf} PKG_CONFIG=${PKG_CONFIG:-pkg-config}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
major=${version%%.*}
out=${CARGO_TARGET_DIR:-target}/c-install
rm -rf "$out"
out=$(mkdir -p "$out" && cd "$out" && pwd)
prefix=$out/prefix

fail() { echo "install.sh: $*" >&2; exit 1; }
same() { diff -u "$2" "$3" >&2 || fail "$1"; }

cargo cinstall --version >/dev/null 2>&1 ||
  fail "needs cargo-c: cargo install --locked cargo-c --version $(sed -n 's/^min_version = "\(.*\)"/\1/p' capi/Cargo.toml)"
CARGO_TERM_QUIET=true cargo cinstall --locked --release --manifest-path capi/Cargo.toml --prefix "$prefix" --libdir lib

# These files and no others, the header as it is committed.
cat >"$out/files.expected" <<EOF
include/wg_embed.h
lib/libwg_embed.a
lib/libwg_embed.so
lib/libwg_embed.so.$major
lib/libwg_embed.so.$version
lib/pkgconfig/wg_embed.pc
EOF
(cd "$prefix" && find . ! -type d | sed 's|^\./||' | LC_ALL=C sort) >"$out/files"
same "other files were installed than expected" "$out/files.expected" "$out/files"
cmp include/wg_embed.h "$prefix/include/wg_embed.h" || fail "the installed header is another one"

# The shared library: its name, what it exports, and what it needs.
so=$prefix/lib/libwg_embed.so
for link in "$so" "$so.$major"; do
  [ "$(readlink "$link")" = "libwg_embed.so.$version" ] || fail "$link leads to $(readlink "$link")"
done
soname=$("$READELF" -d "$so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
[ "$soname" = "libwg_embed.so.$major" ] || fail "the soname is \"$soname\", not libwg_embed.so.$major"
"$NM" -D --defined-only "$so" | awk '{print $3}' | LC_ALL=C sort >"$out/symbols"
same "the exported symbols are not those of abi/symbols.txt" abi/symbols.txt "$out/symbols"
needed() { "$READELF" -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
needed "$so" | grep -qx 'libc\.so\.6' || fail "it is not known what the shared library needs"
for name in $(needed "$so"); do
  case $name in
  libc.so.6 | libm.so.6 | libgcc_s.so.1 | ld-linux-*.so.*) ;;
  *) fail "the shared library needs $name" ;;
  esac
done

# pkg-config.
pc() { p=$1; shift; PKG_CONFIG_PATH=$p/lib/pkgconfig "$PKG_CONFIG" "$@" wg_embed; }
[ "$(pc "$prefix" --modversion)" = "$version" ] || fail "pkg-config says version $(pc "$prefix" --modversion)"

# Where only the static library is installed, as on a system without shared ones.
static=$out/static
cp -R "$prefix" "$static"
rm "$static"/lib/libwg_embed.so*
sed -i "s|$prefix|$static|g" "$static/lib/pkgconfig/wg_embed.pc"

# build KIND SOURCE FLAGS...
build() {
  program=$out/$(basename "$2" .c)-$1
  source=$2
  shift 2
  "$CC" -std=c99 -Wall -Wextra -Wpedantic -Werror -O2 "$source" -o "$program" "$@"
}
examples=0
for source in examples/c/*.c; do
  case $source in */net_*) continue ;; esac # these need the feature `netstack`
  # What pkg-config prints is several words.
  # shellcheck disable=SC2046
  build shared "$source" $(pc "$prefix" --cflags --libs)
  needed "$program" | grep -qx "libwg_embed\.so\.$major" || fail "$program does not ask for libwg_embed.so.$major"
  LD_LIBRARY_PATH=$prefix/lib timeout 60 "$program" >"$program.txt" || fail "$program"
  # shellcheck disable=SC2046
  build static "$source" $(pc "$static" --static --cflags --libs)
  if needed "$program" | grep -q wg_embed; then fail "$program is not linked statically"; fi
  timeout 60 "$program" >"$program.txt" || fail "$program"
  examples=$((examples + 1))
done
[ "$examples" -gt 0 ] || fail "there are no examples"
echo "installed libwg_embed.so.$version ($(stat -Lc %s "$so") bytes) as $soname; $examples examples, shared and static, run"
