"""What mitmproxy_wireguard and mitmproxy_rs have in common: each test runs on both interfaces."""

from __future__ import annotations

import array
import asyncio
import contextvars
import gc
import logging
import weakref
from typing import Any

import pytest
from support import (
    PATIENCE,
    Interface,
    client,
    digest,
    noise,
    read_all,
    run,
    soon,
    until,
    until_end,
)

import wg_embed


@pytest.mark.ours_only("it has no route for IPv6", of="legacy")
def test_ipv6(interface: Interface) -> None:
    async def main() -> None:
        async with interface.session() as session:
            stream, reader, writer = await session.connect("[2001:db8::7]:443")
            name = "original_dst" if interface.name == "legacy" else "sockname"
            assert stream.get_extra_info(name) == ("2001:db8::7", 443)
            assert stream.get_extra_info("peername")[0] == "fd00::1"
            writer.write(b"over six")
            assert await soon(stream.read(100)) == b"over six"
            stream.write(b"and back")
            assert await soon(reader.readexactly(8)) == b"and back"

    run(main())


@pytest.mark.ours_only("the next read ends the whole server")
def test_a_cancelled_read_loses_nothing(interface: Interface) -> None:
    async def main() -> None:
        async with interface.session() as session:
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
def test_reads_are_answered_in_their_order(interface: Interface) -> None:
    async def main() -> None:
        async with interface.session() as session:
            stream, _, writer = await session.connect()
            reads = [stream.read(3) for _ in range(4)]
            reads[1].cancel()
            writer.write(b"abcdefghi")
            answers = await soon(asyncio.gather(*reads, return_exceptions=True))
            assert answers[0] == b"abc" and isinstance(answers[1], asyncio.CancelledError)
            assert answers[2:] == [b"def", b"ghi"]

    run(main())


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4], [97, 98, 99]])
def test_write_takes_bytes_of_any_kind(interface: Interface, data: Any) -> None:
    async def main() -> None:
        async with interface.session() as session:
            stream, reader, _ = await session.connect()
            assert stream.write(data) is None
            assert await soon(reader.readexactly(3)) == b"abc"
            with pytest.raises(TypeError):
                stream.write("abc")
            with pytest.raises(TypeError):
                stream.write(5)

    run(main())


@pytest.mark.parametrize("size", [1, 1379, 1380, 1381, 65535, 65536, 65537, 1 << 20, 5_000_000])
def test_every_byte_arrives_both_ways_at_once(interface: Interface, original: bool, size: int) -> None:
    async def echo(stream: Any) -> None:
        while data := await stream.read(65536):
            stream.write(data)
            await stream.drain()
        stream.write_eof()
        if interface.name == "legacy":
            await until_end(stream)

    async def main() -> None:
        sent = noise(size)
        server = await interface.start(echo)
        with client(server.getsockname()[1]) as tunnel:
            for target in ("10.0.0.42:5", "[2001:db8::42]:5"):
                if original and interface.name == "legacy" and "[" in target:
                    continue  # It has no route for IPv6.
                reader, writer = await soon(tunnel.net.dial(target, limit=1 << 20, timeout=PATIENCE))
                writer.write(sent)
                writer.write_eof()
                assert digest(await soon(reader.read())) == digest(sent)
                writer.close()
        server.close()

    run(main())


@pytest.mark.ours_only("it loses data", of="legacy")
def test_what_was_written_is_delivered_after_the_handler(interface: Interface) -> None:
    sent = noise(3_000_000)

    async def handler(stream: Any) -> None:
        stream.write(sent)
        if interface.name == "legacy":
            stream.write_eof()  # Without it, a stream that is dropped is reset.

    async def main() -> None:
        server = await interface.start(handler)
        with client(server.getsockname()[1]) as tunnel:
            reader, writer = await soon(tunnel.net.dial("10.0.0.42:5", timeout=PATIENCE))
            assert digest(await soon(reader.read())) == digest(sent)
            writer.close()
        server.close()

    run(main())


