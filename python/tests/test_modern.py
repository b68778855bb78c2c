"""The WireGuard part of mitmproxy_rs 0.12.15."""

from __future__ import annotations

import asyncio
import base64
import errno
import inspect
import ipaddress
import logging
import re
import socket
from types import ModuleType
from typing import Any

import pytest
from support import Session, client, digest, noise, read_all, run, soon, start_modern

import wg_embed


def test_the_modules_have_these_names(modern: ModuleType) -> None:
    wireguard = modern.wireguard
    assert set(wireguard.__all__) == {"WireGuardServer", "genkey", "pubkey", "start_wireguard_server"}
    assert list(inspect.signature(wireguard.start_wireguard_server).parameters) == [
        "host",
        "port",
        "private_key",
        "peer_public_keys",
        "handle_tcp_stream",
        "handle_udp_stream",
    ]
    assert modern.Stream.__name__ == "Stream" and wireguard.WireGuardServer.__name__ == "WireGuardServer"
    assert wireguard.WireGuardServer.__module__ == wireguard.__name__
    assert modern.Stream.__module__ == modern.__name__
    for kind in (modern.Stream, wireguard.WireGuardServer):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            type("Sub", (kind,), {})
    assert {name for name in dir(modern.Stream) if not name.startswith("_")} == {
        "read",
        "write",
        "drain",
        "write_eof",
        "close",
        "is_closing",
        "wait_closed",
        "get_extra_info",
    }
    assert {name for name in dir(wireguard.WireGuardServer) if not name.startswith("_")} == {
        "getsockname",
        "close",
        "wait_closed",
    }


def test_keys(modern: ModuleType) -> None:
    key = modern.wireguard.genkey()
    assert len(base64.b64decode(key)) == 32
    assert modern.wireguard.pubkey(key) == wg_embed.pubkey(key)
    for bad in ("", "x", key[:-1], key + "A", " " + key, "!" * 44, "ä" * 44):
        with pytest.raises(ValueError, match="^Invalid key.$"):
            modern.wireguard.pubkey(bad)


def test_errors_of_the_start(modern: ModuleType) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="^Invalid key.$"):
            start_modern(modern, private_key="x")
        with pytest.raises(ValueError, match="^Invalid key.$"):
            start_modern(modern, peer_public_keys=["x"])
        with pytest.raises(OverflowError):
            start_modern(modern, port=70000)
        for host in ("localhost", ""):
            with pytest.raises(ValueError, match="^invalid IP address syntax"):
                start_modern(modern, host=host)
        with pytest.raises(OSError, match="Failed to bind UDP socket to 192.0.2.1:7") as caught:
            await start_modern(modern, host="192.0.2.1", port=7)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            port = other.getsockname()[1]
            with pytest.raises(OSError, match=f"Failed to bind UDP socket to 127.0.0.1:{port}") as caught:
                await start_modern(modern, port=port)
            assert caught.value.errno == errno.EADDRINUSE and caught.value.filename is None

    run(main())


def test_a_server_has_an_address_and_closes(modern: ModuleType) -> None:
    async def main() -> None:
        server = await start_modern(modern)
        host, port = server.getsockname()
        assert host == "127.0.0.1" and repr(server) == f"WireGuardServer(127.0.0.1:{port})"
        with pytest.raises(AttributeError):
            server.attribute = 1
        assert server.close() is None
        server.close()
        for _ in range(2):
            closed = server.wait_closed()
            assert asyncio.isfuture(closed) and await soon(closed) == ()
        assert server.getsockname() == (host, port)
        (await start_modern(modern, port=port)).close()
        # Addresses come as objects, too.
        (await start_modern(modern, host=ipaddress.ip_address("127.0.0.1"))).close()

    run(main())


@pytest.mark.ours_only("a server whose start is not over yet may end by itself")
def test_wait_closed_waits(modern: ModuleType) -> None:
    async def main() -> None:
        server = await start_modern(modern)
        early = server.wait_closed()
        await asyncio.sleep(0)
        assert not early.done()
        server.close()
        assert await soon(early) == ()

    run(main())


