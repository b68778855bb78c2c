"""What goes wrong: cancelled calls, callbacks that raise, threads, and event loops of other kinds."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import importlib.util
import logging
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support import (
    CLIENT_KEY,
    CLIENT_PUB,
    PATIENCE,
    SERVER_KEY,
    SERVER_PUB,
    checksum,
    descriptors,
    digest,
    noise,
    pair,
    resident,
    run,
    script,
    soon,
    until,
)

import wg_embed

pytestmark = pytest.mark.ours_only("there is none")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def cancel_everywhere(begin: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
    """
    Runs it again and again, each time cancelled one turn of the loop later. Returns the results of those that ended
    before, and of one that was not cancelled.
    """
    results: list[Any] = []
    for turns in range(100):
        task = asyncio.ensure_future(begin())
        for _ in range(turns):
            if not task.done():
                # The tunnel's threads have a chance, too.
                await asyncio.sleep(0 if turns % 2 else 0.0005)
        if task.done():
            results.append(task.result())
            if len(results) == 3:
                break
        task.cancel()
        await asyncio.wait([task])
    return [*results, await soon(begin())]


def test_a_dial_that_is_cancelled_anywhere_leaves_nothing() -> None:
    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await server.net.serve(echo, 80)
            results = await cancel_everywhere(lambda: tunnel.net.dial("10.0.0.2:80", timeout=PATIENCE))
            for reader, writer in results:
                writer.write(b"whole")
                assert await soon(reader.readexactly(5)) == b"whole"
                writer.close()
            await until(lambda: tunnel.net.stats()["connections"] == 0)
            await until(lambda: server.net.stats()["connections"] == 0)

    run(main())


def unreachable(packet: bytes, code: int) -> bytes:
    """What a router on the way to the packet's destination answers: ICMP, or ICMPv6."""
    if packet[0] >> 4 == 4:
        message = bytes([3, code, 0, 0, 0, 0, 0, 0]) + packet[:28]
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        header = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(message), 0, 0, 64, 1, 0, packet[16:20], packet[12:16])
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + message
    message = bytes([1, code, 0, 0, 0, 0, 0, 0]) + packet
    addresses = packet[24:40] + packet[8:24]
    total = checksum(addresses + struct.pack("!II", len(message), 58) + message)
    message = message[:2] + struct.pack("!H", total) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), 58, 64) + addresses + message


