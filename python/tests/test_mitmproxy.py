"""mitmproxy, run by `python -m wg_embed.mitmproxy`, in front of a client behind a real tunnel."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import CLIENT_KEY, PATIENCE, SERVER_KEY, client, noise, run, soon

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
            lines = []
            for line in process.stdout:
                lines.append(line)
                if b"READY" in line:
                    break
            else:
                pytest.fail(f"mitmdump did not start: {lines} {log.read_bytes()!r}")
            # It goes on writing: nobody reads a pipe that is full.
            drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
            yield Mitmdump(port, directory)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            drain.wait(PATIENCE)
    assert b"Traceback" not in log.read_bytes(), log.read_bytes().decode()


def test_the_launcher_names_its_tools() -> None:
    command = [sys.executable, "-m", "wg_embed.mitmproxy"]
    shown = subprocess.run([*command, "nonsense"], capture_output=True, text=True)
    assert shown.returncode == 1 and "usage" in shown.stderr
    version = subprocess.run([*command, "mitmdump", "--version"], capture_output=True, text=True)
    assert version.returncode == 0 and "Mitmproxy" in version.stdout


@pytest.mark.parametrize("host", ["192.0.2.42", "[2001:db8::42]"])
def test_http(mitmdump: Mitmdump, host: str) -> None:
    async def main() -> None:
        with client(mitmdump.port) as tunnel:
            reader, writer = await soon(tunnel.net.dial(f"{host}:80"))
            writer.write(b"POST /path HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody")
            answer = await soon(reader.read())
            assert b"POST http://plain.test/path body tls=False tcp" in answer, answer
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
            assert b"GET https://secret.test/page  tls=True tcp" in answer, answer
            writer.close()

    run(main())


def test_a_large_request(mitmdump: Mitmdump) -> None:
    body = noise(3_000_000).hex().encode()

    async def main() -> None:
        with client(mitmdump.port) as tunnel:
            reader, writer = await soon(tunnel.net.dial("192.0.2.42:80", limit=1 << 24))
            head = f"POST /large HTTP/1.1\r\nHost: large.test\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
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


def test_dns(mitmdump: Mitmdump) -> None:
    async def main() -> None:
        with client(mitmdump.port) as tunnel:
            tunnel.net.dns = ["10.0.0.53"]
            found = await soon(tunnel.net.resolve("name.test", family="ipv4", timeout=PATIENCE))
            assert found == ["192.0.2.7"]

    run(main())
