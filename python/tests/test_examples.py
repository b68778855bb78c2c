"""The programs of `examples` and `benches`, each against a tunnel of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from support import CLIENT_KEY, CLIENT_PUB, PATIENCE, SERVER_KEY, SERVER_PUB, ran, run, running, soon

import wg_embed

pytestmark = pytest.mark.ours_only("the examples are ours")

PYTHON = Path(__file__).parent.parent


async def ran_beside(*command: str) -> str:
    return await asyncio.get_running_loop().run_in_executor(None, lambda: ran(*command))


def test_echo_test_server() -> None:
    with running(str(PYTHON / "examples/echo_test_server.py"), "127.0.0.1", "0") as (process, output):
        text = ""
        while "Endpoint" not in text:
            line = output.readline()
            assert line, text
            text += line
        # The keys of mitmproxy_wireguard's own.
        assert "PublicKey = mitmV5Wo7pRJrHNAKhZEI0nzqqeO8u4fXG+zUbZEXA0=" in text

        async def main() -> None:
            with wg_embed.Tunnel(text) as tunnel:
                assert tunnel.public_key == "Test1sbpTFmJULgSlJ5hJ1RdzsXWrl3Mg7k9UTN//jE="
                with tunnel.net.udp(1234, remote=("10.0.0.42", 31337)) as udp:
                    udp.send(b"hello")
                    assert await soon(udp.receive()) == (b"HELLO", ("10.0.0.42", 31337))
                reader, writer = await soon(tunnel.net.dial("10.0.0.42:80", timeout=PATIENCE))
                writer.write(b"hello")
                assert await soon(reader.readexactly(5)) == b"HELLO"
                writer.write(b"world")
                # It resets the connection after its second answer, and what is not read by then is lost.
                with pytest.raises(ConnectionResetError):
                    assert await soon(reader.readexactly(5)) == b"WORLD"
                    await soon(reader.read())
                writer.close()

        run(main())
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "wg.conf"


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    path = request.split()[1]
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\nbody of %s" % (len(path) + 8, path))
    writer.close()


@contextlib.contextmanager
def web(conf: Path) -> Generator[wg_embed.Tunnel, None, None]:
    """A tunnel for a server, and a file for a client of it."""
    peer = wg_embed.Peer(CLIENT_PUB, ["10.0.0.1/32", "fd00::1/128"])
    with wg_embed.Tunnel(wg_embed.Config(SERVER_KEY, [peer], ["10.0.0.2", "fd00::2"]), bind="127.0.0.1") as tunnel:
        server = wg_embed.Peer(SERVER_PUB, ["0.0.0.0/0", "::/0"], f"127.0.0.1:{tunnel.listen_port}")
        conf.write_text(wg_embed.Config(CLIENT_KEY, [server], ["10.0.0.1", "fd00::1"]).to_conf())
        yield tunnel


@pytest.mark.parametrize("host", ["10.0.0.2", "[fd00::2]:80"])
def test_http_get(conf: Path, host: str) -> None:
    async def main() -> None:
        with web(conf) as tunnel:
            await tunnel.net.serve(respond, 80)
            response = await ran_beside(str(PYTHON / "examples/http_get.py"), str(conf), f"http://{host}/a?b=c")
            assert response.endswith("body of /a?b=c") and "200 OK" in response

    run(main())


def test_threads(conf: Path) -> None:
    async def main() -> None:
        with web(conf) as tunnel:
            await tunnel.net.serve(respond, 80)
            shown = await ran_beside(str(PYTHON / "examples/threads.py"), str(conf), "10.0.0.2:80", "/", "/long")
            assert shown == "/: 9 bytes\n/long: 13 bytes\n"

    run(main())


def test_echo_server(conf: Path) -> None:
    peer = wg_embed.Peer(CLIENT_PUB, ["10.0.0.1/32"])
    conf.write_text(wg_embed.Config(SERVER_KEY, [peer], ["10.0.0.2"]).to_conf())
    with running(str(PYTHON / "examples/echo_server.py"), str(conf), "7") as (process, output):
        line = output.readline()
        port = re.fullmatch(r"10\.0\.0\.2 port 7, UDP (\d+)\n", line)
        assert port, line

        async def main() -> None:
            server = wg_embed.Peer(SERVER_PUB, ["10.0.0.0/24"], f"127.0.0.1:{port[1]}")
            with wg_embed.Tunnel(wg_embed.Config(CLIENT_KEY, [server], ["10.0.0.1"])) as tunnel:
                reader, writer = await soon(tunnel.net.dial("10.0.0.2:7", timeout=PATIENCE))
                writer.write(b"as it is")
                writer.write_eof()
                assert await soon(reader.read()) == b"as it is"
                writer.close()
                with tunnel.net.udp(remote=("10.0.0.2", 7)) as udp:
                    udp.send(b"datagram")
                    assert (await soon(udp.receive()))[0] == b"datagram"

        run(main())
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_round_trips(tmp_path: Path) -> None:
    files = [str(tmp_path / "results.csv"), str(tmp_path / "results.json")]
    options = ["--packets", "10,20", "--repeats", "2", "--csv", files[0], "--json", files[1]]
    shown = ran(str(PYTHON / "benches/round_trips.py"), *options)
    assert shown.count("median") == 4
    results = json.loads(Path(files[1]).read_text())
    assert results["x"] == [10, 20] and results["sizes"] == 1000
    assert [len(times) for times in results["ys"]["wg_embed"]] == [2, 2]
    with open(files[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(float(row["seconds"]) > 0 for row in rows)
