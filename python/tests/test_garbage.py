"""Loops and tunnels that are dropped, closed or not: they are freed with all that waited; and nothing else is."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import PATIENCE, SERVER_PUB, Interface, client, descriptors, noise, pair, run, soon, until

import wg_embed


class Kept:
    """What is to be gone."""

    def __init__(self) -> None:
        self._refs: dict[str, weakref.ref[Any]] = {}

    def add(self, name: str, kept: Any) -> None:
        self._refs[name] = weakref.ref(kept)

    def there(self) -> list[str]:
        wg_embed.genkey()  # What a thread of a tunnel has let go of is let go of by the next call.
        gc.collect()
        return [name for name, ref in self._refs.items() if ref() is not None]

    def stays(self) -> list[str]:
        """What is there for long."""
        late = time.monotonic() + PATIENCE
        while self.there() and time.monotonic() < late:
            time.sleep(0.01)
        return self.there()


@contextmanager
def ending(is_closed: bool, kept: Kept) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is closed or just dropped, with what has not ended on it."""
    loop = asyncio.new_event_loop()
    kept.add("loop", loop)
    yield loop
    for task in asyncio.all_tasks(loop):
        kept.add(f"task {task.get_name()}", task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    if is_closed:
        loop.close()
    asyncio.set_event_loop(None)


def pipes() -> int:
    return sum(name.startswith("pipe:") for name in descriptors())


@pytest.fixture(autouse=True)
def _unclosed_loops() -> Iterator[None]:
    """Loops that are not closed are what some tests are about."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # Of coroutines that their loop does not begin any more.
        yield
        gc.collect()


CLOSED = pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "dropped"])


@CLOSED
@pytest.mark.parametrize("keeps_tunnel", [True, False], ids=["its tunnels are kept", "its tunnels are dropped"])
def test_a_loop_is_freed_with_all_that_waits_on_it(is_closed: bool, keeps_tunnel: bool) -> None:
    kept = Kept()
    before = pipes()

    class Holds(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            kept.add("transport", transport)
            self.transport = transport

    async def reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.add("reader", reader)
        await reader.read()

    async def watches(tunnel: wg_embed.Tunnel) -> None:
        async for _ in tunnel.events():
            pass

    async def writes(writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(64 << 20))
        await writer.drain()

    async def main(server: wg_embed.Tunnel, tunnel: wg_embed.Tunnel) -> None:
        kept.add("server", await server.net.create_server(Holds, 80))
        kept.add("stream server", await server.net.serve(reads, 81))
        udp = tunnel.net.udp()
        kept.add("udp", udp)
        kept.add("connection", (await soon(tunnel.net.dial("10.0.0.2:80", timeout=PATIENCE)))[1])
        reader, writer = await soon(tunnel.net.dial("10.0.0.2:81", timeout=PATIENCE))
        writer.write(b"x")
        tunnel.net.dns = ["10.0.0.9"]
        waiting = {
            "reads": reader.read(),
            "writes": writes(writer),
            "receives": udp.receive(),
            "dials": tunnel.net.dial("10.0.0.77:1", timeout=PATIENCE),
            "resolves": tunnel.net.resolve("a.test", timeout=PATIENCE),
            "pings": tunnel.net.ping("10.0.0.77", timeout=PATIENCE),
            "watches": watches(tunnel),
        }
        tasks = []
        for name, coroutine in waiting.items():
            tasks.append(asyncio.ensure_future(coroutine))
            tasks[-1].set_name(name)
        await until(lambda: "reader" in kept._refs and tunnel.net.stats()["packets_out"] > 20)
        assert not any(task.done() for task in tasks)

    tunnels = list(pair())
    with ending(is_closed, kept) as loop:
        loop.run_until_complete(main(*tunnels))
    del loop
    if not keeps_tunnel:
        for number in range(2):
            kept.add(f"tunnel {number}", tunnels[number])
        tunnels.clear()
    assert kept.stays() == []
    assert pipes() == before
    if keeps_tunnel:
        # Nothing is left of the loop that they would wake.
        assert tunnels[1].net.ping_blocking("10.0.0.2", timeout=PATIENCE) > 0
        assert pipes() == before
        for tunnel in tunnels:
            tunnel.close()


@pytest.mark.ours_only("it has no such promise")
@CLOSED
@pytest.mark.parametrize("what", ["read", "drain", "wait_closed"])
def test_a_loop_of_a_server_is_freed(interface: Interface, is_closed: bool, what: str) -> None:
    kept = Kept()

    async def handler(stream: Any) -> None:
        arrived.append(None)
        if what == "drain":
            stream.write(bytes(64 << 20))
        if what != "wait_closed":
            await getattr(stream, what)(*([10] if what == "read" else []))

    async def closes(server: Any) -> None:
        arrived.append(None)
        await server.wait_closed()

    async def main() -> Any:
        server = await interface.start(handler)
        if what == "wait_closed":
            tasks.append(asyncio.ensure_future(closes(server)))
        tunnel = client(server.getsockname()[1])
        await soon(tunnel.net.dial("10.0.0.42:5", timeout=PATIENCE))
        await until(lambda: arrived)
        return server, tunnel

    tasks: list[Any] = []
    arrived: list[None] = []
    with ending(is_closed, kept) as loop:
        server, tunnel = loop.run_until_complete(main())
    tasks.clear()
    del loop
    if what == "read":
        # Its program may keep the server.
        assert kept.stays() == []
        with pytest.raises(RuntimeError, match="closed"):
            server.wait_closed()
        server.close()
        tunnel.close()
    del server, tunnel
    assert kept.stays() == []


def test_a_stream_is_of_no_use_without_its_loop(interface: Interface) -> None:
    kept: list[Any] = []

    async def handler(stream: Any) -> None:
        kept.append(stream)

    async def main() -> None:
        kept.append(await interface.start(handler))
        with client(kept[0].getsockname()[1]) as tunnel:
            await soon(tunnel.net.dial("10.0.0.42:5", timeout=PATIENCE))
            await until(lambda: len(kept) == 2)

    asyncio.run(main())
    gc.collect()
    server, stream = kept
    for call in (lambda: stream.read(10), stream.drain, server.wait_closed):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    stream.write(b"x")
    stream.close()
    server.close()


@CLOSED
def test_events_go_on_with_another_loop(is_closed: bool) -> None:
    async def next_event(tunnel: wg_embed.Tunnel) -> wg_embed.Event:
        return await soon(iterators.setdefault("this", tunnel.events()).__anext__())

    iterators: dict[str, Any] = {}
    server, tunnel = pair()
    with server, tunnel:
        with ending(is_closed, Kept()) as loop:
            tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE)
            assert loop.run_until_complete(next_event(tunnel)).name == "handshake_completed"
        before = iterators.pop("this")
        tunnel.close()
        assert asyncio.run(next_event(tunnel)).name == "ended"
        del before, loop


def test_a_tunnel_that_is_dropped_is_freed() -> None:
    async def main(drop: Callable[[wg_embed.Tunnel], Any]) -> None:
        server, tunnel = pair()
        with server:
            kept = Kept()
            kept.add("tunnel", tunnel)
            await soon(tunnel.net.ping("10.0.0.2", timeout=PATIENCE))
            port = tunnel.listen_port
            left = await drop(tunnel)
            del tunnel
            await until(lambda: not kept.there())
            await until(lambda: is_free(port))
            del left

    def is_free(port: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            try:
                other.bind(("0.0.0.0", port))
            except OSError:
                return False
            return True

    async def connection(tunnel: wg_embed.Tunnel) -> Any:
        return await tunnel.net.create_server(asyncio.Protocol, 80), tunnel.net.udp()

    async def events(tunnel: wg_embed.Tunnel) -> Any:
        events = tunnel.events()
        assert (await soon(events.__anext__()))[:2] == ("handshake_completed", SERVER_PUB)

    async def callback(tunnel: wg_embed.Tunnel) -> Any:
        tunnel.on_event(print)()

    async def cycle(tunnel: wg_embed.Tunnel) -> Any:
        vars(tunnel)["itself"] = tunnel

    for drop in (connection, events, callback, cycle):
        run(main(drop))


def test_while_the_loop_runs_nothing_is_garbage() -> None:
    """Only the tunnel refers to these transports and tasks."""

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())  # type: ignore[attr-defined]

    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await server.net.create_server(Echo, 80)
            await server.net.serve(upper, 81)
            for port in (80, 81):
                reader, writer = await soon(tunnel.net.dial(f"10.0.0.2:{port}", timeout=PATIENCE))
                for _ in range(5):
                    gc.collect()
                    writer.write(b"abc")
                    assert await soon(reader.readexactly(3)) == b"ABC"

    run(main())


def test_while_the_loop_runs_no_handler_is_garbage(interface: Interface) -> None:
    async def upper(stream: Any) -> None:
        while data := await stream.read(100):
            stream.write(data.upper())
            await stream.drain()

    async def main() -> None:
        server = await interface.start(upper)
        with client(server.getsockname()[1]) as tunnel:
            reader, writer = await soon(tunnel.net.dial("10.0.0.42:80", timeout=PATIENCE))
            for _ in range(5):
                gc.collect()
                writer.write(b"abc")
                assert await soon(reader.readexactly(3)) == b"ABC"
        server.close()

    run(main())


def test_a_socket_may_move_to_another_loop() -> None:
    """Each loop knows it then; it is one's only."""
    server, tunnel = pair()
    loops = [asyncio.new_event_loop() for _ in range(2)]
    with server, tunnel, server.net.udp(53) as there, tunnel.net.udp(remote=("10.0.0.2", 53)) as here:
        for turn in range(6):
            sent = noise(100, turn)

            async def receive(sent: bytes = sent) -> None:
                receiving = asyncio.ensure_future(soon(here.receive()))
                await asyncio.sleep(0)
                here.send(b"x")
                there.send(sent, there.receive_blocking(PATIENCE)[1])
                for _ in range(3):
                    gc.collect()
                assert (await receiving)[0] == sent

            loops[turn % 2].run_until_complete(receive())
    for loop in loops:
        loop.close()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_loops_one_after_another_leave_no_descriptors() -> None:
    server, tunnel = pair()
    with server, tunnel:

        async def main() -> None:
            await soon(tunnel.net.ping("10.0.0.2", timeout=PATIENCE))

        before = pipes()
        for _ in range(50):
            asyncio.run(main())
        gc.collect()
        assert pipes() == before