def test_streams_of_a_server_that_is_gone(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            stream, _, writer = await session.connect()
            ended, _, other = await session.connect()
            ended.write_eof()
            session.server.close()
            await soon(session.server.wait_closed())
            assert await soon(stream.read(10)) == b"" and await soon(ended.read(10)) == b""
            assert stream.is_closing() is True and ended.is_closing() is True
            gone = "^Server has been shut down.$"
            calls: dict[str, tuple[Any, ...]] = {"write": (b"x",), "drain": (), "write_eof": (), "close": ()}
            for name, arguments in calls.items():
                with pytest.raises(OSError, match=gone):
                    result = getattr(stream, name)(*arguments)
                    if result is not None:
                        await soon(result)
            assert ended.write_eof() is None
            with pytest.raises(OSError, match="^connection closed$"):
                ended.write(b"x")
            assert stream.get_extra_info("transport_protocol") == "tcp" and "Stream(2, " in repr(stream)
            writer.close()
            other.close()

    run(main())


def test_both_families_share_a_port(modern: ModuleType) -> None:
    if not socket.has_ipv6:
        pytest.skip("this host has no IPv6")

    async def main() -> None:
        first = await start_modern(modern, host="0.0.0.0")
        port = first.getsockname()[1]
        try:
            second = await start_modern(modern, host="::", port=port)
        except OSError as error:
            first.close()
            if error.errno == errno.EAFNOSUPPORT:
                pytest.skip("this host has no IPv6")
            raise
        assert second.getsockname() == ("::", port) and repr(second) == f"WireGuardServer([::]:{port})"
        second.close()
        first.close()

    run(main())


def test_streams_describe_themselves(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            stream, _, writer = await session.connect("10.0.0.42:9001")
            assert isinstance(stream, modern.Stream)
            peer, sock = writer.get_extra_info("sockname"), session.server.getsockname()
            assert stream.get_extra_info("transport_protocol") == "tcp"
            assert stream.get_extra_info("transport_protocol", "udp") == "tcp"
            assert stream.get_extra_info("peername") == peer
            assert stream.get_extra_info("sockname") == ("10.0.0.42", 9001)
            assert stream.get_extra_info("original_dst") == sock
            assert stream.get_extra_info("original_src") == ("127.0.0.1", session.tunnel.listen_port)
            for name in ("pid", "process_name", "remote_endpoint", "nonsense"):
                assert stream.get_extra_info(name, 1) == 1
                with pytest.raises(KeyError, match=name):
                    stream.get_extra_info(name)
            number = int(re.match(r"Stream\((\d+), ", repr(stream))[1])  # type: ignore[index]
            assert number == 2 and f"peer={peer[0]}:{peer[1]}" in repr(stream)
            second, _, _ = await session.connect()
            assert repr(second).startswith("Stream(4, ")
            udp = session.tunnel.net.udp(1234, "10.0.0.1")
            udp.send(b"x", ("10.0.0.42", 53))
            flow = await session.next()
            assert repr(flow).startswith("Stream(3, ") and flow.get_extra_info("transport_protocol") == "udp"
            assert flow.get_extra_info("peername") == ("10.0.0.1", 1234)
            assert flow.get_extra_info("sockname") == ("10.0.0.42", 53)

    run(main())


def test_read_write_and_the_ends(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            stream, reader, writer = await session.connect()
            waiting = stream.read(100)
            assert asyncio.isfuture(waiting)
            writer.write(b"hello")
            assert await soon(waiting) == b"hello"
            for data in (b"ab", bytearray(b"cd"), memoryview(b"ef"), [103]):
                stream.write(data)
            assert await soon(stream.drain()) == ()
            assert await soon(reader.readexactly(7)) == b"abcdefg"
            with pytest.raises(TypeError):
                stream.write("text")
            assert stream.is_closing() is False
            stream.write_eof()
            assert stream.is_closing() is True
            assert await soon(reader.read()) == b""
            with pytest.raises(OSError, match="^connection closed$"):
                stream.write(b"more")
            writer.write(b"still read")
            writer.write_eof()
            assert await soon(read_all(stream)) == b"still read"
            for _ in range(3):
                assert await soon(stream.read(1)) == b""
            assert await soon(stream.wait_closed()) == ()
            assert await soon(stream.wait_closed()) == ()

    run(main())


def test_close_delivers_what_was_written(modern: ModuleType) -> None:
    sent = noise(3_000_000)

    async def main() -> None:
        async with Session(start_modern, modern) as session:
            stream, reader, writer = await session.connect()
            stream.write(sent)
            stream.close()
            stream.close()
            assert stream.is_closing() is True
            assert await soon(stream.read(1)) == b""
            with pytest.raises(OSError, match="^connection closed$"):
                stream.write(b"more")
            assert digest(await soon(reader.read())) == digest(sent)
            writer.close()

    run(main())


@pytest.mark.ours_only("the peer of a stream that was closed hangs when its buffers are full")
def test_what_arrives_after_close_is_taken_and_thrown_away(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            stream, reader, writer = await session.connect()
            writer.write(bytes(500_000))
            stream.write(b"answer")
            stream.close()
            assert await soon(reader.read()) == b"answer"
            writer.write(bytes(500_000))
            await soon(writer.drain())
            writer.write_eof()
            writer.close()
            await soon(writer.wait_closed())

    run(main())


def test_a_reset_by_the_peer(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            stream, _, writer = await session.connect()
            writer.write(b"established")
            assert await soon(stream.read(100)) == b"established"
            waiting = stream.read(10)
            writer.transport.abort()
            assert await soon(waiting) == b""
            assert await soon(stream.read(10)) == b""
            stream.write(b"ignored")
            stream.close()

    run(main())


def test_datagrams_are_streams(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            with session.tunnel.net.udp(1234, "10.0.0.1") as udp:
                udp.send(b"hello world", ("10.0.0.42", 53))
                stream = await session.next()
                # One whole datagram, whatever was asked for.
                assert await soon(stream.read(3)) == b"hello world"
                udp.send(b"second", ("10.0.0.42", 53))
                udp.send(b"third", ("10.0.0.42", 53))
                assert await soon(stream.read(65535)) == b"second"
                assert await soon(stream.read(65535)) == b"third"
                stream.write(b"one")
                stream.write(b"two")
                await soon(stream.drain())
                assert await soon(udp.receive()) == (b"one", ("10.0.0.42", 53))
                assert await soon(udp.receive()) == (b"two", ("10.0.0.42", 53))
                udp.send(b"another", ("10.0.0.43", 53))
                other = await session.next()
                assert await soon(other.read(65535)) == b"another"
                stream.write_eof()
                with pytest.raises(OSError, match="^connection closed$"):
                    stream.write(b"x")
                other.close()
                assert await soon(other.read(1)) == b""

    run(main())


@pytest.mark.ours_only("IPv6 flows differ in their errors")
def test_datagrams_over_ipv6(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            with session.tunnel.net.udp(1234, "fd00::1") as udp:
                udp.send(b"six", ("2001:db8::42", 53))
                stream = await session.next()
                assert await soon(stream.read(100)) == b"six"
                assert stream.get_extra_info("sockname") == ("2001:db8::42", 53)
                stream.write(b"back")
                assert await soon(udp.receive()) == (b"back", ("2001:db8::42", 53))

    run(main())


@pytest.mark.ours_only("it closes later, without a reset")
def test_when_the_server_closes(modern: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_modern, modern) as session:
            stream, reader, writer = await session.connect()
            waiting = stream.read(10)
            session.server.close()
            assert await soon(waiting) == b""
            assert await soon(stream.read(10)) == b""
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())
            assert stream.is_closing() is True
            writer.close()

    run(main())


@pytest.mark.ours_only("it keeps the stream of a handler that has failed")
def test_the_stream_of_a_handler_that_failed_is_closed(modern: ModuleType) -> None:
    async def fails(stream: Any) -> None:
        raise ArithmeticError("of the handler")

    async def cancels(stream: Any) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        for handler in (fails, cancels):
            server = await start_modern(modern, handler)
            with client(server.getsockname()[1]) as tunnel:
                reader, writer = await tunnel.net.dial("10.0.0.42:5")
                assert await soon(reader.read()) == b""
                writer.close()
            server.close()

    run(main())


def test_a_cancelled_handler_is_not_logged(modern: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    reached: asyncio.Event

    async def cancels(stream: Any) -> None:
        reached.set()
        raise asyncio.CancelledError

    async def main() -> None:
        nonlocal reached
        reached = asyncio.Event()
        with caplog.at_level(logging.ERROR):
            server = await start_modern(modern, cancels)
            with client(server.getsockname()[1]) as tunnel:
                await tunnel.net.dial("10.0.0.42:5")
                await soon(reached.wait())
                await asyncio.sleep(0)
            server.close()
        assert caplog.text == ""

    run(main())


@pytest.mark.ours_only("it stalls for up to 10 s at a time")
def test_short_connections_one_after_another_do_not_stall(modern: ModuleType) -> None:
    async def handler(stream: Any) -> None:
        stream.write(b"x")
        stream.close()

    async def main() -> None:
        server = await start_modern(modern, handler)
        with client(server.getsockname()[1]) as tunnel:
            for _ in range(2000):
                reader, writer = await tunnel.net.dial("10.0.0.42:5")
                assert await soon(reader.read()) == b"x"
                writer.close()
        server.close()

    run(main())
