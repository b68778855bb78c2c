"""`wg_embed`: tunnels and their userspace network."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.util
import logging
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from support import (
    CLIENT_KEY,
    CLIENT_PUB,
    PATIENCE,
    SERVER_KEY,
    SERVER_PUB,
    descriptors,
    digest,
    noise,
    pair,
    run,
    script,
    soon,
    until,
)

import wg_embed

pytestmark = pytest.mark.ours_only("there is none")


@contextlib.asynccontextmanager
async def two(**more: Any) -> AsyncGenerator[tuple[wg_embed.Tunnel, wg_embed.Tunnel], None]:
    server, tunnel = pair(**more)
    async with server, tunnel:
        yield server, tunnel


def test_keys() -> None:
    key = wg_embed.genkey()
    assert len(key) == len(wg_embed.pubkey(key)) == len(wg_embed.genpsk()) == 44
    with pytest.raises(ValueError):
        wg_embed.pubkey("x")


# With seccomp, the system call getrandom() fails with EIO.
NO_RANDOMNESS = """
import ctypes, errno, platform, struct, sys
import wg_embed

number = {"x86_64": 318, "aarch64": 278}.get(platform.machine(), -1)
load, jump_if_equal, give = 0x20, 0x15, 0x06
filters = [(load, 0, 0, 0), (jump_if_equal, 0, 1, number), (give, 0, 0, 0x50000 | errno.EIO), (give, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *filter) for filter in filters))
libc = ctypes.CDLL(None)
if number < 0 or libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, struct.pack("HP", 4, ctypes.addressof(code)), 0, 0):
    sys.exit("there is no seccomp")
for generate in wg_embed.genkey, wg_embed.genpsk:
    try:
        generate()
    except OSError as error:
        print(error.errno == errno.EIO, error)
