#!/bin/sh
# Makes all that is published: the source distribution, and wheels for x86-64 and arm64, with glibc (manylinux2014) and
# musl (musllinux_1_1), for CPython 3.9 and newer and for free-threaded ones. zig links them, so the machine's own glibc
# does not matter. Then all are checked: by auditwheel, abi3audit and twine; the source distribution is built outside of
# the repository; and wheels are tested where there is an interpreter for them.
#
#   python/wheels.sh [--check] [DIRECTORY]      default: target/wheels
#
# --check        makes nothing, and checks what an earlier run has left in the directory
#
# It needs Linux on x86-64 with rustup, a CPython 3.9 or newer, and PyPI; for the tests of the wheels for arm64 and musl
# Debian. There CPython with musl is made of Debian's sources, and qemu-user-static is installed. What cannot be had is
# skipped, and the reason printed; the last line counts that.
#
# PYTHON_MUSL    a CPython with musl, to test the wheel for x86-64 with in place of one that is made
# PYTHON_3_14T   a free-threaded CPython 3.14, to test its wheel with
# PROFILE        of cargo; default: release, with link-time optimization: a minute and more for each wheel
set -eu
makes=yes
[ "${1-}" != --check ] || { makes='' && shift; }
out=$(realpath -m "${1:-$(dirname "$0")/../target/wheels}")
mkdir -p "$out"
cd "$(dirname "$0")"
root=$(cd .. && pwd)
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
zig=$(python3 -c 'import os, ziglang; print(os.path.join(ziglang.__path__[0], "zig"))')

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

make_all() {
    rm -f "$out"/wg_embed-*
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
}

[ -z "$makes" ] || make_all
ls -l "$out"/wg_embed-*

echo "== checks"
twine check --strict "$out"/wg_embed-*
# auditwheel looks for musl on this machine, which has glibc: a wheel for musl has to need `libc.so` alone, which is
# what musl's loader calls itself.
cat >"$work/audit.py" <<'PYTHON'
import io, json, subprocess, sys, zipfile
from elftools.elf.elffile import ELFFile

wheel = sys.argv[1]
if "musllinux" in wheel:
    files = zipfile.ZipFile(wheel)
    modules = [ELFFile(io.BytesIO(files.read(name))) for name in files.namelist() if name.endswith(".so")]
    needed = {tag.needed for module in modules for tag in module.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
    assert needed == {"libc.so"}, f"{wheel} needs {needed}"
else:
    tag = json.loads(subprocess.check_output(["auditwheel", "show", "--json", wheel]))["overall_tag"]
    assert tag.startswith("manylinux_2_17_"), f"{wheel} is {tag}"
PYTHON
for wheel in "$out"/*.whl; do
    python3 "$work/audit.py" "$wheel" || fail "audit of $wheel"
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

# apt ARCHITECTURE COMMAND...: apt-get with its own lists, as if nothing was installed.
apt() {
    state=$work/apt-$1 architecture=$1
    shift
    if [ ! -d "$state" ]; then
        mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
        : >"$state/status"
        suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
        for kind in deb deb-src; do
            echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
                "http://deb.debian.org/debian $suite main"
        done >"$state/list"
        # With the directory left there, later calls would go without the lists.
        apt "$architecture" update || { rm -rf "$state"; return 1; }
    fi
    apt-get -q -o Dir::Etc::SourceList="$state/list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
        -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=root \
        "$@" >"$work/log" 2>&1
}

# debian ARCHITECTURE DIRECTORY PACKAGE...: unpacks packages of Debian, with what they depend on.
debian() {
    architecture=$1 directory=$2
    shift 2
    mkdir -p "$directory"
    apt "$architecture" install --yes --download-only --no-install-recommends "$@" || return 1
    for package in "$work/apt-$architecture"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$directory" && rm "$package"
    done
}

# qemu: makes sure that there is one for arm64.
qemu() {
    command -v qemu-aarch64-static >/dev/null ||
        apt-get install -y -q --no-install-recommends qemu-user-static >"$work/log" 2>&1
}

# musl_python MACHINE: makes a CPython with musl in $work/python-MACHINE, and musl beside it, of Debian's sources of the
# version that builds it. It has what asyncio needs.
musl_python() {
    build=$work/python-$1
    case $1 in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; esac
    debian "$architecture" "$build/root" musl || return 1
    version=$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    (
        mkdir -p "$work/cpython"
        cd "$work/cpython"
        set -- *.orig.tar.*
        [ -e "$1" ] || apt amd64 source --download-only "$version"
    ) || return 1
    tar xf "$work"/cpython/*.orig.tar.* -C "$build" --strip-components 1
    printf '#!/bin/sh\nexec %s cc -target %s-linux-musl -dynamic "$@"\n' "$zig" "$1" >"$build/cc"
    chmod +x "$build/cc"
    (
        cd "$build"
        # Three answers are given, since it cannot run what it makes. Without -dynamic it would load no modules; zig
        # makes date macros errors.
        ./configure --host="$1-linux-musl" --build=x86_64-linux-gnu ac_cv_file__dev_ptmx=yes ac_cv_file__dev_ptc=no \
            ac_cv_buggy_getaddrinfo=no --with-build-python="$(python3 -c 'import sys; print(sys.executable)')" \
            CC="$build/cc" CFLAGS='-O1 -Wno-date-time' OPT= AR="$zig ar" RANLIB="$zig ranlib" \
            READELF="$(command -v readelf)" --without-ensurepip --disable-test-modules &&
            make -j "$(nproc)" python sharedmods
    ) >"$work/log" 2>&1
}

echo "== tests"
# Tags may have a *.
wheel() { set -- "$out"/wg_embed-*-$1_"$2".whl; echo "$1"; }
tests/check.sh --wheel "$(wheel "cp39-abi3-manylinux*" x86_64)"
# small TAG MACHINE COMMAND...: tests a wheel with an interpreter.
small() {
    wheel=$(wheel "$1" "$2")
    [ -e "$wheel" ] || { skip "tests of $1 for $2: it was not made" && return; }
    unpacked=$(unpacked "$wheel")
    shift 2
    "$@" "$work/small.py" "$unpacked"
}
reason() { grep -m 1 '^E:\|error: ' "$work/log" || tail -n 1 "$work/log"; }
if qemu && debian arm64 "$work/arm64" python3; then
    small "cp39-abi3-manylinux*" aarch64 qemu-aarch64-static -L "$work/arm64" "$work/arm64/usr/bin/python3"
else
    skip "tests of cp39-abi3-manylinux on arm64: $(reason)"
fi
if [ -n "${PYTHON_MUSL-}" ]; then
    small cp39-abi3-musllinux_1_1 x86_64 "$PYTHON_MUSL"
elif musl_python x86_64; then
    small cp39-abi3-musllinux_1_1 x86_64 "$build/root/lib/ld-musl-x86_64.so.1" "$build/python"
else
    skip "tests of cp39-abi3-musllinux_1_1 on x86-64: $(reason)"
fi
if qemu && musl_python aarch64; then
    small cp39-abi3-musllinux_1_1 aarch64 qemu-aarch64-static -L "$build/root" "$build/python"
else
    skip "tests of cp39-abi3-musllinux_1_1 on arm64: $(reason)"
fi
if [ -n "${PYTHON_3_14T-}" ]; then
    small "cp314-cp314t-manylinux*" x86_64 "$PYTHON_3_14T"
else
    skip "tests of cp314-cp314t: PYTHON_3_14T names no interpreter"
fi

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
