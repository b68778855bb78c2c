#!/bin/sh
# Makes of libwg_embed.a one whose only global symbols are the functions of the header, so that it can be linked beside
# another static library that is written in Rust: both have Rust's standard library in them, under the same names.
#
#     capi/localize.sh FROM.a TO.a SYMBOLS...     SYMBOLS: files with a name on each line, such as abi/symbols.txt
#
# Environment: LD, OBJCOPY and AR of the target (for Android those of the NDK: ld.lld, llvm-objcopy, llvm-ar). For
# Apple's targets there is apple/localize.py.
set -eu
[ $# -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
LD=${LD:-ld} OBJCOPY=${OBJCOPY:-objcopy} AR=${AR:-ar}
from=$1 to=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat "$@" >"$work/symbols"
# What none of the functions needs is left out, as it would be of the archive. (Not by --gc-sections: with it GNU ld
# turns names that the system need not have into names that it must have.)
set --
while read -r name; do set -- "$@" -u "$name"; done <"$work/symbols"
"$LD" -r "$@" "$from" -o "$work/all.o"
# The archive has bitcode of Rust's standard library as well. Joined, it is invalid, and confuses tools.
"$OBJCOPY" --keep-global-symbols="$work/symbols" -R .llvmbc -R .llvmcmd -R .group "$work/all.o" "$work/wg_embed.o"
rm -f "$to"
"$AR" rcs "$to" "$work/wg_embed.o"