"""


def test_keys_need_randomness() -> None:
    ended = script(NO_RANDOMNESS)
    if ended.stderr == "there is no seccomp\n":
        pytest.skip("there is no seccomp")
    assert ended.returncode == 0, ended.stderr
    assert [line.startswith("True ") for line in ended.stdout.splitlines()] == [True, True], ended.stdout


def test_configurations() -> None:
    peer = wg_embed.Peer(
        CLIENT_PUB, ["10.0.0.0/8", "::/0"], "[2001:db8::1]:51820", wg_embed.genpsk(), persistent_keepalive=25
    )
    config = wg_embed.Config(SERVER_KEY, [peer], ["10.0.0.2/24"], ["10.0.0.53"], listen_port=7, fwmark=1, mtu=1300)
    text = config.to_conf()
    assert "Endpoint = [2001:db8::1]:51820" in text and "MTU = 1300" in text
    assert SERVER_KEY not in repr(config) and str(peer.preshared_key) not in repr(config)
    for bad in (
        wg_embed.Config("x"),
        wg_embed.Config(SERVER_KEY, mtu=1),
        wg_embed.Config(SERVER_KEY, addresses=["10.0.0.300"]),
        wg_embed.Config(SERVER_KEY, dns=["10.0.0.1\nPostUp = true"]),
        wg_embed.Config(SERVER_KEY, [wg_embed.Peer("x")]),
    ):
        with pytest.raises(wg_embed.ConfigError) as caught:
            bad.to_conf()
        assert isinstance(caught.value, ValueError) and SERVER_KEY not in str(caught.value)
    with pytest.raises(wg_embed.ConfigError, match="line 1"):
        wg_embed.Tunnel("nonsense")


def test_an_endpoint_that_a_configuration_no_longer_has_stays() -> None:
    peer = wg_embed.Peer(SERVER_PUB, endpoint="192.0.2.1:7")
    with wg_embed.Tunnel(wg_embed.Config(CLIENT_KEY, [peer])) as tunnel:
        tunnel.set_config(wg_embed.Config(CLIENT_KEY, [wg_embed.Peer(SERVER_PUB)]))
        assert tunnel.peers[SERVER_PUB].endpoint == "192.0.2.1:7"


def test_a_tunnel_has_a_state_and_ends() -> None:
    server, tunnel = pair()
    with server, tunnel:
        assert tunnel.public_key == CLIENT_PUB and server.public_key == SERVER_PUB and tunnel.mtu == 1420
        assert tunnel.net.addresses == ["10.0.0.1", "fd00::1"]
        assert tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE) > 0
        state = tunnel.peers[SERVER_PUB]
        assert state.endpoint == f"127.0.0.1:{server.listen_port}" and state.has_session
        assert state.last_handshake > 1e9 and state.rx_bytes > 0 and state.tx_bytes > 0
        assert state.allowed_ips == ["0.0.0.0/0", "::/0"]
        assert tunnel.totals.peers == 1 and tunnel.totals.tx_packets > 0
        assert tunnel.stats()["in_wrong_source"] == 0
        found = server.peer_at("10.0.0.1")
        assert found is not None and found.public_key == CLIENT_PUB and server.peer_at("10.9.9.9") is None
        assert "public_key=" in tunnel.get_config() and repr(tunnel).startswith("<Tunnel ")

        tunnel.set_config(f"public_key={wg_hex(wg_embed.pubkey(wg_embed.genkey()))}\nallowed_ip=10.5.0.0/16\n")
        assert len(tunnel.peers) == 2
        other = [key for key in tunnel.peers if key != SERVER_PUB][0]
        tunnel.remove_peer(other)
        with pytest.raises(FileNotFoundError):
            tunnel.remove_peer(other)
        with pytest.raises(wg_embed.ConfigError):
            tunnel.set_config("public_key=1\n")
        tunnel.set_config(wg_embed.Config(CLIENT_KEY))
        assert tunnel.peers == {}
        conf = wg_embed.Config(CLIENT_KEY, [wg_embed.Peer(SERVER_PUB)]).to_conf()
        for text in (conf, f"# a comment\n\n # [another]\n{conf}", f"\ufeff{conf}"):
            for given in (text, text.encode(), text.encode("utf-16")):
                tunnel.set_config(wg_embed.Config(CLIENT_KEY))
                tunnel.set_config(given)
                assert list(tunnel.peers) == [SERVER_PUB]
        tunnel.set_config(f"public_key={wg_hex(other)}\n".encode())
        assert list(tunnel.peers) == [SERVER_PUB, other]
        tunnel.pause()
        tunnel.resume()
        tunnel.rebind()
    assert tunnel.closed and repr(tunnel) == "<Tunnel closed>"
    tunnel.close()
    for call in (lambda: tunnel.peers, lambda: tunnel.listen_port, lambda: tunnel.rebind()):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENODEV


def wg_hex(key: str) -> str:
    import base64

    return base64.b64decode(key).hex()


def test_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "wg.conf"
    file.write_text(wg_embed.Config(SERVER_KEY, addresses=["10.0.0.9/32"], mtu=1280).to_conf())
    with wg_embed.Tunnel.from_file(file) as tunnel:
        assert tunnel.net.addresses == ["10.0.0.9"] and tunnel.net.mtu == 1280
    with pytest.raises(OverflowError):
        wg_embed.Tunnel.from_file(file, workers=-1)
    with pytest.raises(ValueError, match="at most 8 workers"):
        wg_embed.Tunnel.from_file(file, workers=9)
    with pytest.raises(FileNotFoundError):
        wg_embed.Tunnel.from_file(tmp_path / "missing.conf")


def test_a_port_in_use() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        config = wg_embed.Config(SERVER_KEY, listen_port=other.getsockname()[1])
        with pytest.raises(OSError) as caught:
            wg_embed.Tunnel(config, bind="127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE


def test_a_descriptor() -> None:
    """A tunnel over a socket pair carries packets of the test's own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer = wg_embed.Peer(CLIENT_PUB, ["10.0.0.1/32"])
    with ours, theirs:
        server = wg_embed.Tunnel(wg_embed.Config(SERVER_KEY, [peer]), fd=theirs.fileno(), bind="127.0.0.1")
        remote = wg_embed.Peer(SERVER_PUB, ["10.0.0.0/24"], f"127.0.0.1:{server.listen_port}")
        with server, wg_embed.Tunnel(wg_embed.Config(CLIENT_KEY, [remote], ["10.0.0.1"])) as tunnel:
            with pytest.raises(AttributeError):
                server.net
            with tunnel.net.udp(1000) as udp:
                udp.send(b"payload", ("10.0.0.7", 2000))
                ours.settimeout(PATIENCE)
                packet = ours.recv(2000)
                assert packet[28:] == b"payload"
                assert struct.unpack("!HH", packet[20:24]) == (1000, 2000)
    with pytest.raises(OSError) as caught:
        wg_embed.Tunnel(wg_embed.Config(SERVER_KEY), fd=-1)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError):
        wg_embed.Tunnel(wg_embed.Config(SERVER_KEY), fd=0, tun="wg9")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    writer.close()