def test_a_dial_without_a_route() -> None:
    """The error is that of the router, or of the tunnel if no peer has the address."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(PATIENCE)
    codes = {
        ("10.0.0.7", 81): (0, errno.ENETUNREACH),
        ("10.0.0.7", 82): (1, errno.EHOSTUNREACH),
        ("fd00::7", 81): (0, errno.ENETUNREACH),
        ("fd00::7", 83): (3, errno.EHOSTUNREACH),
    }

    def answer(host: str, port: int, code: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        at, length = (24, 40) if ":" in host else (16, 20)
        destination = socket.inet_pton(family, host)
        while True:
            packet = ours.recv(2000)
            if packet[at:length] == destination and packet[length + 2 : length + 4] == struct.pack("!H", port):
                ours.send(unreachable(packet, code))
                return

    async def main() -> None:
        peer = wg_embed.Peer(CLIENT_PUB, ["10.0.0.1/32", "fd00::1/128"])
        server = wg_embed.Tunnel(wg_embed.Config(SERVER_KEY, [peer]), fd=theirs.fileno(), bind="127.0.0.1")
        remote = wg_embed.Peer(SERVER_PUB, ["10.0.0.0/24", "fd00::/64"], f"127.0.0.1:{server.listen_port}")
        config = wg_embed.Config(CLIENT_KEY, [remote], ["10.0.0.1", "fd00::1"])
        loop = asyncio.get_running_loop()
        with server, wg_embed.Tunnel(config) as tunnel:
            for (host, port), (code, expected) in codes.items():
                target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                answered = loop.run_in_executor(None, answer, host, port, code)
                with pytest.raises(OSError) as caught:
                    await soon(tunnel.net.dial(target, timeout=PATIENCE))
                assert caught.value.errno == expected, target
                await soon(answered)
            for target in ("192.0.2.1:81", "[2001:db8::1]:81"):
                with pytest.raises(OSError) as caught:
                    await soon(tunnel.net.dial(target, timeout=PATIENCE))
                assert caught.value.errno == errno.EHOSTUNREACH, target
        lone = wg_embed.Config(CLIENT_KEY, [remote], ["10.0.0.1"])
        with wg_embed.Tunnel(lone) as tunnel, pytest.raises(OSError) as caught:
            await soon(tunnel.net.dial("[fd00::7]:81", timeout=PATIENCE))
        assert caught.value.errno == errno.EADDRNOTAVAIL

    with ours, theirs:
        run(main())


def test_a_read_that_is_cancelled_anywhere_loses_nothing() -> None:
    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await server.net.serve(echo, 80)
            reader, writer = await soon(tunnel.net.dial("10.0.0.2:80"))
            with tunnel.net.udp(remote=("10.0.0.2", 53)) as here, server.net.udp(53) as there:
                for size in (1, 1000, 65536, 300_000):
                    sent, received = noise(size), b""
                    writer.write(sent)
                    turns = 0
                    while len(received) < size:
                        task = asyncio.ensure_future(reader.read(5000))
                        for _ in range(turns := (turns + 1) % 7):
                            await asyncio.sleep(0)
                        task.cancel()
                        try:
                            received += await task
                        except asyncio.CancelledError:
                            await asyncio.sleep(0.0005)
                    assert digest(received) == digest(sent)
                for number in range(50):
                    here.send(b"%d" % number)
                    datagram = asyncio.ensure_future(there.receive())
                    for _ in range(number % 5):
                        await asyncio.sleep(0.0005 if number % 2 else 0)
                    datagram.cancel()
                    try:
                        data, _ = await datagram
                    except asyncio.CancelledError:
                        data, _ = await soon(there.receive())
                    assert data == b"%d" % number
            writer.close()

    run(main())


def test_resolving_and_pinging_can_be_cancelled() -> None:
    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            tunnel.net.dns = ["10.0.0.77"]
            for begin in (lambda: tunnel.net.resolve("name.test"), lambda: tunnel.net.ping("10.0.0.77")):
                for turns in range(4):
                    task: asyncio.Future[Any] = asyncio.ensure_future(begin())
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            assert await tunnel.net.ping("10.0.0.2", timeout=PATIENCE) > 0

    run(main())


def test_waiting_again_and_again_takes_no_memory() -> None:
    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            with tunnel.net.udp() as udp:

                async def wait(times: int) -> None:
                    for number in range(times):
                        udp._native.watch(nothing)
                        if number % 1000 == 0:
                            await asyncio.sleep(0)
                    udp._native.watch(None)

                await wait(20_000)
                before = resident()
                await wait(200_000)
                # A word each would be more.
                assert resident() - before < 3 << 19

    def nothing() -> None:
        pass

    run(main())


CLOSED = """
import asyncio, mitmproxy_wireguard
from support import client, resident, soon, start_legacy

async def serve(times):
    received = asyncio.Queue()
    for _ in range(times):
        server = await start_legacy(mitmproxy_wireguard, datagram=lambda *_: received.put_nowait(None))
        with client(server.getsockname()[1]) as tunnel, tunnel.net.udp(1234, "10.0.0.1") as udp:
            udp.send(b"begins a flow", ("10.0.0.42", 31337))
            await soon(received.get())
            server.close()
        await soon(server.wait_closed())

async def main():
    await serve(50)
    before = resident()
    await serve(200)
    print(resident() - before)