@pytest.mark.ours_only("its threads raise exceptions")
@pytest.mark.parametrize("is_dropped", [False, True])
def test_data_that_a_closed_loop_leaves_unsent_end_with_a_reset(interface: Interface, is_dropped: bool) -> None:
    """The peer, on a loop of its own, must not take the part that it has received for all of it."""
    sent = bytes(32 << 20)
    kept: list[Any] = []
    written: list[bool] = []

    async def handler(stream: Any) -> None:
        stream.write(sent)
        if interface.name == "legacy":
            stream.write_eof()
        if not is_dropped:
            kept.append(stream)
        written.append(True)

    async def begin() -> Any:
        return await interface.start(handler)

    ours, theirs = asyncio.new_event_loop(), asyncio.new_event_loop()
    server = ours.run_until_complete(begin())
    with client(server.getsockname()[1]) as tunnel:
        reader, writer = theirs.run_until_complete(soon(tunnel.net.dial("10.0.0.42:5", timeout=PATIENCE)))
        ours.run_until_complete(until(lambda: written))
        ours.close()
        with pytest.raises(ConnectionResetError):
            theirs.run_until_complete(soon(reader.read()))
        writer.transport.abort()
    server.close()
    theirs.close()


class Sub(bytes):
    pass


@pytest.mark.ours_only("it takes the elements of a view as bytes")
@pytest.mark.parametrize(
    "data",
    [
        memoryview(b"axbxcx")[::2],
        memoryview(b"cba")[::-1],
        memoryview(array.array("I", [0x64636261])),
        array.array("H", [0x6261, 0x6463]),
        memoryview(b"abcd").cast("B", (2, 2)),
        Sub(b"abcd"),
    ],
)
def test_write_takes_views_of_any_layout(interface: Interface, data: Any) -> None:
    """As asyncio's transports: the bytes of a view, in its own order."""

    async def main() -> None:
        async with interface.session() as session:
            stream, reader, _ = await session.connect()
            stream.write(data)
            expected = memoryview(data).tobytes()
            assert await soon(reader.readexactly(len(expected))) == expected

    run(main())


@pytest.mark.ours_only("its drain may never return while nothing is read", of="modern")
def test_a_slow_reader_holds_drain_up(interface: Interface) -> None:
    async def main() -> None:
        async with interface.session() as session:
            stream, reader, _ = await session.connect()
            sent = 0

            async def send() -> None:
                nonlocal sent
                while True:
                    stream.write(bytes(1 << 20))
                    await stream.drain()
                    sent += 1 << 20

            sender = asyncio.ensure_future(send())
            await until(lambda: sent > 0)
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


@pytest.mark.ours_only("a drain that is cancelled is not looked after")
def test_a_cancelled_drain_loses_nothing(interface: Interface) -> None:
    sent = noise(24 << 20)

    async def main() -> None:
        async with interface.session() as session:
            stream, reader, writer = await session.connect()
            stream.write(sent)
            for _ in range(100):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(stream.drain(), 0.001)
            waiting = asyncio.ensure_future(soon(stream.drain()))
            stream.write_eof()
            assert digest(await soon(reader.read())) == digest(sent)
            await waiting
            writer.close()

    run(main())


@pytest.mark.ours_only("it answers no echo requests", of="legacy")
def test_echo_requests_are_answered(interface: Interface) -> None:
    async def main() -> None:
        server = await interface.start()
        with client(server.getsockname()[1]) as tunnel:
            assert await soon(tunnel.net.ping("8.8.8.8", timeout=PATIENCE)) > 0
        server.close()

    run(main())


@pytest.mark.ours_only("it answers no echo requests over IPv6")
def test_echo_requests_over_ipv6_are_answered(interface: Interface) -> None:
    async def main() -> None:
        server = await interface.start()
        with client(server.getsockname()[1]) as tunnel:
            assert await soon(tunnel.net.ping("2001:db8::1", timeout=PATIENCE)) > 0
        server.close()

    run(main())


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.mark.ours_only("variables of its caller are not seen")
def test_handlers_run_in_the_context_of_the_start(interface: Interface) -> None:
    async def main() -> None:
        seen: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(stream: Any) -> None:
            seen.put_nowait((VARIABLE.get(), asyncio.get_running_loop()))

        VARIABLE.set("of the start")
        server = await interface.start(handler)
        VARIABLE.set("later")
        with client(server.getsockname()[1]) as tunnel:
            await tunnel.net.dial("10.0.0.42:5")
            assert await soon(seen.get()) == ("of the start", asyncio.get_running_loop())
        server.close()

    run(main())


