"""mitmproxy_wireguard 0.1.23: names, signatures, values, errors, and what happens on connections."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import gc
import inspect
import logging
import socket
from types import ModuleType
from typing import Any, Optional

import pytest
from support import CLIENT_PUB, PATIENCE, SERVER_KEY, client, digest, noise, read_all, run, soon, until

import wg_embed


async def nothing(stream: Any) -> None:
    pass


def no_datagram(data: bytes, src: Any, dst: Any) -> None:
    pass


async def start(legacy: ModuleType, handler: Any = nothing, datagram: Any = no_datagram, **more: Any) -> Any:
    arguments: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "private_key": SERVER_KEY,
        "peer_public_keys": [CLIENT_PUB],
        "handle_connection": handler,
        "receive_datagram": datagram,
    }
    return await legacy.start_server(**{**arguments, **more})


class Streams:
    """Keeps streams, so that nothing happens to them, and passes them on."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.end = asyncio.Event()

    async def __call__(self, stream: Any) -> None:
        self.queue.put_nowait(stream)
        await self.end.wait()

    async def next(self) -> Any:
        return await soon(self.queue.get())


class Session:
    """A server whose streams are kept, and a client of it."""

    def __init__(self, legacy: ModuleType, datagram: Any = no_datagram) -> None:
        self.legacy, self.datagram = legacy, datagram

    async def __aenter__(self) -> Session:
        self.streams = Streams()
        self.server = await start(self.legacy, self.streams, self.datagram)
        self.tunnel = client(self.server.getsockname()[1])
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.streams.end.set()
        self.tunnel.close()
        self.server.close()
        await asyncio.sleep(0)

    async def connect(self, target: str = "10.0.0.42:1234") -> tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.tunnel.net.dial(target)
        return await self.streams.next(), reader, writer


def test_the_module_has_these_names(legacy: ModuleType) -> None:
    names = {name for name in dir(legacy) if not name.startswith("_")} - {"mitmproxy_wireguard"}
    assert names == {"Server", "TcpStream", "start_server", "genkey", "pubkey"}
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


def test_keys(legacy: ModuleType) -> None:
    key = legacy.genkey()
    raw = base64.b64decode(key)
    assert len(key) == 44 and len(raw) == 32 and raw[0] & 7 == 0 and raw[31] & 0xC0 == 0x40
    assert legacy.genkey() != key
    assert legacy.pubkey(key) == wg_embed.pubkey(key)
    for bad in ("", "x", key[:-1], key[:-4], key + "A", "ä" * 44):
        with pytest.raises(ValueError, match="^Invalid key.$"):
            legacy.pubkey(bad)
    with pytest.raises(TypeError):
        legacy.pubkey(1)
    # Those of the echo server that came with it.
    assert legacy.pubkey("EG47ZWjYjr+Y97TQ1A7sVl7Xn3mMWDnvjU/VxU769ls=") == "mitmV5Wo7pRJrHNAKhZEI0nzqqeO8u4fXG+zUbZEXA0="
    assert legacy.pubkey("qG8b7LI/s+ezngWpXqj5A7Nj988hbGL+eQ8ePki0iHk=") == "Test1sbpTFmJULgSlJ5hJ1RdzsXWrl3Mg7k9UTN//jE="


def test_errors_of_start_server(legacy: ModuleType) -> None:
    async def main() -> None:
        for bad in ({"private_key": "x"}, {"peer_public_keys": ["x"]}):
            with pytest.raises(ValueError, match="^Invalid key.$"):
                legacy.start_server(**{**arguments, **bad})
        with pytest.raises(OverflowError):
            legacy.start_server(**{**arguments, "port": 70000})
        for bad_type in ({"peer_public_keys": "abc"}, {"host": 1}, {"port": "1"}):
            with pytest.raises(TypeError):
                legacy.start_server(**{**arguments, **bad_type})
        with pytest.raises(TypeError):
            legacy.start_server("127.0.0.1", 0)
        future = legacy.start_server(**{**arguments, "host": "localhost"})
        assert asyncio.isfuture(future)
        with pytest.raises(RuntimeError, match="^invalid IP address syntax$"):
            await future
        with pytest.raises(RuntimeError, match=r"^Cannot assign requested address \(os error 99\)$") as caught:
            await legacy.start_server(**{**arguments, "host": "192.0.2.1"})
        assert not isinstance(caught.value, OSError)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            with pytest.raises(RuntimeError, match=r"^Address already in use \(os error 98\)$"):
                await legacy.start_server(**{**arguments, "port": other.getsockname()[1]})

    arguments: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "private_key": SERVER_KEY,
        "peer_public_keys": [CLIENT_PUB],
        "handle_connection": nothing,
        "receive_datagram": no_datagram,
    }
    with pytest.raises(RuntimeError):
        legacy.start_server(**arguments)  # no loop runs
    run(main())