asyncio.run(main())
"""


def test_closed_servers_with_flows_take_no_memory() -> None:
    ended = script(CLOSED, timeout=2 * PATIENCE)
    assert ended.returncode == 0, ended.stderr
    # Their networks would be three times as much.
    assert int(ended.stdout) < 1 << 18


def test_closing_a_socket_ends_what_waits_for_it() -> None:
    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            udp = tunnel.net.udp()
            waiting = asyncio.ensure_future(udp.receive())
            await asyncio.sleep(0.01)
            udp.close()
            # A time that is up is an OSError, too.
            with pytest.raises(OSError) as caught:
                await soon(waiting)
            assert caught.value.errno == errno.EBADF

            udp = tunnel.net.udp()
            loop = asyncio.get_running_loop()
            blocked = loop.run_in_executor(None, udp.receive_blocking, PATIENCE)
            await asyncio.sleep(0.01)
            udp.close()
            with pytest.raises(OSError) as caught:
                await soon(blocked)
            assert caught.value.errno == errno.EBADF

    run(main())


def test_only_a_connected_socket_is_detached() -> None:
    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            with server.net.udp(53) as there:
                with pytest.raises(OSError) as caught:
                    there.detach()
                assert caught.value.errno == errno.ENOTCONN
                here = tunnel.net.udp(remote=("10.0.0.2", 53))
                here.send(b"question")
                question, sender = await soon(there.receive())
                assert question == b"question"

                waiting = asyncio.ensure_future(here.receive())
                await until(lambda: here._readers)
                with here.detach() as connected:
                    with pytest.raises(OSError) as caught:
                        await soon(waiting)
                    assert caught.value.errno == errno.EBADF
                    there.send(b"answer", sender)
                    connected.settimeout(PATIENCE)
                    loop = asyncio.get_running_loop()
                    assert await loop.run_in_executor(None, connected.recv, 100) == b"answer"

    run(main())


def test_a_stream_whose_connection_is_detached_fails() -> None:
    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await server.net.serve(echo, 80)
            reader, writer = await soon(tunnel.net.dial("10.0.0.2:80"))
            waiting = asyncio.ensure_future(reader.read())
            await asyncio.sleep(0)
            socket.socket(fileno=writer.get_extra_info("wg_embed").detach()).close()
            with pytest.raises(OSError) as caught:
                await soon(waiting)
            assert caught.value.errno == errno.EBADF

    run(main())


def test_callbacks_that_raise_end_no_server(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(asyncio.Protocol):
        def __init__(self, where: str) -> None:
            self.where = where

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            if self.where == "made":
                raise ArithmeticError(self.where)

        def data_received(self, data: bytes) -> None:
            if self.where == "data":
                raise ArithmeticError(self.where)

        def eof_received(self) -> None:
            if self.where == "eof":
                raise ArithmeticError(self.where)

        def connection_lost(self, exc: Any) -> None:
            if self.where == "lost":
                raise ArithmeticError(self.where)

    places = ["factory", "made", "data", "eof", "lost"]

    def factory() -> asyncio.Protocol:
        where = places[0]
        if where == "factory":
            raise ArithmeticError(where)
        return Raises(where)

    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await server.net.create_server(factory, 80)
            while places:
                caplog.clear()
                reader, writer = await soon(tunnel.net.dial("10.0.0.2:80", timeout=PATIENCE))
                writer.write(b"x")
                writer.write_eof()
                try:
                    assert await soon(reader.read()) == b""
                except ConnectionResetError:
                    assert places[0] != "lost"
                await until(lambda: f"ArithmeticError: {places[0]}" in caplog.text)
                writer.close()
                places.pop(0)

    run(main())


def test_a_callback_for_events_that_raises_is_called_again(caplog: pytest.LogCaptureFixture) -> None:
    server, tunnel = pair()
    ended = threading.Event()

    def callback(event: wg_embed.Event) -> None:
        if event.name == "ended":
            ended.set()
        raise ArithmeticError(event.name)

    with server, tunnel:
        tunnel.on_event(callback)
        tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE)
        tunnel.close()
        assert ended.wait(PATIENCE)
    assert "ArithmeticError: handshake_completed" in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_request_to_exit_ends_the_loop(kind: type[BaseException]) -> None:
    """As in a callback of any asyncio transport; and what waits behind it is not lost."""

    class Exits(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            if data == b"exit":
                raise kind("wanted")
            received.append(data)

    received: list[bytes] = []
    loop = asyncio.new_event_loop()
    server, tunnel = pair()
    with server, tunnel:
        loop.run_until_complete(server.net.create_server(Exits, 80))
        sockets = [tunnel.net.connect("10.0.0.2:80", timeout=PATIENCE) for _ in range(2)]
        sockets[0].sendall(b"exit")
        with pytest.raises(kind, match="wanted"):
            loop.run_until_complete(asyncio.sleep(PATIENCE))
        sockets[1].sendall(b"goes on")
        loop.run_until_complete(until(lambda: received == [b"goes on"]))
        for connection in sockets:
            connection.close()
    loop.close()


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def test_handlers_run_in_the_context_of_serve() -> None:
    seen: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(VARIABLE.get())
        writer.close()

    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await tunnel.net.ping("10.0.0.2", timeout=PATIENCE)
            for port in (80, 81):
                VARIABLE.set(f"of port {port}")
                await server.net.serve(handler, port)
            VARIABLE.set("later")
            for port in (80, 81):
                reader, writer = await soon(tunnel.net.dial(f"10.0.0.2:{port}"))
                await soon(reader.read())
                writer.close()
            assert seen == ["of port 80", "of port 81"]

    run(main())


def test_two_loops_in_two_threads_with_a_tunnel_each() -> None:
    async def main(seed: int) -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await server.net.serve(echo, 80)

            async def ask(number: int) -> None:
                sent = noise(200_000, number)
                reader, writer = await soon(tunnel.net.dial("10.0.0.2:80", timeout=PATIENCE))
                writer.write(sent)
                writer.write_eof()
                assert digest(await soon(reader.read())) == digest(sent)
                writer.close()

            for turn in range(3):
                await asyncio.gather(*(ask(100 * seed + 10 * turn + number) for number in range(5)))

    failures: list[BaseException] = []

    def in_thread(seed: int) -> None:
        try:
            asyncio.run(main(seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=in_thread, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive()
    assert not failures


def test_loops_begin_in_several_threads_at_once() -> None:
    """Each looks at all others, whose number changes meanwhile."""
    server, tunnel = pair()
    failures: list[BaseException] = []

    async def watch() -> None:
        with server.net.udp() as udp:
            udp._native.watch(lambda: None)

    def begin() -> None:
        try:
            for _ in range(100):
                asyncio.run(watch())
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    kept = [asyncio.new_event_loop() for _ in range(30)]
    with server, tunnel:
        sys.setswitchinterval(1e-6)
        try:
            for loop in kept:
                loop.run_until_complete(watch())
            threads = [threading.Thread(target=begin) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(2 * PATIENCE)
                assert not thread.is_alive()
        finally:
            sys.setswitchinterval(interval)
            for loop in kept:
                loop.close()
    assert not failures


def test_threads_and_a_loop_use_one_tunnel_at_once() -> None:
    """The interpreter is never held while a lock of the network is waited for: all of this would stop."""
    server, tunnel = pair()
    stopped, failures = threading.Event(), list[BaseException]()

    def ask(number: int) -> None:
        try:
            while not stopped.is_set():
                sent = noise(50_000, number)
                with tunnel.net.connect("10.0.0.2:80", timeout=PATIENCE) as connection:
                    connection.settimeout(PATIENCE)
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                    assert digest(connection.makefile("rb").read()) == digest(sent)
        except BaseException as error:
            failures.append(error)

    def look() -> None:
        try:
            while not stopped.is_set():
                assert tunnel.peers and tunnel.stats() and server.totals and tunnel.net.stats()
                tunnel.net.addresses = ["10.0.0.1", "fd00::1"]
                tunnel.get_config()
                gc.collect()
        except BaseException as error:
            failures.append(error)

    async def main() -> None:
        await server.net.serve(echo, 80)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=look))
        for thread in threads:
            thread.start()
        for _ in range(30):
            reader, writer = await soon(tunnel.net.dial("10.0.0.2:80", timeout=PATIENCE))
            writer.write(b"from the loop")
            assert await soon(reader.readexactly(13)) == b"from the loop"
            writer.close()
        stopped.set()
        loop = asyncio.get_running_loop()
        for thread in threads:
            await soon(loop.run_in_executor(None, thread.join))

    with server, tunnel:
        run(main())
    assert not failures


def test_a_huge_write_waits_for_its_reader() -> None:
    sent = noise(48 << 20)

    async def main() -> None:
        server, tunnel = pair(memory=8 << 20, workers=2)
        async with server, tunnel:
            begin = asyncio.Event()
            received: asyncio.Queue[bytes] = asyncio.Queue()

            async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await begin.wait()
                received.put_nowait(await reader.read())
                writer.close()

            await server.net.serve(take, 80)
            _, writer = await soon(tunnel.net.dial("10.0.0.2:80", timeout=PATIENCE))
            writer.write(memoryview(sent))
            drain = asyncio.ensure_future(writer.drain())
            await until(lambda: tunnel.net.stats()["memory"] > 0)
            for _ in range(20):
                await asyncio.sleep(0.01)
                assert tunnel.net.stats()["memory"] <= 8 << 20 and not drain.done()
            begin.set()
            await soon(drain)
            writer.write_eof()
            assert digest(await soon(received.get())) == digest(sent)
            writer.close()

    run(main())


EVERYTHING = """
import asyncio, sys, threading
from support import SERVER_KEY, CLIENT_PUB, client, noise, pair, soon
import wg_embed.mitmproxy, mitmproxy_wireguard
kind = sys.argv[1]

