"""mitmproxy_wireguard 0.1.23: names, signatures, values, errors, and the life of a server."""

from __future__ import annotations

import asyncio
import base64
import gc
import importlib
import inspect
import shutil
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import Session, run, script, soon, start_legacy, until

import wg_embed


def test_the_module_has_these_names(legacy: ModuleType) -> None:
    extension = importlib.import_module("mitmproxy_wireguard.mitmproxy_wireguard")
    names = {name for name in dir(legacy) if not name.startswith("_")}
    assert names == {"Server", "TcpStream", "start_server", "genkey", "pubkey", "mitmproxy_wireguard"}
    for name in names - {"mitmproxy_wireguard"}:
        assert getattr(legacy, name) is getattr(extension, name)
    assert list(inspect.signature(legacy.start_server).parameters) == [
        "host",
        "port",
        "private_key",
        "peer_public_keys",
        "handle_connection",
        "receive_datagram",
    ]
    for kind in (legacy.Server, legacy.TcpStream):
        assert kind.__module__ == "builtins"
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            type("Sub", (kind,), {})
        assert kind.__hash__ is object.__hash__ and kind.__eq__ is object.__eq__
    methods = {name for name in dir(legacy.TcpStream) if not name.startswith("_")}
    assert methods == {"read", "write", "drain", "write_eof", "close", "is_closing", "get_extra_info"}
    assert {name for name in dir(legacy.Server) if not name.startswith("_")} == {
        "getsockname",
        "send_datagram",
        "close",
        "wait_closed",
    }


@pytest.mark.ours_only("it is itself")
def test_what_the_original_has_left_is_not_imported(legacy: ModuleType, tmp_path: Path) -> None:
    """Both packages install into one directory, and Python prefers extension modules to other files."""
    assert legacy.__file__ is not None
    package = tmp_path / legacy.__name__
    shutil.copytree(Path(legacy.__file__).parent, package)
    (package / "mitmproxy_wireguard.abi3.so").write_text("that of the original")
    code = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
