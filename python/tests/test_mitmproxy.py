"""mitmproxy, run by `python -m wg_embed.mitmproxy`, in front of a client behind a real tunnel."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import CLIENT_KEY, PATIENCE, SERVER_KEY, checksum, client, noise, run, soon

pytestmark = [
    pytest.mark.ours_only("the launcher is ours"),
    pytest.mark.skipif(
        importlib.util.find_spec("mitmproxy") is None,
        reason=f"mitmproxy is not installed for Python {sys.version_info.major}.{sys.version_info.minor}"
        " (it needs 3.12 or newer)",
    ),
]


class Mitmdump(NamedTuple):
    port: int
    directory: Path

    def trusting(self) -> ssl.SSLContext:
        """A context that trusts mitmproxy's certificates alone."""
        return ssl.create_default_context(cafile=str(self.directory / "mitmproxy-ca-cert.pem"))


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def mitmdump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mitmdump]:
    directory = tmp_path_factory.mktemp("mitmproxy")
    keys = {"server_key": SERVER_KEY, "client_key": CLIENT_KEY}
    (directory / "wireguard.conf").write_text(json.dumps(keys))
    port = free_port()
    command = [sys.executable, "-m", "wg_embed.mitmproxy", "mitmdump"]
    command += ["--mode", f"wireguard@127.0.0.1:{port}", "--set", f"confdir={directory}"]
    command += ["--set", "connection_strategy=lazy", "-s", str(Path(__file__).parent / "mitm_addon.py")]
    log = directory / "log"
    with open(log, "wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            assert process.stdout is not None
            output, lines = process.stdout, list[bytes]()
            ready, ended = threading.Event(), threading.Event()

            def read() -> None:
                # To its end: a pipe that is full would stop it.
                for line in output:
                    lines.append(line)
                    if b"READY" in line:
                        ready.set()
                ended.set()

            threading.Thread(target=read, daemon=True).start()
            late = time.monotonic() + 2 * PATIENCE
            while not ready.wait(0.1):
                if ended.is_set() or time.monotonic() > late:
                    pytest.fail(f"mitmdump did not start: {lines} {log.read_bytes()!r}")
            yield Mitmdump(port, directory)
        finally:
            process.terminate()
            process.wait(PATIENCE)
    assert b"Traceback" not in log.read_bytes(), log.read_bytes().decode()


def test_the_launcher_names_its_tools() -> None:
    command = [sys.executable, "-m", "wg_embed.mitmproxy"]
    shown = subprocess.run([*command, "nonsense"], capture_output=True, text=True, timeout=PATIENCE)
    assert shown.returncode == 1 and "usage" in shown.stderr
    version = subprocess.run([*command, "mitmdump", "--version"], capture_output=True, text=True, timeout=PATIENCE)
    assert version.returncode == 0 and "Mitmproxy" in version.stdout


@pytest.mark.parametrize("host", ["192.0.2.42", "[2001:db8::42]"])
def test_http(mitmdump: Mitmdump, host: str) -> None:
    async def main() -> None:
        with client(mitmdump.port) as tunnel:
            reader, writer = await soon(tunnel.net.dial(f"{host}:80"))
            writer.write(
                b"POST /path HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
            )
            answer = await soon(reader.read())
            assert b"POST http://plain.test/path body tls=False tcp HTTP/1.1" in answer, answer
            writer.close()

    run(main())


@pytest.mark.parametrize("host", ["192.0.2.42", "[2001:db8::42]"])
def test_https_is_decrypted(mitmdump: Mitmdump, host: str) -> None:
    async def main() -> None:
        with client(mitmdump.port) as tunnel:
            dial = tunnel.net.dial(f"{host}:443", ssl=mitmdump.trusting(), server_hostname="secret.test")
            reader, writer = await soon(dial)
            subject = dict(part[0] for part in writer.get_extra_info("peercert")["issuer"])
            assert subject["commonName"] == "mitmproxy"
            writer.write(b"GET /page HTTP/1.1\r\nHost: secret.test\r\nConnection: close\r\n\r\n")
            answer = await soon(reader.read())
            assert b"GET https://secret.test/page  tls=True tcp HTTP/1.1" in answer, answer
            writer.close()

    run(main())


def test_a_large_request(mitmdump: Mitmdump) -> None:
    body = noise(3_000_000).hex().encode()

    async def main() -> None:
        with client(mitmdump.port) as tunnel:
            reader, writer = await soon(tunnel.net.dial("192.0.2.42:80", limit=1 << 24))
            head = (
                f"POST /large HTTP/1.1\r\nHost: large.test\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = await soon(reader.read())
            assert body in answer
            writer.close()

    run(main())


def test_many_clients_at_once(mitmdump: Mitmdump) -> None:
    async def main() -> None:
        with client(mitmdump.port) as tunnel:

            async def ask(number: int) -> None:
                reader, writer = await tunnel.net.dial("192.0.2.42:80", timeout=PATIENCE)
                writer.write(b"GET /%d HTTP/1.1\r\nHost: many.test\r\nConnection: close\r\n\r\n" % number)
                assert b"GET http://many.test/%d " % number in await reader.read()
                writer.close()

            await soon(asyncio.gather(*(ask(number) for number in range(50))))

    run(main())


@pytest.mark.parametrize("server", ["10.0.0.53", "fd00::53"])
def test_dns(mitmdump: Mitmdump, server: str) -> None:
    async def main() -> None:
        with client(mitmdump.port) as tunnel:
            tunnel.net.dns = [server]
            for family, address in (("ipv4", "192.0.2.7"), ("ipv6", "2001:db8::7")):
                found = await soon(tunnel.net.resolve("name.test", family=family, timeout=PATIENCE))
                assert found == [address]

    run(main())


@pytest.mark.parametrize("host", ["192.0.2.42", "2001:db8::42"])
def test_http3_is_decrypted(mitmdump: Mitmdump, host: str) -> None:
    pytest.importorskip("aioquic", reason="aioquic is not installed")
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived, H3Event
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection
    from aioquic.quic.events import ConnectionTerminated

    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="secret.test")
    configuration.load_verify_locations(str(mitmdump.directory / "mitmproxy-ca-cert.pem"))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with client(mitmdump.port) as tunnel, tunnel.net.udp(remote=(host, 443)) as udp:
            quic = QuicConnection(configuration=configuration)
            quic.connect((host, 443), loop.time())
            http = H3Connection(quic)
            stream = quic.get_next_available_stream_id()
            names = {":method": "GET", ":scheme": "https", ":authority": "secret.test", ":path": "/over-quic"}
            http.send_headers(stream, [(name.encode(), value.encode()) for name, value in names.items()], True)
            answer, ended = b"", False

            def take(event: H3Event) -> None:
                nonlocal answer, ended
                if isinstance(event, DataReceived) and event.stream_id == stream:
                    answer += event.data
                    ended |= event.stream_ended

            async def exchange() -> None:
                while not ended:
                    for data, _ in quic.datagrams_to_send(loop.time()):
                        udp.send(data)
                    timer = quic.get_timer()
                    try:
                        data, sender = await asyncio.wait_for(
                            udp.receive(), None if timer is None else max(timer - loop.time(), 0.001)
                        )
                        quic.receive_datagram(data, sender, loop.time())
                    except asyncio.TimeoutError:
                        quic.handle_timer(loop.time())
                    while event := quic.next_event():
                        assert not isinstance(event, ConnectionTerminated), event
                        for of_http in http.handle_event(event):
                            take(of_http)

            await soon(exchange())
            assert answer == b"GET https://secret.test/over-quic  tls=True udp HTTP/3", answer

    run(main())


class Endpoint(NamedTuple):
    """The client and the destination of mitmproxy's own test client."""

    address: bytes
    port: int

    def packet(self, to: Endpoint, protocol: int, payload: bytes) -> bytes:
        header = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(payload), 1, 0, 64, protocol, 0, self.address, to.address)
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload

    def pseudo(self, to: Endpoint, protocol: int, payload: bytes) -> bytes:
        return self.address + to.address + struct.pack("!BBH", 0, protocol, len(payload)) + payload

    def udp(self, to: Endpoint, data: bytes) -> bytes:
        payload = struct.pack("!HHHH", self.port, to.port, 8 + len(data), 0) + data
        payload = payload[:6] + struct.pack("!H", checksum(self.pseudo(to, 17, payload))) + payload[8:]
        return self.packet(to, 17, payload)

    def tcp(self, to: Endpoint, sequence: int, acknowledged: int, flags: int, data: bytes = b"") -> bytes:
        header = struct.pack("!HHIIBBHHH", self.port, to.port, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
        payload = header + data
        payload = payload[:16] + struct.pack("!H", checksum(self.pseudo(to, 6, payload))) + payload[18:]
        return self.packet(to, 6, payload)


def test_the_scenario_of_wg_test_client(mitmdump: Mitmdump) -> None:
    """With packets made by hand: a datagram, and a connection whose ACK has data."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(PATIENCE)
    me, there = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.42")

    def receive(protocol: int) -> bytes:
        while True:
            packet = ours.recv(2000)
            # What earlier clients with this key were owed may still come.
            if packet[9] == protocol and packet[12:20] == there + me:
                return packet[20:]

    with ours, theirs, client(mitmdump.port, addresses=("10.0.0.1",), fd=theirs.fileno()):
        ours.send(Endpoint(me, 1234).udp(Endpoint(there, 31337), b"hello"))
        datagram = receive(17)
        assert datagram[:4] == struct.pack("!HH", 31337, 1234) and datagram[8:] == b"HELLO"

        here, web = Endpoint(me, 1234), Endpoint(there, 80)
        syn, ack, rst = 2, 16, 4
        ours.send(here.tcp(web, 1000, 0, syn))
        answer = receive(6)
        assert answer[13] == syn | ack and struct.unpack("!I", answer[8:12]) == (1001,)
        theirs_next = struct.unpack("!I", answer[4:8])[0] + 1
        ours.send(here.tcp(web, 1001, theirs_next, ack, b"hello world!"))
        while not (data := answer[4 * (answer[12] >> 4) :]):
            answer = receive(6)
        assert data == b"HELLO WORLD!"
        ours.send(here.tcp(web, 1013, theirs_next + len(data), rst))


@pytest.mark.parametrize("host", ["10.0.0.42", "fd00::42"])
def test_other_protocols(mitmdump: Mitmdump, host: str) -> None:
    async def main() -> None:
        with client(mitmdump.port) as tunnel, tunnel.net.udp(remote=(host, 31337)) as udp:
            for data in (b"hello", b"again", noise(1200).hex()[:1200].encode()):
                udp.send(data)
                assert (await soon(udp.receive()))[0] == data.upper()
            target = f"[{host}]:1" if ":" in host else f"{host}:1"
            reader, writer = await soon(tunnel.net.dial(target))
            writer.write(b"hello world!")
            assert await soon(reader.readexactly(12)) == b"HELLO WORLD!"
            writer.write_eof()
            assert await soon(reader.read()) == b""
            writer.close()

    run(main())
