#!/bin/sh
# Builds the wheel and installs it into fresh environments of the oldest and the newest CPython that is found (3.9 and
# newer; those of pyenv, and what is in PATH); there all tests run. Types are checked, and the documentation is made.
# Needs cargo and, for the tools, PyPI; without one of them, or without a CPython, it prints that it is skipped.
#
#   python/tests/check.sh [--profile PROFILE | --wheel WHEEL] [-- ARGUMENTS OF PYTEST]
#
# PROFILE  of cargo; default: dev, whose build shares what `cargo test` has compiled
# WHEEL    that is tested in place of one that is built here
set -eu

profile=dev wheel=
case ${1-} in
--profile) profile=$2 && shift 2 ;;
--wheel) wheel=$(realpath "$2") && shift 2 ;;
esac
[ "${1-}" = -- ] && shift
cd "$(dirname "$0")/.."

skip() {
    echo "skipped: the Python packages: $*"
    exit 0
}

command -v cargo >/dev/null || skip "there is no cargo"
pythons=$(
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 "$(command -v python3)"; do
        [ -x "$python" ] || continue
        "$python" -c 'import sys
if sys.version_info >= (3, 9) and sys.implementation.name == "cpython":
    import venv, ensurepip
    print("%d.%02d" % sys.version_info[:2], sys.executable)' 2>/dev/null ||
            echo "python: $python cannot make environments, and is left out" >&2
    done | sort -u
)
oldest=$(printf '%s\n' "$pythons" | head -n 1 | cut -d ' ' -f 2)
newest=$(printf '%s\n' "$pythons" | tail -n 1 | cut -d ' ' -f 2)
[ -n "$newest" ] || skip "there is no CPython 3.9 or newer"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# pip ENVIRONMENT REQUIREMENT...
pip() {
    environment=$1
    shift
    "$environment/bin/pip" -q --disable-pip-version-check install "$@"
}

echo "== tools ($("$newest" --version))"
"$newest" -m venv "$work/tools"
pyright=pyright
command -v node >/dev/null || pyright='pyright[nodejs]'
pip "$work/tools" 'maturin>=1.9,<2' mypy "$pyright" pdoc 'pytest>=8' 2>"$work/log" ||
    skip "the tools cannot be installed: $(grep -m 1 ERROR "$work/log")"

if [ -z "$wheel" ]; then
    echo "== wheel (profile $profile)"
    "$work/tools/bin/maturin" build -q --locked --profile "$profile" --out "$work/wheels"
    wheel=$(echo "$work"/wheels/*.whl)
fi
ls -l "$wheel"

echo "== names"
"$newest" ../abi/vocabulary.py ../include/wg_embed.h python events=python/wg_embed/tunnel.py:Event

echo "== types"
"$work/tools/bin/mypy" --strict python tests
"$work/tools/bin/pyright" --pythonversion 3.9 python
"$work/tools/bin/pyright" --pythonpath "$work/tools/bin/python" -p tests

echo "== documentation"
pip "$work/tools" "$wheel"
# pdoc does not find the module of a named tuple.
"$work/tools/bin/python" -W error \
    -W "ignore:Error parsing type annotation ForwardRef('Optional[str]') for wg_embed.Event.__init__" \
    -m pdoc -o "$work/documentation" wg_embed mitmproxy_wireguard

failed=
for python in $(printf '%s\n' "$oldest" "$newest" | uniq); do
    version=$("$python" --version)
    echo "== tests on $version"
    rm -rf "$work/venv"
    "$python" -m venv "$work/venv"
    pip "$work/venv" 'pytest>=8' "$wheel"
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
        pip "$work/venv" 'mitmproxy>=12.2' || echo "mitmproxy cannot be installed: its tests are skipped"
        pip "$work/venv" uvloop || echo "uvloop cannot be installed: its tests are skipped"
        originals='mitmproxy_wireguard==0.1.23 mitmproxy_rs==0.12.15'
    else
        originals='mitmproxy_wireguard==0.1.23'
    fi
    rm -rf "$work/originals"
    for original in $originals; do
        pip "$work/venv" --no-deps --target "$work/originals" "$original" ||
            echo "$original cannot be installed: nothing is compared with it"
    done
    # Not from here: the packages are to be those of the wheel.
    (cd "$work" && venv/bin/python -m pytest -q --rootdir "$OLDPWD" -c "$OLDPWD/pyproject.toml" \
        --originals "$work/originals" "$OLDPWD/tests" "$@") ||
        failed="$failed, $version"
done
[ -z "$failed" ] || { echo "check.sh: tests fail on${failed#,}" >&2; exit 1; }