import mitmproxy_wireguard
import mitmproxy_wireguard.mitmproxy_wireguard as extension
import wg_embed._native
assert mitmproxy_wireguard.__file__.startswith(sys.argv[1])
assert extension is mitmproxy_wireguard.mitmproxy_wireguard is importlib.import_module(extension.__name__)
assert extension.Server is mitmproxy_wireguard.Server is wg_embed._native.Server
"""
    ended = script(code, str(tmp_path))
    assert ended.returncode == 0, ended.stderr


def test_keys(legacy: ModuleType) -> None:
    key = legacy.genkey()
    raw = base64.b64decode(key)
    assert len(key) == 44 and len(raw) == 32 and raw[0] & 7 == 0 and raw[31] & 0xC0 == 0x40
    assert legacy.genkey() != key
    assert legacy.pubkey(key) == wg_embed.pubkey(key)
    assert legacy.pubkey(key[:-1]) == legacy.pubkey(key)
    for bad in ("", "x", key[:-2], key[:-4], key + "A", " " + key, "!" * 44, raw.hex(), "ä" * 44):
        with pytest.raises(ValueError, match="^Invalid key.$"):
            legacy.pubkey(bad)
    with pytest.raises(TypeError):
        legacy.pubkey(1)
    # Those of the echo server that came with it.
    assert (
        legacy.pubkey("EG47ZWjYjr+Y97TQ1A7sVl7Xn3mMWDnvjU/VxU769ls=") == "mitmV5Wo7pRJrHNAKhZEI0nzqqeO8u4fXG+zUbZEXA0="
    )
    assert (
        legacy.pubkey("qG8b7LI/s+ezngWpXqj5A7Nj988hbGL+eQ8ePki0iHk=") == "Test1sbpTFmJULgSlJ5hJ1RdzsXWrl3Mg7k9UTN//jE="
    )


def test_errors_of_start_server(legacy: ModuleType) -> None:
    async def main() -> None:
        for bad in ({"private_key": "x"}, {"peer_public_keys": ["x"]}):
            with pytest.raises(ValueError, match="^Invalid key.$"):
                start_legacy(legacy, **bad)
        with pytest.raises(OverflowError):
            start_legacy(legacy, port=70000)
        for bad_type in ({"peer_public_keys": "abc"}, {"host": 1}, {"port": "1"}):
            with pytest.raises(TypeError):
                start_legacy(legacy, **bad_type)
        with pytest.raises(TypeError):
            legacy.start_server("127.0.0.1", 0)
        future = start_legacy(legacy, host="localhost")
        assert asyncio.isfuture(future)
        with pytest.raises(RuntimeError, match="^invalid IP address syntax$"):
            await future
        with pytest.raises(RuntimeError, match=r"^Cannot assign requested address \(os error 99\)$") as caught:
            await start_legacy(legacy, host="192.0.2.1")
        assert not isinstance(caught.value, OSError)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            with pytest.raises(RuntimeError, match=r"^Address already in use \(os error 98\)$"):
                await start_legacy(legacy, port=other.getsockname()[1])

    with pytest.raises(RuntimeError):
        start_legacy(legacy)  # no loop runs
    run(main())


def test_a_server_has_an_address_and_closes(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start_legacy(legacy)
        host, port = server.getsockname()
        assert host == "127.0.0.1" and 0 < port < 65536
        assert repr(server) == f"Server(127.0.0.1:{port})"
        with pytest.raises(AttributeError):
            server.attribute = 1
        assert server == server and hash(server) == hash(server) and server != await start_legacy(legacy)
        assert server.close() is None
        assert await soon(server.wait_closed()) is None
        server.close()
        assert server.getsockname() == (host, port)
        again = await start_legacy(legacy, port=port)
        again.close()
        everywhere = await start_legacy(legacy, host="")
        assert everywhere.getsockname()[0] == "0.0.0.0"
        everywhere.close()

    run(main())


@pytest.mark.ours_only("a second wait_closed never returns")
def test_wait_closed_returns_each_time(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start_legacy(legacy)
        early = [server.wait_closed(), server.wait_closed()]
        await asyncio.sleep(0)
        assert not early[0].done()
        server.close()
        assert await soon(asyncio.gather(*early, server.wait_closed(), server.wait_closed())) == [None] * 4

    run(main())


@pytest.mark.ours_only("it shuts down by itself")
def test_a_server_without_peers_runs(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start_legacy(legacy, peer_public_keys=[])
        port = server.getsockname()[1]
        await asyncio.sleep(0.1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        server.close()
        await soon(server.wait_closed())

    run(main())


def test_a_server_that_nothing_refers_to_closes(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start_legacy(legacy)
        port = server.getsockname()[1]
        del server
        gc.collect()

        def is_free() -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                try:
                    other.bind(("127.0.0.1", port))
                except OSError:
                    return False
                return True

        await until(is_free)

    run(main())


def test_when_the_server_closes(legacy: ModuleType, original: bool) -> None:
    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
            stream, _, writer = await session.connect()
            waiting = stream.read(10)
            session.server.close()
            await soon(session.server.wait_closed())
            try:
                assert await soon(waiting) == b""
            except OSError:
                assert original  # Which of its tasks ends first is a matter of chance.
            gone = "^WireGuard server has been shut down.$"
            calls: dict[str, tuple[Any, ...]] = {
                "read": (1,),
                "write": (b"x",),
                "drain": (),
                "write_eof": (),
                "close": (),
            }
            for name, arguments in calls.items():
                with pytest.raises(OSError, match=gone):
                    result = getattr(stream, name)(*arguments)
                    if result is not None:
                        await soon(result)
            assert "TcpStream(0, " in repr(stream)
            # That of the original depends on which of its tasks ends first.
            assert original or stream.is_closing() is False
            with pytest.raises(OSError, match=gone):
                session.server.send_datagram(b"x", ("10.0.0.1", 1), ("10.0.0.1", 2))
            writer.close()

    run(main())


@pytest.mark.ours_only("a reset is not sent")
def test_when_the_server_closes_its_clients_are_told(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
            _, reader, _ = await session.connect()
            session.server.close()
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())

    run(main())