async def upper(stream):
    while data := await stream.read(4096):
        stream.write(data.upper())
        await stream.drain()

async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def main():
    server, tunnel = pair()
    async with server, tunnel:
        async with await server.net.serve(echo, 80):
            reader, writer = await soon(tunnel.net.dial("10.0.0.2:80"))
            sent = noise(1 << 20)
            async def send():
                writer.write(sent)
                await writer.drain()
                writer.write_eof()
            _, received = await soon(asyncio.gather(send(), reader.read()))
            assert received == sent
            writer.close()
            await soon(writer.wait_closed())
            with tunnel.net.udp(remote=("10.0.0.2", 53)) as here, server.net.udp(53) as there:
                here.send(b"datagram")
                assert (await soon(there.receive()))[0] == b"datagram"
            assert await tunnel.net.ping("fd00::2", timeout=60) > 0
            assert await tunnel.net.resolve("10.0.0.2") == ["10.0.0.2"]
    for start in (mitmproxy_wireguard.start_server, wg_embed.mitmproxy.wireguard.start_wireguard_server):
        server = await start("127.0.0.1", 0, SERVER_KEY, [CLIENT_PUB], upper, lambda *_: None)
        with client(server.getsockname()[1]) as tunnel:
            reader, writer = await soon(tunnel.net.dial("10.0.0.42:80"))
            writer.write(b"shout")
            assert await soon(reader.readexactly(5)) == b"SHOUT"
            writer.close()
            await soon(writer.wait_closed())
        server.close()
        await soon(server.wait_closed())