def test_a_server_has_an_address_and_closes(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start(legacy)
        host, port = server.getsockname()
        assert host == "127.0.0.1" and 0 < port < 65536
        assert repr(server) == f"Server(127.0.0.1:{port})"
        with pytest.raises(AttributeError):
            server.attribute = 1
        assert server == server and hash(server) == hash(server) and server != await start(legacy)
        assert server.close() is None
        assert await soon(server.wait_closed()) is None
        server.close()
        assert server.getsockname() == (host, port)
        again = await start(legacy, port=port)
        again.close()
        everywhere = await start(legacy, host="")
        assert everywhere.getsockname()[0] == "0.0.0.0"
        everywhere.close()

    run(main())


@pytest.mark.ours_only("a second wait_closed never returns")
def test_wait_closed_returns_each_time(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start(legacy)
        early = [server.wait_closed(), server.wait_closed()]
        await asyncio.sleep(0)
        assert not early[0].done()
        server.close()
        assert await soon(asyncio.gather(*early, server.wait_closed(), server.wait_closed())) == [None] * 4

    run(main())


@pytest.mark.ours_only("it shuts down by itself")
def test_a_server_without_peers_runs(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start(legacy, peer_public_keys=[])
        port = server.getsockname()[1]
        await asyncio.sleep(0.1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        server.close()
        await soon(server.wait_closed())

    run(main())


def test_a_server_that_nothing_refers_to_closes(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start(legacy)
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


def test_streams_describe_themselves(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, _, writer = await session.connect("10.0.0.42:9001")
            sock, outer = session.server.getsockname(), ("127.0.0.1", session.tunnel.listen_port)
            peer = writer.get_extra_info("sockname")
            assert stream.get_extra_info("peername") == peer and peer[0] == "10.0.0.1"
            assert stream.get_extra_info("sockname") == sock
            assert stream.get_extra_info("original_dst") == ("10.0.0.42", 9001)
            assert stream.get_extra_info("original_src") == outer
            assert stream.get_extra_info("nonsense", 5) == 5
            assert stream.get_extra_info("nonsense", default=6) == 6
            for call in (lambda: stream.get_extra_info("x"), lambda: stream.get_extra_info("x", None)):
                with pytest.raises(KeyError, match="x"):
                    call()
            shown = "TcpStream(0, peer={}:{}, sock={}:{}, src={}:{}, dst=10.0.0.42:9001)"
            assert repr(stream) == shown.format(*peer, *sock, *outer)
            second, _, _ = await session.connect("10.0.0.42:9001")
            assert repr(second).startswith("TcpStream(1, ")
            assert stream != second and len({stream, second}) == 2
            with pytest.raises(AttributeError):
                stream.attribute = 1
            assert stream.is_closing() is False
            stream.write_eof()
            assert stream.is_closing() is True

    run(main())


@pytest.mark.ours_only("it has no route for IPv6")
def test_ipv6(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, reader, writer = await session.connect("[2001:db8::7]:443")
            assert stream.get_extra_info("original_dst") == ("2001:db8::7", 443)
            assert stream.get_extra_info("peername")[0] == "fd00::1"
            writer.write(b"over six")
            assert await soon(stream.read(100)) == b"over six"
            stream.write(b"and back")
            assert await soon(reader.readexactly(8)) == b"and back"

    run(main())


def test_read_gives_what_is_there_and_the_end(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, reader, writer = await session.connect()
            waiting = stream.read(100)
            assert asyncio.isfuture(waiting)
            writer.write(b"hello")
            assert await soon(waiting) == b"hello"
            writer.write(b"abcdef")
            assert await soon(stream.read(2)) == b"ab"
            assert await soon(stream.read(2)) == b"cd"
            assert await soon(stream.read(65536)) == b"ef"
            writer.write(b"x")
            assert await soon(stream.read(1)) == b"x"
            with pytest.raises(OverflowError):
                stream.read(-1)
            with pytest.raises(TypeError):
                stream.read()
            with pytest.raises(TypeError):
                stream.read("1")
            writer.write(b"last")
            writer.write_eof()
            assert await soon(read_all(stream)) == b"last"
            assert await soon(stream.read(10)) == b""
            assert await soon(stream.read(10)) == b""
            # The other direction is open.
            stream.write(b"answer")
            assert await soon(stream.drain()) is None
            assert await soon(reader.readexactly(6)) == b"answer"
            stream.write_eof()
            assert await soon(reader.read()) == b""
            with pytest.raises(OSError, match="^connection closed$"):
                for _ in range(1000):
                    await soon(stream.read(10))
                    await asyncio.sleep(0.01)

    run(main())


def test_read_of_nothing_gives_nothing(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, _, writer = await session.connect()
            writer.write(b"data")
            await until(lambda: session.tunnel.totals.tx_packets > 2)
            assert await soon(stream.read(0)) == b""
            assert await soon(stream.read(10)) == b"data"

    run(main())


@pytest.mark.ours_only("the next read ends the whole server")
def test_a_cancelled_read_loses_nothing(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, _, writer = await session.connect()
            for _ in range(100):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(stream.read(10), 0.001)
            writer.write(b"all of it")
            assert await soon(stream.read(100)) == b"all of it"

            # Cancelled after the bytes have come, before the task has gone on.
            async def reads(most: int) -> bytes:
                return await stream.read(most)  # type: ignore[no-any-return]

            sent = noise(1 << 18)
            received = b""
            writer.write(sent)
            while len(received) < len(sent):
                task = asyncio.ensure_future(reads(1000))
                for _ in range(len(received) // 1000 % 4):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    received += await task
                except asyncio.CancelledError:
                    received += await soon(stream.read(1000))
            assert digest(received) == digest(sent)

    run(main())


@pytest.mark.ours_only("the second read ends the whole server")
def test_reads_are_answered_in_their_order(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, _, writer = await session.connect()
            reads = [stream.read(3) for _ in range(4)]
            reads[1].cancel()
            writer.write(b"abcdefghi")
            answers = await soon(asyncio.gather(*reads, return_exceptions=True))
            assert answers[0] == b"abc" and isinstance(answers[1], asyncio.CancelledError)
            assert answers[2:] == [b"def", b"ghi"]

    run(main())


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4], [97, 98, 99]])
def test_write_takes_bytes_of_any_kind(legacy: ModuleType, data: Any) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, reader, _ = await session.connect()
            assert stream.write(data) is None
            assert await soon(reader.readexactly(3)) == b"abc"
            with pytest.raises(TypeError):
                stream.write("abc")
            with pytest.raises(TypeError):
                stream.write(5)

    run(main())


@pytest.mark.parametrize("size", [1, 1379, 1380, 1381, 65535, 65536, 65537, 1 << 20, 5_000_000])
def test_every_byte_arrives_both_ways(legacy: ModuleType, size: int) -> None:
    up, down = noise(size, 1), noise(size, 2)
    seen: list[bytes] = []

    async def handler(stream: Any) -> None:
        seen.append(await read_all(stream))
        for at in range(0, size, 50_000):
            stream.write(down[at : at + 50_000])
            await stream.drain()
        stream.write_eof()
        # The original loses what it has not sent when this returns.
        with pytest.raises(OSError):
            while True:
                await stream.read(1)
                await asyncio.sleep(0.01)

    async def main() -> None:
        server = await start(legacy, handler)
        with client(server.getsockname()[1]) as tunnel:
            reader, writer = await tunnel.net.dial("10.0.0.42:5", limit=1 << 20)
            writer.write(up)
            writer.write_eof()
            received = await soon(reader.read())
            assert digest(received) == digest(down) and digest(seen[0]) == digest(up)
        server.close()
        await soon(server.wait_closed())

    run(main())


@pytest.mark.ours_only("it loses data")
def test_a_stream_that_is_dropped_after_write_eof_delivers(legacy: ModuleType) -> None:
    sent = noise(3_000_000)

    async def handler(stream: Any) -> None:
        stream.write(sent)
        stream.write_eof()

    async def main() -> None:
        server = await start(legacy, handler)
        with client(server.getsockname()[1]) as tunnel:
            reader, writer = await tunnel.net.dial("10.0.0.42:5")
            assert digest(await soon(reader.read())) == digest(sent)
            writer.close()
        server.close()

    run(main())


def test_close_resets(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, reader, _ = await session.connect()
            assert stream.close() is None
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())
            assert stream.is_closing() is True
            stream.close()
            stream.write(b"ignored")
            stream.write_eof()
            with pytest.raises(OSError):
                await soon(stream.read(1))

    run(main())


def test_a_handler_that_returns_resets(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start(legacy, nothing)
        with client(server.getsockname()[1]) as tunnel:
            reader, _ = await tunnel.net.dial("10.0.0.42:5")
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())
        server.close()

    run(main())


def test_a_reset_by_the_peer(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, _, writer = await session.connect()
            waiting = stream.read(10)
            writer.transport.abort()
            assert await soon(waiting) == b""
            assert stream.is_closing() is False
            stream.write(b"ignored")
            with pytest.raises(OSError, match="^connection closed$"):
                await soon(stream.drain())
            with pytest.raises(OSError, match="^connection closed$"):
                await soon(stream.read(10))

    run(main())


def test_a_slow_reader_holds_drain_up(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, reader, _ = await session.connect()
            sent = 0

            async def send() -> None:
                nonlocal sent
                while True:
                    stream.write(bytes(1 << 20))
                    await stream.drain()
                    sent += 1 << 20

            sender = asyncio.ensure_future(send())
            # The reader takes 128 KiB, then there are the buffers of both sides.
            seen = -1
            while seen != sent:
                seen = sent
                await asyncio.sleep(1)
            assert 0 < sent < 64 << 20
            await soon(reader.readexactly(32 << 20))
            await until(lambda: sent > seen)
            sender.cancel()

    run(main())


def test_datagrams(legacy: ModuleType) -> None:
    async def main() -> None:
        received: asyncio.Queue[Any] = asyncio.Queue()
        server = await start(legacy, datagram=lambda *datagram: received.put_nowait(datagram))
        with client(server.getsockname()[1]) as tunnel, tunnel.net.udp(1234, "10.0.0.1") as udp:
            for data in (b"hello", b"", noise(1300)):
                udp.send(data, ("10.0.0.42", 31337))
                assert await soon(received.get()) == (data, ("10.0.0.1", 1234), ("10.0.0.42", 31337))
            server.send_datagram(b"HELLO", ("10.0.0.42", 31337), ("10.0.0.1", 1234))
            assert await soon(udp.receive()) == (b"HELLO", ("10.0.0.42", 31337))
            server.send_datagram(b"from anywhere", ("192.0.2.9", 9), ("10.0.0.1", 1234))
            assert await soon(udp.receive()) == (b"from anywhere", ("192.0.2.9", 9))
            good = ("10.0.0.1", 1)
            for kind, data, src in (
                (TypeError, b"", ["10.0.0.1", 1]),
                (TypeError, b"", "10.0.0.1"),
                (TypeError, "text", good),
                (ValueError, b"", ("10.0.0.1", 1, 2)),
                (ValueError, b"", ("localhost", 1)),
                (OverflowError, b"", ("10.0.0.1", 65536)),
            ):
                with pytest.raises(kind):
                    server.send_datagram(data, src, good)
                if kind is not TypeError or data == b"":
                    with pytest.raises(kind):
                        server.send_datagram(b"", good, src)
            server.send_datagram(b"", ("::1", 1), good)  # mixed families are logged
        server.close()

    run(main())


@pytest.mark.ours_only("it answers no echo requests")
def test_echo_requests_are_answered(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start(legacy)
        with client(server.getsockname()[1]) as tunnel:
            assert await soon(tunnel.net.ping("8.8.8.8", timeout=PATIENCE)) > 0
            assert await soon(tunnel.net.ping("2001:db8::1", timeout=PATIENCE)) > 0
        server.close()

    run(main())


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def test_handlers_run_in_the_context_of_start_server(legacy: ModuleType) -> None:
    async def main() -> None:
        seen: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(stream: Any) -> None:
            seen.put_nowait((VARIABLE.get(), asyncio.get_running_loop()))

        VARIABLE.set("of start_server")
        server = await start(legacy, handler)
        VARIABLE.set("later")
        with client(server.getsockname()[1]) as tunnel:
            await tunnel.net.dial("10.0.0.42:5")
            assert await soon(seen.get()) == ("of start_server", asyncio.get_running_loop())
        server.close()

    run(main())


def test_an_exception_in_a_handler_is_logged(legacy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(stream: Any) -> None:
        raise ArithmeticError("of the handler")

    async def main() -> None:
        with caplog.at_level(logging.ERROR):
            server = await start(legacy, fails)
            with client(server.getsockname()[1]) as tunnel:
                _, writer = await tunnel.net.dial("10.0.0.42:5")
                await until(lambda: "raised an exception" in caplog.text)
                writer.close()
            server.close()
        assert "of the handler" in caplog.text

    run(main())


def test_when_the_server_closes(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            stream, reader, _ = await session.connect()
            waiting = stream.read(10)
            session.server.close()
            await soon(session.server.wait_closed())
            assert await soon(waiting) == b""
            gone = "^WireGuard server has been shut down.$"
            for call in (
                lambda: stream.read(1),
                lambda: stream.write(b"x"),
                lambda: stream.drain(),
                lambda: stream.write_eof(),
                lambda: stream.close(),
            ):
                with pytest.raises(OSError, match=gone):
                    result: Optional[Any] = call()
                    if result is not None:
                        await soon(result)
            session.server.send_datagram(b"x", ("10.0.0.1", 1), ("10.0.0.1", 2))

    run(main())


@pytest.mark.ours_only("a reset is not sent")
def test_when_the_server_closes_its_clients_are_told(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(legacy) as session:
            _, reader, _ = await session.connect()
            session.server.close()
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())

    run(main())


@pytest.mark.ours_only("answers may go to the first peer")
def test_several_peers_at_once(legacy: ModuleType) -> None:
    keys = [wg_embed.genkey() for _ in range(4)]

    async def echo(stream: Any) -> None:
        data = await stream.read(100)
        stream.write(b"%s for %s" % (data, stream.get_extra_info("original_src")[0].encode()))
        stream.write_eof()
        await read_all(stream)

    async def main() -> None:
        server = await start(legacy, echo, peer_public_keys=[wg_embed.pubkey(key) for key in keys])
        port = server.getsockname()[1]
        tunnels = [client(port, key, (f"10.0.0.{n}",)) for n, key in enumerate(keys, 1)]

        async def ask(number: int, tunnel: wg_embed.Tunnel) -> None:
            reader, writer = await tunnel.net.dial("10.0.0.42:5")
            writer.write(b"peer %d" % number)
            assert await soon(reader.read()) == b"peer %d for 127.0.0.1" % number
            writer.close()

        for _ in range(3):
            await asyncio.gather(*(ask(number, tunnel) for number, tunnel in enumerate(tunnels)))
        for tunnel in tunnels:
            tunnel.close()
        server.close()

    run(main())


def test_many_connections(legacy: ModuleType) -> None:
    async def echo(stream: Any) -> None:
        while data := await stream.read(4096):
            stream.write(data.upper())
            await stream.drain()
        stream.write_eof()
        with pytest.raises(OSError):
            while True:
                await stream.read(1)
                await asyncio.sleep(0.01)

    async def main() -> None:
        server = await start(legacy, echo)
        with client(server.getsockname()[1]) as tunnel:

            async def ask(number: int) -> None:
                reader, writer = await tunnel.net.dial(f"10.0.1.{number % 250}:{1000 + number}")
                writer.write(b"number %d" % number)
                assert await soon(reader.readexactly(len(b"number %d" % number))) == b"NUMBER %d" % number
                writer.write_eof()
                assert await soon(reader.read()) == b""
                writer.close()

            for _ in range(3):
                await asyncio.gather(*(ask(number) for number in range(200)))
        server.close()

    run(main())


@pytest.mark.ours_only("its threads raise exceptions")
def test_a_loop_that_is_closed_ends_everything(legacy: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    kept: list[Any] = []

    async def main() -> None:
        session = Session(legacy)
        await session.__aenter__()
        stream, *client = await session.connect()
        kept.extend((session.server, session.tunnel, stream, stream.read(10), client))

    for _ in range(3):
        asyncio.run(main())
    server, tunnel, stream, read = kept[:4]
    assert not read.done()
    # Calls neither wait nor crash.
    assert stream.read(10).done()
    stream.write(b"x")
    stream.close()
    server.close()
    tunnel.close()
    kept.clear()
    gc.collect()
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err and "panicked" not in captured.err