def test_an_exception_in_a_handler_is_logged(interface: Interface, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(stream: Any) -> None:
        raise ArithmeticError("of the handler")

    async def main() -> None:
        with caplog.at_level(logging.ERROR):
            server = await interface.start(fails)
            with client(server.getsockname()[1]) as tunnel:
                _, writer = await tunnel.net.dial("10.0.0.42:5")
                await until(lambda: "raised an exception" in caplog.text)
                writer.close()
            server.close()
        [record] = [record for record in caplog.records if "raised an exception" in record.getMessage()]
        assert record.levelno == logging.ERROR and "of the handler" in caplog.text
        assert record.getMessage().startswith("TCP connection handler coroutine raised an exception")

    run(main())


@pytest.mark.ours_only("what is no coroutine is not reported")
def test_handlers_that_are_no_coroutines(interface: Interface, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def raises(stream: Any) -> Any:
        raise ArithmeticError("at once")

    def returns_nothing(stream: Any) -> Any:
        return None

    def returns_a_future(stream: Any) -> Any:
        nonlocal calls
        calls += 1
        return asyncio.get_running_loop().create_future()

    async def main() -> None:
        for handler, text in (
            (raises, "at once"),
            (returns_nothing, "awaitable"),
            (returns_a_future, None),
            (5, "int"),
        ):
            caplog.clear()
            server = await interface.start(handler)
            with client(server.getsockname()[1]) as tunnel:
                for count in (1, 2):
                    await tunnel.net.dial("10.0.0.42:5")
                    if text is None:
                        await until(lambda count=count: calls == count)
                    else:
                        await until(lambda count=count, text=text: caplog.text.count(text) >= count)
            server.close()

    run(main())


@pytest.mark.ours_only("answers may go to the first peer")
def test_several_peers_at_once(interface: Interface) -> None:
    keys = [wg_embed.genkey() for _ in range(4)]

    async def echo(stream: Any) -> None:
        data = await stream.read(100)
        stream.write(b"%s for %s" % (data, stream.get_extra_info("original_src")[0].encode()))
        stream.write_eof()
        await read_all(stream)

    async def main() -> None:
        server = await interface.start(echo, peer_public_keys=[wg_embed.pubkey(key) for key in keys])
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


def test_many_connections(interface: Interface) -> None:
    async def echo(stream: Any) -> None:
        while data := await stream.read(4096):
            stream.write(data.upper())
            await stream.drain()
        stream.write_eof()
        if interface.name == "legacy":
            await until_end(stream)

    async def main() -> None:
        server = await interface.start(echo)
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
def test_a_loop_that_is_closed_ends_everything(interface: Interface, capfd: pytest.CaptureFixture[str]) -> None:
    kept: list[Any] = []

    async def main() -> None:
        session = interface.session()
        await session.__aenter__()
        stream, *ends = await session.connect()
        kept.extend((session.server, session.tunnel, stream, stream.read(10), ends))

    for _ in range(3):
        asyncio.run(main())
    server, tunnel, stream, read = kept[:4]
    assert not read.done()
    # Calls neither wait nor crash, however many there are.
    for _ in range(40):
        assert stream.read(10).done()
    stream.write(b"x")
    stream.close()
    for _ in range(40):
        assert stream.drain().done()
    server.close()
    tunnel.close()
    kept.clear()
    gc.collect()
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err and "panicked" not in captured.err


@pytest.mark.ours_only("its threads raise exceptions")
def test_a_loop_that_is_closed_while_data_come(interface: Interface, capfd: pytest.CaptureFixture[str]) -> None:
    """The client is on a loop of another thread, so it goes on."""
    import threading

    async def source(stream: Any) -> None:
        while True:
            stream.write(await stream.read(65536))
            await stream.drain()

    ports: list[int] = []
    started, closed, client_ended = threading.Event(), threading.Event(), threading.Event()

    async def serve() -> None:
        server = await interface.start(source)
        kept.append(server)
        ports.append(server.getsockname()[1])
        started.set()
        while not flowing.is_set():
            await asyncio.sleep(0.01)

    async def ask() -> None:
        with client(ports[0]) as tunnel:
            reader, writer = await soon(tunnel.net.dial("10.0.0.42:5", timeout=PATIENCE))
            try:
                while not closed.is_set():
                    writer.write(bytes(100_000))
                    await asyncio.wait_for(reader.read(100_000), PATIENCE)
                    flowing.set()
            except OSError:
                pass

    def run_client() -> None:
        started.wait(PATIENCE)
        asyncio.run(ask())
        client_ended.set()

    flowing = threading.Event()
    kept: list[Any] = []
    thread = threading.Thread(target=run_client)
    thread.start()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(serve())
    tasks = asyncio.all_tasks(loop)
    loop.close()
    closed.set()
    assert client_ended.wait(PATIENCE)
    thread.join()
    kept.pop().close()
    for task in tasks:
        # They are left as they are: that is no news.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    captured = capfd.readouterr()
    assert "panicked" not in captured.err


@pytest.mark.ours_only("it has no such promise")
@pytest.mark.parametrize("what", ["a handler", "wait_closed"])
def test_a_loop_that_is_closed_with_tasks_is_collected(interface: Interface, what: str) -> None:
    async def handler(stream: Any) -> None:
        called.append(None)
        await asyncio.Event().wait()

    async def wait(server: Any) -> None:
        await server.wait_closed()

    async def main() -> None:
        server = await interface.start(handler)
        if what == "a handler":
            with client(server.getsockname()[1]) as tunnel:
                await soon(tunnel.net.dial("10.0.0.42:5", timeout=PATIENCE))
                await until(lambda: called)
        else:
            task = asyncio.ensure_future(wait(server))
            await asyncio.sleep(0)
            assert not task.done()
        kept.append(server)

    kept: list[Any] = []
    loop = asyncio.new_event_loop()
    called: list[None] = []
    loop.run_until_complete(main())
    [task] = asyncio.all_tasks(loop)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    gone = weakref.ref(loop if what == "a handler" else task)
    if what == "a handler":
        kept.pop().close()
    del loop, task
    gc.collect()
    assert gone() is None
    for server in kept:
        server.close()


@pytest.mark.ours_only("it has no such promise")
def test_calls_of_wait_closed_that_are_cancelled_take_no_memory(interface: Interface) -> None:
    async def main() -> None:
        server = await interface.start()
        refs: list[weakref.ref[Any]] = []
        for _ in range(100):
            future = server.wait_closed()
            refs.append(weakref.ref(future))
            future.cancel()
            del future
        await asyncio.sleep(0)
        gc.collect()
        assert sum(ref() is not None for ref in refs) <= 1
        server.close()
        await soon(server.wait_closed())

    run(main())


@pytest.mark.ours_only("handlers keep their server")
def test_a_server_that_its_handlers_refer_to_is_collected(interface: Interface) -> None:
    class Program:
        server: Any

        async def handle(self, stream: Any) -> None:
            await stream.read(1)

    async def main() -> None:
        program = Program()
        program.server = await interface.start(program.handle)
        port, gone = program.server.getsockname()[1], weakref.ref(program)
        del program
        gc.collect()
        assert gone() is None
        (await interface.start(port=port)).close()

    run(main())


@pytest.mark.ours_only("a start that is cancelled is not looked after")
def test_a_start_that_is_cancelled_leaves_nothing(interface: Interface) -> None:
    async def main() -> None:
        server = await interface.start()
        port = server.getsockname()[1]
        server.close()

        async def begin() -> Any:
            return await interface.start(port=port)

        for turns in range(3):
            task = asyncio.ensure_future(begin())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            del task
            gc.collect()
        (await interface.start(port=port)).close()

    run(main())
