"""
A tunnel without asyncio: ordinary sockets, so that http.client and other blocking code can use it, and events in a
thread.

    python threads.py wg0.conf HOST:PORT PATH...

It gets all paths at once, each in a thread of its own.
"""

from __future__ import annotations

import http.client
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import wg_embed


class TunnelConnection(http.client.HTTPConnection):
    """An HTTP connection through a tunnel."""

    def __init__(self, tunnel: wg_embed.Tunnel, target: str) -> None:
        super().__init__(target)
        self._tunnel, self._target = tunnel, target

    def connect(self) -> None:
        self.sock: socket.socket = self._tunnel.net.connect(self._target)


def get(tunnel: wg_embed.Tunnel, target: str, path: str) -> bytes:
    connection = TunnelConnection(tunnel, target)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def main(conf: str, target: str, paths: list[str]) -> None:
    with wg_embed.Tunnel.from_file(conf) as tunnel, ThreadPoolExecutor() as threads:
        tunnel.on_event(lambda event: print(f"event: {event.name}", file=sys.stderr))
        for path, body in zip(paths, threads.map(partial(get, tunnel, target), paths)):
            print(f"{path}: {len(body)} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(f"usage: {sys.argv[0]} FILE.conf HOST:PORT PATH...")
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
