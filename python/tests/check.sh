#!/bin/sh
# Builds the wheel and runs all tests of the Python packages on the oldest and the newest CPython that is found (3.9 and
# newer; those of pyenv, and what is in PATH). Needs cargo and, for the tools, PyPI.
#
#   python/tests/check.sh [--release] [-- ARGUMENTS OF PYTEST]
set -eu
cd "$(dirname "$0")/.."

profile=
if [ "${1-}" = --release ]; then
    profile=--release
    shift
fi
[ "${1-}" = -- ] && shift

pythons=$(
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 "$(command -v python3)"; do
        [ -x "$python" ] || continue
        "$python" -c 'import sys, venv, ensurepip
if sys.version_info >= (3, 9) and sys.implementation.name == "cpython":
    print("%d.%02d" % sys.version_info[:2], sys.executable)' || echo "python: $python does not run, and is left out" >&2
    done | sort -u
)
oldest=$(printf '%s\n' "$pythons" | head -n 1 | cut -d ' ' -f 2)
newest=$(printf '%s\n' "$pythons" | tail -n 1 | cut -d ' ' -f 2)
if [ -z "$newest" ]; then
    echo "python: no CPython 3.9 or newer was found" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

echo "== tools ($newest)"
"$newest" -m venv "$work/tools"
"$work/tools/bin/pip" -q install 'maturin>=1.9,<2' mypy pyright
echo "== wheel"
"$work/tools/bin/maturin" build -q $profile --out "$work/wheels"
wheel=$(echo "$work"/wheels/*.whl)
ls -l "$wheel"

echo "== types"
"$work/tools/bin/mypy" --strict python
"$work/tools/bin/pyright" --pythonversion 3.9 python

for python in $(printf '%s\n' "$oldest" "$newest" | uniq); do
    echo "== tests on $("$python" --version)"
    venv=$work/venv
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" -q install pytest "$wheel"
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
        "$venv/bin/pip" -q install 'mitmproxy>=12.2' || echo "mitmproxy cannot be installed: its tests are skipped"
    fi
    # Not from here: the packages are to be those of the wheel.
    (cd "$work" && "$venv/bin/python" -m pytest -q --rootdir "$OLDPWD" -c "$OLDPWD/pyproject.toml" "$OLDPWD/tests" "$@")
done
