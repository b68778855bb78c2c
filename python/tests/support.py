"""The other side of every test: a second tunnel of `wg_embed`, with a userspace network of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import random
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple, TypeVar

import wg_embed

T = TypeVar("T")

SERVER_KEY = wg_embed.genkey()
CLIENT_KEY = wg_embed.genkey()
SERVER_PUB = wg_embed.pubkey(SERVER_KEY)
CLIENT_PUB = wg_embed.pubkey(CLIENT_KEY)

# Far from what any step takes, also on a machine that is busy.
PATIENCE = 60.0


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a test on an event loop of its own."""
    return asyncio.run(asyncio.wait_for(coroutine, 2 * PATIENCE))


async def soon(awaitable: Awaitable[T]) -> T:
    """Waits for something that must come."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(condition: Any) -> None:
    """Waits until something is so."""

    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await soon(poll())


def client(
    port: int, key: str = CLIENT_KEY, addresses: tuple[str, ...] = ("10.0.0.1", "fd00::1"), **more: Any
) -> wg_embed.Tunnel:
    """A tunnel to a server on 127.0.0.1."""
    server = wg_embed.Peer(SERVER_PUB, ["0.0.0.0/0", "::/0"], f"127.0.0.1:{port}")
    return wg_embed.Tunnel(wg_embed.Config(key, [server], addresses), **more)


def pair(**more: Any) -> tuple[wg_embed.Tunnel, wg_embed.Tunnel]:
    """Two tunnels that know each other: 10.0.0.2 and fd00::2 listens, 10.0.0.1 and fd00::1 knows where."""
    peer = wg_embed.Peer(CLIENT_PUB, ["10.0.0.1/32", "fd00::1/128"])
    server = wg_embed.Tunnel(wg_embed.Config(SERVER_KEY, [peer], ["10.0.0.2", "fd00::2"]), bind="127.0.0.1", **more)
    return server, client(server.listen_port, **more)


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that look like nothing else."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big") if size else b""


def checksum(data: bytes) -> int:
    """That of the Internet protocols."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def read_all(stream: Any, piece: int = 65536) -> bytes:
    """Reads a mitmproxy stream to its end."""
    parts: list[bytes] = []
    while data := await stream.read(piece):
        parts.append(data)
    return b"".join(parts)


async def nothing(stream: Any) -> None:
    """A handler that returns at once."""


def no_datagram(data: bytes, src: Any, dst: Any) -> None:
    """A function for datagrams that ignores them."""


def _arguments(more: dict[str, Any]) -> dict[str, Any]:
    common = {"host": "127.0.0.1", "port": 0, "private_key": SERVER_KEY, "peer_public_keys": [CLIENT_PUB]}
    return {**common, **more}


def start_legacy(module: ModuleType, handler: Any = nothing, datagram: Any = no_datagram, **more: Any) -> Any:
    """Calls `start_server` of mitmproxy_wireguard."""
    more = {"handle_connection": handler, "receive_datagram": datagram, **more}
    return module.start_server(**_arguments(more))


def start_modern(module: ModuleType, tcp: Any = nothing, udp: Any = nothing, **more: Any) -> Any:
    """Calls `start_wireguard_server` of mitmproxy_rs."""
    more = {"handle_tcp_stream": tcp, "handle_udp_stream": udp, **more}
    return module.wireguard.start_wireguard_server(**_arguments(more))


class Session:
    """A server whose streams are kept, so that nothing happens to them, and a client of it."""

    def __init__(self, start: Callable[..., Any], module: ModuleType, **more: Any) -> None:
        """`start` is one of the functions above."""
        if start is start_modern:
            more = {"udp": self._keep, **more}
        self._start = partial(start, module, self._keep, **more)

    async def _keep(self, stream: Any) -> None:
        self.streams.put_nowait(stream)
        await self._end.wait()

    async def __aenter__(self) -> Session:
        self.streams: asyncio.Queue[Any] = asyncio.Queue()
        self._end = asyncio.Event()
        self.server = await self._start()
        self.tunnel = client(self.server.getsockname()[1])
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._end.set()
        self.tunnel.close()
        self.server.close()
        await asyncio.sleep(0)

    async def next(self) -> Any:
        """The next stream."""
        return await soon(self.streams.get())

    async def connect(self, target: str = "10.0.0.42:1234") -> tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]:
        """A stream of the server, and the client's end."""
        reader, writer = await soon(self.tunnel.net.dial(target, timeout=PATIENCE))
        return await self.next(), reader, writer


class Interface(NamedTuple):
    """One of the two interfaces to a server that intercepts."""

    name: str
    module: ModuleType

    def start(self, handler: Any = nothing, **more: Any) -> Any:
        return (start_legacy if self.name == "legacy" else start_modern)(self.module, handler, **more)

    def session(self) -> Session:
        return Session(start_legacy if self.name == "legacy" else start_modern, self.module)


async def until_end(stream: Any) -> None:
    """Reads until the other side has taken everything: the old original loses what it has not sent at the end."""
    try:
        for _ in range(6000):
            await stream.read(1)
            await asyncio.sleep(0.01)
    except OSError:
        pass


def resident() -> int:
    """The memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors() -> list[str]:
    """What the descriptors of this process are."""
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def _environment(**more: str) -> dict[str, str]:
    """For processes that use the same packages, and the modules of these tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), **more}


def script(
    code: str, *arguments: str, timeout: float = PATIENCE, within: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own; by the command `within`, if it is given."""
    command = [*within, sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=_environment(**more))


@contextlib.contextmanager
def running(*arguments: str) -> Generator[tuple[subprocess.Popen[str], IO[str]], None, None]:
    """Python with these arguments in the background, and its output. It is killed at the end."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def ran(*arguments: str) -> str:
    """What Python prints with these arguments. It must succeed."""
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, env=_environment())
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
