#!/bin/sh
# snippets.sh DIRECTORY writes the programs there that README.md and docs/C_API.md show in their ```c blocks. Each block
# is opened as "```c NAME.c", and blocks of one name, one after the other, are one program. Prints the programs' paths.
set -eu
root=$(dirname "$0")/../..
mkdir -p "$1"
rm -f "$1"/*.c
awk -v directory="$1" -v root="$root/" '
  /^```/ && name { name = ""; next }
  /^```c( |$)/ {
    if ($1 != "```c" || $2 !~ /^[a-z_]+\.c$/) {
      print FILENAME ":" FNR ": this block does not name its program" >"/dev/stderr"
      exit 1
    }
    name = directory "/" $2
    printf "#line %d \"%s\"\n", FNR + 1, substr(FILENAME, length(root) + 1) >>name
    next
  }
  name { print >>name }
' "$root/README.md" "$root/docs/C_API.md"
ls "$1"/*.c