if kind == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
else:
    asyncio.run(main(), debug=True)
print("done")
"""


def test_debug_mode_has_nothing_to_report() -> None:
    ended = script("import warnings; warnings.simplefilter('error')\n" + EVERYTHING, "debug", PYTHONWARNINGS="error")
    assert ended.returncode == 0 and ended.stdout == "done\n", ended.stderr
    # Slow callbacks are the machine's.
    reports = [line for line in ended.stderr.splitlines() if "took" not in line]
    assert not reports, ended.stderr


def test_on_uvloop() -> None:
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    ended = script(EVERYTHING, "uvloop")
    assert ended.returncode == 0 and ended.stdout == "done\n" and not ended.stderr, ended.stderr


def test_configurations_of_several_threads_are_not_mixed() -> None:
    both = [wg_embed.pubkey(wg_embed.genkey()) for _ in range(2)]
    with wg_embed.Tunnel(wg_embed.Config(CLIENT_KEY)) as tunnel:

        def replace(peer: str, begin: threading.Barrier) -> None:
            config = wg_embed.Config(CLIENT_KEY, [wg_embed.Peer(peer)])
            begin.wait(PATIENCE)
            tunnel.set_config(config)

        for _ in range(300):
            begin = threading.Barrier(2)
            threads = [threading.Thread(target=replace, args=(peer, begin)) for peer in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert len(tunnel.peers) == 1
            tunnel.set_config(wg_embed.Config(CLIENT_KEY))


def test_a_signal_ends_a_blocking_call() -> None:
    server, tunnel = pair()
    with server, tunnel:
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        with server.net.listen(80) as listener:
            timer = threading.Timer(0.3, signal.pthread_kill, (main_thread, signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                listener.accept(PATIENCE)
            timer.join()
            # It was not lost.
            with tunnel.net.connect("10.0.0.2:80", timeout=PATIENCE):
                connection, peer = listener.accept(PATIENCE)
                connection.close()
                assert peer[0] == "10.0.0.1"


def test_a_failed_handler_keeps_no_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is kept, as a log does, and with it what it refers to."""

    async def reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        server, tunnel = pair()
        async with server, tunnel:
            await server.net.serve(reads, 80)
            _, writer = await soon(tunnel.net.dial("10.0.0.2:80"))
            writer.transport.abort()
            await asyncio.sleep(0.1)

    run(main())
    gc.collect()
    before = [name for name in descriptors() if name.startswith("pipe:")]
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            run(main())
    gc.collect()
    assert len([name for name in descriptors() if name.startswith("pipe:")]) <= len(before)


