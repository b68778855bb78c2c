#!/bin/sh
# snippets.sh DIRECTORY writes the programs there that docs/C_API.md shows in its ```c blocks. Each block is opened as
# "```c NAME.c", and blocks of one name, one after the other, are one program. Prints the programs' paths.
set -eu
document=$(dirname "$0")/../../docs/C_API.md
mkdir -p "$1"
rm -f "$1"/*.c
awk -v directory="$1" '
  /^```/ && name { name = ""; next }
  /^```c/ {
    if ($1 != "```c" || $2 !~ /^[a-z_]+\.c$/) { print FILENAME ":" NR ": this block does not name its program" >"/dev/stderr"; exit 1 }
    name = directory "/" $2
    printf "#line %d \"%s\"\n", NR + 1, "docs/C_API.md" >>name
    next
  }
  name { print >>name }
' "$document"
ls "$1"/*.c
