#!/bin/sh
# Makes all that is published: the source distribution, and wheels for x86-64 and arm64, with glibc (manylinux2014) and
# musl (musllinux_1_1), for CPython 3.9 and newer and for free-threaded ones. zig links them, so the machine's own glibc
# does not matter. Then all are checked: by auditwheel, abi3audit and twine; the source distribution is built outside of
# the repository; and wheels are tested where there is an interpreter for them.
#
#   python/wheels.sh [DIRECTORY]      default: target/wheels
#
# It needs Linux on x86-64 with rustup, a CPython 3.9 or newer, and PyPI; for the tests of the arm64 wheel Debian
# (qemu-user-static is installed). What cannot be had is skipped, and the reason printed; the last line counts that.
#
# PYTHON_MUSL    a CPython with musl, to test its wheel with
# PYTHON_3_14T   a free-threaded CPython 3.14, to test its wheel with
# PROFILE        of cargo; default: release, with link-time optimization: a minute and more for each wheel
set -eu
cd "$(dirname "$0")"
root=$(cd .. && pwd)
out=${1:-$root/target/wheels}
mkdir -p "$out"
out=$(cd "$out" && pwd)
profile=${PROFILE:-release}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
skipped=0

fail() { echo "wheels.sh: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; skipped=$((skipped + 1)); }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

echo "== tools"
python3 -m venv "$work/tools"
"$work/tools/bin/pip" -q --disable-pip-version-check install 'maturin[zig]>=1.9,<2' auditwheel abi3audit twine
PATH=$work/tools/bin:$PATH
rm -f "$out"/wg_embed-*

# build TARGET TAG [ARGUMENT...]
build() {
    target=$1 tag=$2
    shift 2
    rustup target add "$target" >"$work/log" 2>&1 || {
        skip "$target: $(grep -im 1 error "$work/log")"
        return
    }
    maturin build -q --locked --zig --profile "$profile" --target "$target" --compatibility "$tag" --out "$out" "$@"
}

for target in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu; do
    echo "== $target"
    build "$target" manylinux2014
    # PyO3 supports free-threaded ones from 3.14 on. maturin has what is to be known of it.
    build "$target" manylinux2014 --no-default-features -i python3.14t
done
for target in x86_64-unknown-linux-musl aarch64-unknown-linux-musl; do
    echo "== $target"
    build "$target" musllinux_1_1
done
echo "== source"
maturin sdist -o "$out" >"$work/log" 2>&1 || { cat "$work/log"; fail "there is no source distribution"; }
ls -l "$out"/wg_embed-*

echo "== checks"
twine check --strict "$out"/wg_embed-*
for wheel in "$out"/*.whl; do
    case $wheel in *musllinux*) tag=musllinux_1_1 ;; *) tag=manylinux_2_17 ;; esac
    auditwheel show "$wheel" >"$work/log" || { cat "$work/log"; fail "auditwheel"; }
    grep -q "\"\?${tag}_" "$work/log" || { cat "$work/log"; fail "$wheel is not $tag"; }
    case $wheel in
    *-abi3-*) abi3audit --strict --assume-minimum-abi3 3.9 "$wheel" ;;
    esac
done

# What a wheel is asked for where pytest would be much to carry: keys, a tunnel, bytes through it both ways.
cat >"$work/small.py" <<'PYTHON'
import asyncio, platform, sys
sys.path.insert(0, sys.argv[1])
import mitmproxy_wireguard
import wg_embed

async def main():
    keys = [wg_embed.genkey() for _ in range(2)]
    server = wg_embed.Tunnel(wg_embed.Config(
        keys[0], [wg_embed.Peer(wg_embed.pubkey(keys[1]), ["10.0.0.1/32"])], ["10.0.0.2"]), bind="127.0.0.1")
    client = wg_embed.Tunnel(wg_embed.Config(
        keys[1], [wg_embed.Peer(wg_embed.pubkey(keys[0]), ["0.0.0.0/0"], f"127.0.0.1:{server.listen_port}")],
        ["10.0.0.1"]))
    async def echo(reader, writer):
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
    data = bytes(range(256)) * 4000
    with server, client:
        async with await server.net.serve(echo, 80):
            reader, writer = await client.net.dial("10.0.0.2:80")
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            writer.close()

asyncio.run(asyncio.wait_for(main(), 120))
print("ok:", platform.machine(), sys.version.split(" (")[0],
      "without the global lock" if not getattr(sys, "_is_gil_enabled", lambda: True)() else "")
PYTHON

# unpacked WHEEL: prints where its packages are.
unpacked() {
    directory=$work/$(basename "$1" .whl)
    python3 -m zipfile -e "$1" "$directory"
    echo "$directory"
}

# CPython of Debian for arm64, under $1, without installing it.
arm64_python() {
    mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial"
    : >"$1/apt/status"
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" \
        >"$1/apt/list"
    for what in update "install --yes --download-only --no-install-recommends python3"; do
        # shellcheck disable=SC2086
        apt-get -q -o Dir::Etc::SourceList="$1/apt/list" -o Dir::Etc::SourceParts=/dev/null \
            -o Dir::State::Lists="$1/apt/lists" -o Dir::State::status="$1/apt/status" -o Dir::Cache="$1/apt/cache" \
            -o APT::Architecture=arm64 -o APT::Architectures=arm64 $what >"$work/log" 2>&1 || return 1
    done
    for package in "$1"/apt/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$1"
    done
    if ! command -v qemu-aarch64-static >/dev/null; then
        apt-get install -y -q --no-install-recommends qemu-user-static >"$work/log" 2>&1
    fi
}

echo "== tests"
# Tags may have a *.
wheel() { set -- "$out"/wg_embed-*-$1_"$2".whl; echo "$1"; }
tests/check.sh --wheel "$(wheel "cp39-abi3-manylinux*" x86_64)"
if arm64_python "$work/arm64"; then
    arm64=$(unpacked "$(wheel "cp39-abi3-manylinux*" aarch64)")
    qemu-aarch64-static -L "$work/arm64" "$work/arm64/usr/bin/python3" "$work/small.py" "$arm64"
else
    skip "no CPython for arm64: $(grep -m 1 '^E:' "$work/log")"
fi
# small TAG INTERPRETER
small() {
    if [ -z "$2" ]; then
        skip "tests of $1: no interpreter was named"
    else
        "$2" "$work/small.py" "$(unpacked "$(wheel "$1" x86_64)")"
    fi
}
small cp39-abi3-musllinux_1_1 "${PYTHON_MUSL-}"
small "cp314-cp314t-manylinux*" "${PYTHON_3_14T-}"

echo "== the source distribution, built by itself"
mkdir "$work/source"
tar xzf "$out"/wg_embed-*.tar.gz -C "$work/source" --strip-components 1
(
    cd "$work/source"
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/sdist CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        "$work/tools/bin/pip" -q --disable-pip-version-check wheel --no-deps -w "$work/own" .
)
python3 "$work/small.py" "$(unpacked "$(echo "$work"/own/*.whl)")"
echo "all good: $(ls "$out"/wg_embed-* | wc -l) files in $out; $skipped skipped"