@pytest.mark.parametrize("host", ["10.0.0.2", "fd00::2"])
@pytest.mark.parametrize("size", [1, 65536, 3_000_000])
def test_streams(host: str, size: int) -> None:
    async def main() -> None:
        async with two() as (server, tunnel):
            async with await server.net.serve(echo, 80) as listening:
                assert listening.address[1] == 80 and listening.is_serving()
                target = f"[{host}]:80" if ":" in host else f"{host}:80"
                reader, writer = await tunnel.net.dial(target)
                assert writer.get_extra_info("peername") == (host, 80)
                sent = noise(size)

                async def send() -> None:
                    writer.write(sent)
                    await writer.drain()
                    writer.write_eof()

                _, received = await soon(asyncio.gather(send(), reader.read()))
                assert digest(received) == digest(sent)
                writer.close()
                await soon(writer.wait_closed())
                writer.close()

    run(main())


def test_data_that_a_closed_loop_leaves_unsent_end_with_a_reset() -> None:
    sent = bytes(32 << 20)
    written: list[bool] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.close()
        written.append(True)

    ours, theirs = asyncio.new_event_loop(), asyncio.new_event_loop()
    server, tunnel = pair()
    with server, tunnel:
        listening = ours.run_until_complete(server.net.serve(handler, 80))
        reader, writer = theirs.run_until_complete(soon(tunnel.net.dial("10.0.0.2:80", timeout=PATIENCE)))
        ours.run_until_complete(until(lambda: written))
        ours.close()
        del listening
        gc.collect()
        with pytest.raises(ConnectionResetError):
            theirs.run_until_complete(soon(reader.read()))
        writer.transport.abort()
    theirs.close()


def test_lines_and_exact_reads() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " + await reader.readline())
        writer.close()

    async def main() -> None:
        async with two() as (server, tunnel):
            await server.net.serve(greet, 80)
            reader, writer = await tunnel.net.dial("10.0.0.2:80")
            writer.writelines([b"wor", b"ld\n"])
            assert await soon(reader.readexactly(6)) == b"hello "
            assert await soon(reader.readuntil(b"\n")) == b"world\n"
            assert await soon(reader.read()) == b""
            with pytest.raises(asyncio.IncompleteReadError):
                await soon(reader.readexactly(1))
            writer.close()

    run(main())