def test_a_socket_that_a_thread_waits_for_is_not_lost() -> None:
    server, tunnel = pair()
    with server, tunnel, server.net.udp(53) as there:
        here = tunnel.net.udp(remote=("10.0.0.2", 53))
        received: list[bytes] = []
        thread = threading.Thread(target=lambda: received.append(here.receive_blocking(PATIENCE)[0]))
        thread.start()

        def is_busy() -> bool:
            try:
                here.detach().close()
            except OSError as error:
                assert error.errno == errno.EBUSY
                return True
            raise AssertionError("it was detached")

        asleep = 0

        def waits() -> bool:
            """This thread sleeps between two calls: the other would go on if it could."""
            nonlocal asleep
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            is_there = "receive_blocking" in str(sys._current_frames()[thread.ident or 0])
            asleep = asleep + 1 if is_there and "State:\tS" in status else 0
            return asleep == 10

        run(until(waits))
        assert is_busy()
        here.send(b"question")
        there.send(b"answer", there.receive_blocking(PATIENCE)[1])
        thread.join(PATIENCE)
        assert received == [b"answer"]
        here.detach().close()


def test_keys_are_in_no_exception() -> None:
    bad = SERVER_KEY[:-2] + "!="
    with pytest.raises(ValueError) as caught:
        wg_embed.pubkey(bad)
    assert bad[:20] not in str(caught.value)
    with pytest.raises(ValueError) as caught:
        wg_embed.Config(bad).to_conf()
    assert bad[:20] not in str(caught.value)
