"""Streams and datagrams of mitmproxy_wireguard 0.1.23."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest
from support import (
    PATIENCE,
    Session,
    client,
    noise,
    nothing,
    read_all,
    run,
    soon,
    start_legacy,
    until,
)


def test_streams_describe_themselves(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
            stream, _, writer = await session.connect("10.0.0.42:9001")
            sock, outer = session.server.getsockname(), ("127.0.0.1", session.tunnel.listen_port)
            peer = writer.get_extra_info("sockname")
            assert stream.get_extra_info("peername") == peer and peer[0] == "10.0.0.1"
            assert stream.get_extra_info("sockname") == sock
            assert stream.get_extra_info("original_dst") == ("10.0.0.42", 9001)
            assert stream.get_extra_info("original_src") == outer
            assert stream.get_extra_info("nonsense", 5) == 5
            assert stream.get_extra_info("nonsense", default=6) == 6
            for default in ((), (None,)):
                with pytest.raises(KeyError, match="x"):
                    stream.get_extra_info("x", *default)
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


def test_read_gives_what_is_there_and_the_end(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
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
            drained = stream.drain()
            assert asyncio.isfuture(drained) and await soon(drained) is None
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
        async with Session(start_legacy, legacy) as session:
            stream, _, writer = await session.connect()
            writer.write(b"data")
            await until(lambda: session.tunnel.totals.tx_packets > 2)
            assert await soon(stream.read(0)) == b""
            assert await soon(stream.read(10)) == b"data"

    run(main())


@pytest.mark.ours_only("its first read raises, some seconds later")
def test_the_end_is_told_once_to_a_read_that_can_take_it(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
            stream, reader, writer = await session.connect()
            read = stream.read(10)
            cancelled = asyncio.ensure_future(wait(read))
            # The read has its result by then, and its task not had its turn.
            read.add_done_callback(lambda _: cancelled.cancel())
            await asyncio.sleep(0)
            writer.write_eof()
            stream.write_eof()
            assert await soon(reader.read()) == b""
            with pytest.raises(OSError, match="^connection closed$"):
                while True:
                    await soon(stream.drain())
                    await asyncio.sleep(0.01)
            await soon(asyncio.wait([cancelled]))
            assert cancelled.cancelled() and read.result() == b""
            assert await soon(stream.read(0)) == b""
            assert await soon(stream.read(0)) == b""
            assert await soon(stream.read(10)) == b""
            with pytest.raises(OSError, match="^connection closed$"):
                await soon(stream.read(10))

    async def wait(future: Any) -> None:
        await future

    run(main())


def test_close_resets(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
            stream, reader, _ = await session.connect()
            assert stream.close() is None
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())
            assert stream.is_closing() is True
            stream.close()
            stream.write(b"ignored")
            stream.write_eof()
            for name, arguments in (("read", (1,)), ("drain", ())):
                with pytest.raises(OSError, match="^connection closed$"):
                    await soon(getattr(stream, name)(*arguments))
            assert stream.get_extra_info("original_dst") == ("10.0.0.42", 1234)

    run(main())


def test_a_handler_that_returns_resets(legacy: ModuleType) -> None:
    async def main() -> None:
        server = await start_legacy(legacy, nothing)
        with client(server.getsockname()[1]) as tunnel:
            reader, _ = await tunnel.net.dial("10.0.0.42:5")
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())
        server.close()

    run(main())


def test_a_reset_by_the_peer(legacy: ModuleType) -> None:
    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
            stream, _, writer = await session.connect()
            writer.write(b"established")
            assert await soon(stream.read(100)) == b"established"
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


def test_drain_reports_a_reset_by_the_peer(legacy: ModuleType) -> None:
    """Also if nothing was read or written since."""

    async def main() -> None:
        async with Session(start_legacy, legacy) as session:
            stream, _, writer = await session.connect()
            writer.write(b"unread")
            await soon(stream.drain())
            writer.transport.abort()

            async def drain() -> None:
                while True:
                    await stream.drain()
                    await asyncio.sleep(0.01)

            with pytest.raises(OSError, match="^connection closed$"):
                await soon(drain())
            assert stream.is_closing() is False

    run(main())


def test_datagrams(legacy: ModuleType, original: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        received: asyncio.Queue[Any] = asyncio.Queue()

        def take(*datagram: Any) -> None:
            received.put_nowait(datagram)

        server = await start_legacy(legacy, datagram=take)
        with client(server.getsockname()[1]) as tunnel, tunnel.net.udp(1234, "10.0.0.1") as udp:
            for data in (b"hello", b"", noise(1300)):
                udp.send(data, ("10.0.0.42", 31337))
                assert await soon(received.get()) == (data, ("10.0.0.1", 1234), ("10.0.0.42", 31337))
            server.send_datagram(b"HELLO", ("10.0.0.42", 31337), ("10.0.0.1", 1234))
            assert await soon(udp.receive()) == (b"HELLO", ("10.0.0.42", 31337))
            server.send_datagram(b"from anywhere", ("192.0.2.9", 9), ("10.0.0.1", 1234))
            assert await soon(udp.receive()) == (b"from anywhere", ("192.0.2.9", 9))
            good = ("10.0.0.1", 1)
            bad: list[tuple[type[Exception], Any, Any]] = [
                (TypeError, b"", ["10.0.0.1", 1]),
                (TypeError, b"", "10.0.0.1"),
                (TypeError, "text", good),
                (ValueError, b"", ("10.0.0.1", 1, 2)),
                (ValueError, b"", ("localhost", 1)),
                (OverflowError, b"", ("10.0.0.1", 65536)),
            ]
            for kind, payload, src in bad:
                with pytest.raises(kind):
                    server.send_datagram(payload, src, good)
                if kind is not TypeError or payload == b"":
                    with pytest.raises(kind):
                        server.send_datagram(b"", good, src)
            server.send_datagram(b"", ("::1", 1), good)
            if not original:
                await until(lambda: "a datagram was not sent" in caplog.text)
        server.close()

    run(main())


def test_a_function_for_datagrams_that_raises_is_reported(legacy: ModuleType) -> None:
    async def main() -> None:
        reported: asyncio.Queue[Any] = asyncio.Queue()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.put_nowait(context))

        def raises(data: bytes, src: Any, dst: Any) -> None:
            raise ArithmeticError(data)

        server = await start_legacy(legacy, datagram=raises)
        with client(server.getsockname()[1]) as tunnel, tunnel.net.udp(1234, "10.0.0.1") as udp:
            for data in (b"first", b"second"):
                udp.send(data, ("10.0.0.42", 31337))
                context = await soon(reported.get())
                assert isinstance(context["exception"], ArithmeticError) and context["exception"].args == (data,)
        server.close()

    run(main())


def test_a_function_for_datagrams_may_end_the_loop(legacy: ModuleType) -> None:
    received: list[bytes] = []

    def take(data: bytes, src: Any, dst: Any) -> None:
        if data == b"exit":
            raise KeyboardInterrupt("wanted")
        received.append(data)

    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        return await start_legacy(legacy, datagram=take)

    server = loop.run_until_complete(begin())
    with client(server.getsockname()[1]) as tunnel, tunnel.net.udp(1234, "10.0.0.1") as udp:
        udp.send(b"exit", ("10.0.0.42", 31337))
        udp.send(b"behind it", ("10.0.0.42", 31337))
        with pytest.raises(KeyboardInterrupt, match="wanted"):
            loop.run_until_complete(asyncio.sleep(PATIENCE))
        loop.run_until_complete(until(lambda: received == [b"behind it"]))

    async def end() -> None:
        server.close()
        await soon(server.wait_closed())

    loop.run_until_complete(end())
    loop.close()