def test_dialling_fails() -> None:
    async def main() -> None:
        async with two() as (_, tunnel):
            loop = asyncio.get_running_loop()
            for target, code in (
                ("10.0.0.77:81", errno.ETIMEDOUT),
                ("10.0.0.2:81", errno.ECONNREFUSED),
                ("[2001:db8::1]:81", errno.ETIMEDOUT),
            ):
                blocking = partial(tunnel.net.connect, target, timeout=0.5)
                for dial in (tunnel.net.dial(target, timeout=0.5), loop.run_in_executor(None, blocking)):
                    with pytest.raises(OSError) as caught:
                        await soon(dial)
                    assert caught.value.errno == code, target
            for bad in ("", "10.0.0.2", "10.0.0.2:x", "10.0.0.2:70000", "[::1:5"):
                with pytest.raises(ValueError):
                    await tunnel.net.dial(bad)
            with pytest.raises(ValueError):
                await tunnel.net.dial("10.0.0.2:80", family="ipv5")
            task = asyncio.ensure_future(tunnel.net.dial("10.0.0.77:81"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: tunnel.net.stats()["connections"] == 0)

    run(main())


def test_listening_fails() -> None:
    async def main() -> None:
        async with two() as (server, tunnel):
            first = await server.net.serve(echo, 0)
            with pytest.raises(OSError) as caught:
                await server.net.serve(echo, first.address[1])
            assert caught.value.errno == errno.EADDRINUSE
            with pytest.raises(OSError) as caught:
                await server.net.serve(echo, 80, "192.0.2.1")
            assert caught.value.errno == errno.EADDRNOTAVAIL
            first.close()
            await soon(first.wait_closed())
            with pytest.raises(ConnectionRefusedError):
                await soon(tunnel.net.dial(f"10.0.0.2:{first.address[1]}"))

    run(main())


def test_closing_a_tunnel_ends_its_connections() -> None:
    async def main() -> None:
        async with two() as (server, tunnel):
            begun, ended = asyncio.Event(), asyncio.Event()

            async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                begun.set()
                with pytest.raises(ConnectionError):
                    await reader.read()
                ended.set()

            await server.net.serve(wait, 80)
            reader, writer = await tunnel.net.dial("10.0.0.2:80")
            await soon(begun.wait())
            tunnel.close()
            with pytest.raises(ConnectionError):
                await soon(reader.read())
            await soon(ended.wait())
            with pytest.raises(OSError):
                await tunnel.net.dial("10.0.0.2:80")
            writer.close()

    run(main())


def test_abort_resets() -> None:
    async def main() -> None:
        async with two() as (server, tunnel):

            async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.transport.abort()

            await server.net.serve(abort, 80)
            reader, writer = await tunnel.net.dial("10.0.0.2:80")
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())
            writer.close()

    run(main())


def certificate(path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server that is `inside.test` and of a client that trusts it."""
    key, cert = path / "key.pem", path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=inside.test"]
    command += ["-addext", "subjectAltName=DNS:inside.test"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


def test_tls(tmp_path: Path) -> None:
    server_context, client_context = certificate(tmp_path)

    async def main() -> None:
        async with two() as (server, tunnel):

            async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write((await reader.readline()).upper() * 10_000)
                await writer.drain()
                writer.close()

            await server.net.serve(shout, 443, ssl=server_context)
            reader, writer = await soon(
                tunnel.net.dial("10.0.0.2:443", ssl=client_context, server_hostname="inside.test", limit=1 << 20)
            )
            writer.write(b"over tls\n")
            assert await soon(reader.read()) == b"OVER TLS\n" * 10_000
            writer.close()
            # Until Python 3.10 the end of the connection may overtake its reason.
            refused = ssl.SSLError if sys.version_info >= (3, 11) else (ssl.SSLError, ConnectionAbortedError)
            with pytest.raises(refused):
                await soon(tunnel.net.dial("10.0.0.2:443", ssl=client_context, server_hostname="other.test"))

    run(main())


TLS = """
import asyncio, pathlib, ssl, sys
from support import pair, soon
from test_wg_embed import certificate

server_context, client_context = certificate(pathlib.Path(sys.argv[1]))
calls = []

class Shout(asyncio.Protocol):
    def connection_made(self, transport):
        calls.append("made")
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data.upper())

class Asks(asyncio.Protocol):
    # All in one turn of the loop: the handshake's last message and data.
    def __init__(self):
        self.answered = asyncio.get_running_loop().create_future()
    def connection_made(self, transport):
        transport.write(b"at once")
    def data_received(self, data):
        self.answered.set_result(data)

class Fails(asyncio.Protocol):
    def connection_made(self, transport):
        raise ArithmeticError("made")

