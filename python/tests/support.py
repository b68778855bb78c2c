"""The other side of every test: a second tunnel of `wg_embed`, with a userspace network of its own."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

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


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def read_all(stream: Any, piece: int = 65536) -> bytes:
    """Reads a mitmproxy stream to its end."""
    parts = []
    while data := await stream.read(piece):
        parts.append(data)
    return b"".join(parts)
