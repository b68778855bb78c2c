# For scripts that run programs under a sanitizer: `finds PROGRAM FAULT TEXT` fails unless PROGRAM, a build of broken.c,
# is stopped at FAULT with a report that has TEXT in it.
finds() {
  if timeout 60 "$1" "$2" >"$1.txt" 2>&1; then fail "$1: \"$2\" was not found"; fi
  grep -q "$3" "$1.txt" || { cat "$1.txt" >&2; fail "$1: \"$2\" was not reported as \"$3\""; }
}