async def main():
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    server, tunnel = pair()
    async with server, tunnel:
        await server.net.create_server(Shout, 443, ssl=server_context)
        for _ in range(20):
            arguments = {"ssl": client_context, "server_hostname": "inside.test", "timeout": 60}
            transport, protocol = await soon(tunnel.net.create_connection(Asks, "10.0.0.2:443", **arguments))
            assert await soon(protocol.answered) == b"AT ONCE"
            assert transport.get_extra_info("peername") == ("10.0.0.2", 443)
            transport.close()
        assert len(calls) == 20 and not reported, reported
        await server.net.create_server(Fails, 444, ssl=server_context)
        transport, _ = await soon(tunnel.net.create_connection(asyncio.Protocol, "10.0.0.2:444", **arguments))
        while not reported:
            await asyncio.sleep(0.01)
        while server.net.stats()["connections"]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert [type(context["exception"]) for context in reported] == [ArithmeticError], reported

if sys.argv[2] == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
    loop.run_until_complete(asyncio.wait_for(main(), 120))
    loop.close()
else:
    asyncio.run(asyncio.wait_for(main(), 120))
"""


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_protocol_over_tls_gets_its_transport_before_data(tmp_path: Path, kind: str) -> None:
    if kind == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    certificate(tmp_path)
    ended = script(TLS, str(tmp_path), kind, timeout=2 * PATIENCE)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr


def test_without_ssl() -> None:
    """A CPython may be built without it."""
    ended = script("import sys; sys.modules['_ssl'] = None\nimport wg_embed, mitmproxy_wireguard, wg_embed.mitmproxy")
    assert ended.returncode == 0, ended.stderr


def test_sockets_for_threads() -> None:
    server, tunnel = pair()
    with server, tunnel, server.net.listen(80) as listener:
        sent = noise(2_000_000)

        def serve() -> None:
            connection, peer = listener.accept(PATIENCE)
            with connection:
                assert peer[0] == "10.0.0.1"
                connection.settimeout(PATIENCE)
                data = connection.makefile("rb").read()
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        with tunnel.net.connect("10.0.0.2:80") as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert digest(connection.makefile("rb").read()) == digest(sent)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        with pytest.raises(TimeoutError):
            listener.accept(0.01)
        for endless in (None, float("inf"), 1e300):
            with tunnel.net.connect("10.0.0.2:80", timeout=endless):
                listener.accept(endless)[0].close()
        with pytest.raises(ValueError):
            listener.accept(float("nan"))
        waiting = threading.Thread(target=lambda: pytest.raises(OSError, listener.accept))
        waiting.start()
        listener.close()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_datagrams() -> None:
    async def main() -> None:
        async with two() as (server, tunnel):
            with server.net.udp(53) as there, tunnel.net.udp(remote=("10.0.0.2", 53)) as here:
                assert here.peer == ("10.0.0.2", 53) and there.address[1] == 53
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(there.receive(), 0.01)
                for data in (b"question", b"", noise(1392), noise(20_000)):
                    assert here.send(data)
                    received, sender = await soon(there.receive())
                    assert received == data and sender == here.address
                    there.send(data[::-1], sender)
                    assert await soon(here.receive()) == (data[::-1], ("10.0.0.2", 53))
                with pytest.raises(OSError) as caught:
                    here.send(bytes(70_000))
                assert caught.value.errno == errno.EMSGSIZE
                here.send(b"for a thread")
                loop = asyncio.get_running_loop()
                received, _ = await loop.run_in_executor(None, there.receive_blocking, PATIENCE)
                assert received == b"for a thread"

    run(main())


def answer(question: bytes) -> bytes:
    """`inside.test` is 10.0.0.2 and fd00::2; there is nothing else."""
    name_end = question.index(0, 12) + 1
    kind = struct.unpack("!H", question[name_end : name_end + 2])[0]
    records = {1: socket.inet_pton(socket.AF_INET, "10.0.0.2"), 28: socket.inet_pton(socket.AF_INET6, "fd00::2")}
    known = question[12:name_end].lower() == b"\x06inside\x04test\x00"
    data = records.get(kind) if known else None
    flags = 0x8180 if known else 0x8183
    header = question[:2] + struct.pack("!HHHHH", flags, 1, 1 if data else 0, 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data if data else b""
    return header + question[12 : name_end + 4] + record


def test_names() -> None:
    async def main() -> None:
        async with two() as (server, tunnel):
            await server.net.serve(echo, 80)

            async def serve_dns() -> None:
                with server.net.udp(53) as socket:
                    while True:
                        question, sender = await socket.receive()
                        socket.send(answer(question), sender)

            dns = asyncio.ensure_future(serve_dns())
            assert tunnel.net.dns == []
            for begin in (tunnel.net.resolve("inside.test"), tunnel.net.dial("inside.test:80")):
                with pytest.raises(socket.gaierror) as caught:
                    await soon(begin)
                assert caught.value.errno == socket.EAI_FAIL
            tunnel.net.dns = ["10.0.0.77"]
            with pytest.raises(TimeoutError) as late:
                await soon(tunnel.net.resolve("inside.test", timeout=0.2))
            assert late.value.errno == errno.ETIMEDOUT
            tunnel.net.dns = ["10.0.0.2"]
            assert set(await soon(tunnel.net.resolve("inside.test"))) == {"10.0.0.2", "fd00::2"}
            assert await soon(tunnel.net.resolve("inside.test", family="ipv4")) == ["10.0.0.2"]
            assert await soon(tunnel.net.resolve("10.1.2.3")) == ["10.1.2.3"]
            for begin in (tunnel.net.resolve("outside.test"), tunnel.net.dial("outside.test:80")):
                with pytest.raises(socket.gaierror) as caught:
                    await soon(begin)
                assert caught.value.errno == socket.EAI_NONAME
            reader, writer = await soon(tunnel.net.dial("inside.test:80"))
            writer.write(b"by name")
            assert await soon(reader.readexactly(7)) == b"by name"
            writer.close()
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(None, tunnel.net.resolve_blocking, "inside.test")
            assert "10.0.0.2" in found
            dns.cancel()

    run(main())


def test_echo_requests() -> None:
    async def main() -> None:
        async with two() as (_, tunnel):
            assert 0 < await tunnel.net.ping("10.0.0.2", timeout=PATIENCE) < PATIENCE
            assert 0 < await tunnel.net.ping("fd00::2", size=1000, timeout=PATIENCE) < PATIENCE
            with pytest.raises(TimeoutError):
                await tunnel.net.ping("10.0.0.77", timeout=0.1)
            with pytest.raises(ValueError):
                await tunnel.net.ping("localhost")

    run(main())


def test_events_on_a_loop() -> None:
    async def main() -> None:
        async with two() as (_, tunnel):
            seen: list[wg_embed.Event] = []

            async def watch() -> None:
                async for event in tunnel.events():
                    seen.append(event)

            watching = [asyncio.ensure_future(watch()) for _ in range(2)]
            await asyncio.sleep(0)
            await tunnel.net.ping("10.0.0.2", timeout=PATIENCE)
            await until(lambda: len(seen) >= 2)
            assert [event[:2] for event in seen] == [("handshake_completed", SERVER_PUB)] * 2
            tunnel.close()
            await soon(asyncio.gather(*watching))
            assert seen[-1].name == "ended"

    run(main())


def test_events_in_a_thread() -> None:
    server, tunnel = pair()
    with server, tunnel:
        seen: list[wg_embed.Event] = []
        completed, ended = threading.Event(), threading.Event()

        def callback(event: wg_embed.Event) -> None:
            seen.append(event)
            {"handshake_completed": completed, "ended": ended}.get(event.name, threading.Event()).set()

        stop = tunnel.on_event(callback)
        tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE)
        assert completed.wait(PATIENCE)
        tunnel.close()
        assert ended.wait(PATIENCE)
        stop()


def test_a_network_keeps_its_tunnel() -> None:
    net = wg_embed.Tunnel(wg_embed.Config(CLIENT_KEY, addresses=["10.0.0.1"])).net
    gc.collect()
    with net.udp() as udp:
        assert udp.address[1] > 0
    tunnel = net._tunnel
    del net
    assert not tunnel.closed
    tunnel.close()


def test_datagrams_that_have_come_leave_the_loop_its_turn() -> None:
    async def main() -> None:
        async with two() as (server, tunnel):
            with server.net.udp(53) as there, tunnel.net.udp(remote=("10.0.0.2", 53)) as here:
                await tunnel.net.ping("10.0.0.2", timeout=PATIENCE)
                before = server.net.stats()["packets_in"]
                for number in range(100):
                    here.send(b"%d" % number)
                await until(lambda: server.net.stats()["packets_in"] - before >= 100)
                received: list[bytes] = []
                seen: list[int] = []
                asyncio.get_running_loop().call_soon(lambda: seen.append(len(received)))

                async def receive() -> None:
                    received.append((await there.receive())[0])

                for _ in range(50):
                    await receive()
                assert seen and seen[0] < 50
                # A call that is cancelled while the loop has its turn takes nothing.
                for _ in range(20):
                    task = asyncio.ensure_future(receive())
                    await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                while len(received) < 100:
                    await soon(receive())
                assert received == [b"%d" % number for number in range(100)]

    run(main())


def test_a_cancelled_wait_for_a_datagram_leaves_nothing() -> None:
    async def main() -> None:
        async with two() as (_, tunnel):
            with tunnel.net.udp() as udp:
                waiting = [asyncio.ensure_future(udp.receive()) for _ in range(5)]
                await asyncio.sleep(0.01)
                for task in waiting[1:]:
                    task.cancel()
                await asyncio.wait(waiting[1:])
                assert len(udp._readers) <= 1
                waiting[0].cancel()
                await asyncio.wait(waiting)
                assert udp._readers == [] and udp._waiting == 0

    run(main())


def test_a_transport_calls_no_protocol_that_calls_it() -> None:
    class Keeps(asyncio.Protocol):
        def __init__(self) -> None:
            self.ended, self.lost, self.paused = False, False, False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.WriteTransport, transport)
            made.append(self)

        def eof_received(self) -> bool:
            self.ended = True
            return True

        def pause_writing(self) -> None:
            self.paused = True

        def connection_lost(self, exc: Any) -> None:
            self.lost = True

    async def main() -> None:
        async with two() as (server, tunnel):
            await server.net.create_server(Keeps, 80)
            transport, _ = await soon(tunnel.net.create_connection(asyncio.Protocol, "10.0.0.2:80", timeout=PATIENCE))
            cast(asyncio.Transport, transport).write_eof()
            await until(lambda: made and made[0].ended)
            made[0].transport.write_eof()
            assert not made[0].lost
            await until(lambda: made[0].lost)
            transport.close()

            transport, _ = await soon(tunnel.net.create_connection(Keeps, "10.0.0.2:80"))
            cast(asyncio.Transport, transport).pause_reading()
            await until(lambda: len(made) == 3)
            writes = made[1] if made[1].transport is not transport else made[2]
            writes.transport.set_write_buffer_limits(high=1 << 30)
            for _ in range(64):
                writes.transport.write(bytes(1 << 20))
            assert writes.transport.get_write_buffer_size() > 0 and not writes.paused
            writes.transport.set_write_buffer_limits(high=0)
            assert writes.paused
            cast(asyncio.WriteTransport, transport).abort()

    made: list[Keeps] = []
    run(main())


def test_several_callbacks_get_all_events_and_none_begins_after_the_end() -> None:
    server, tunnel = pair()
    with server, tunnel:
        seen: list[list[str]] = [[] for _ in range(3)]

        def note(names: list[str], event: wg_embed.Event) -> None:
            names.append(event.name)

        stops = [tunnel.on_event(partial(note, names)) for names in seen[:2]]
        tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE)
        run(until(lambda: all("handshake_completed" in names for names in seen[:2])))
        for _ in range(50):
            # The thread may or may not have seen that it is stopped.
            for stop in stops:
                stop()
            stops = [tunnel.on_event(partial(note, seen[2]))]
        assert len([thread for thread in threading.enumerate() if thread.name == "wg-events"]) == 1
        tunnel.close()
        run(until(lambda: "ended" in seen[2]))
        assert seen[2].count("ended") == 1 and "ended" not in seen[0]
        run(until(lambda: all(thread.name != "wg-events" for thread in threading.enumerate())))
        tunnel.on_event(print)()
        assert all(thread.name != "wg-events" for thread in threading.enumerate())

        async def rest() -> list[wg_embed.Event]:
            return [event async for event in tunnel.events()]

        assert run(rest()) == []


def test_events_that_nobody_takes_are_bounded() -> None:
    async def main() -> None:
        async with two() as (_, tunnel):
            events = tunnel.events()
            first = asyncio.ensure_future(events.__anext__())
            await asyncio.sleep(0)
            rows = [("other", None, str(number)) for number in range(5000)]
            for row in rows:
                tunnel._events._queue.append(wg_embed.Event(*row))
                tunnel._events._arrived()
            assert (await soon(first)).detail == str(5000 - 1024)

    run(main())


def test_the_log_goes_to_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "wg_embed"):
        server, tunnel = pair()
        with server, tunnel:
            tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE)

        async def wait() -> None:
            await until(lambda: any("handshake" in record.getMessage() for record in caplog.records))

        run(wait())
    wg_embed.follow_log_level()
    names = {record.name for record in caplog.records}
    assert any(name.startswith("wg_embed.device") for name in names), names
    assert CLIENT_KEY not in caplog.text and SERVER_KEY not in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_has_none_of_its_parents_tunnels() -> None:
    server, tunnel = pair()
    with server, tunnel:
        tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE)
        ports = {server.listen_port, tunnel.listen_port}
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            result = b"no"
            try:
                own = {
                    line.split()[1].rsplit(":", 1)[1]
                    for table in ("udp", "udp6")
                    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
                    if f"socket:[{line.split()[9]}]" in descriptors()
                }
                if own & {f"{port:04X}" for port in ports}:
                    result = b"a socket is open"
                else:
                    try:
                        tunnel.peers
                    except OSError as error:
                        result = b"ok" if error.errno == errno.EBADF else repr(error).encode()
                    tunnel.close()
                    del tunnel, server
                    gc.collect()
                    # Tunnels of its own work.
                    mine, other = pair()
                    with mine, other:
                        other.net.ping_blocking("10.0.0.2", timeout=PATIENCE)
            except BaseException as error:
                result = repr(error).encode()
            finally:
                os.write(write, result)
                os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            assert pipe.read() == b"ok"
        os.waitpid(child, 0)
        assert tunnel.net.ping_blocking("10.0.0.2", timeout=PATIENCE) > 0


def test_nothing_is_left_of_tunnels_and_loops() -> None:
    async def main() -> None:
        async with two() as (server, tunnel):
            await server.net.serve(echo, 80)
            reader, writer = await tunnel.net.dial("10.0.0.2:80")
            writer.write(b"x")
            await soon(reader.read(1))
            # The connection is left open.

    def count() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    run(main())
    before = count()
    for _ in range(5):
        run(main())
    assert count() <= before


def test_types_of_errors_survive_a_thread() -> None:
    server, tunnel = pair()
    with server, tunnel:
        results: list[BaseException] = []

        def dial() -> None:
            try:
                tunnel.net.connect("10.0.0.2:81")
            except BaseException as error:
                results.append(error)

        threads = [threading.Thread(target=dial) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert [type(error) for error in results] == [ConnectionRefusedError] * 8


def test_the_typing_marker_is_there() -> None:
    import mitmproxy_wireguard

    for package in (wg_embed, mitmproxy_wireguard):
        directory = Path(str(package.__file__)).parent
        assert (directory / "py.typed").exists()
    assert sys.modules["wg_embed._native"].__file__
