"""Datagrams inside a tunnel."""

from __future__ import annotations

import asyncio
import socket
from typing import Optional, Union

from . import _native
from ._closing import Closing
from ._errors import timed_out
from ._server import Address

# The number of datagrams that are returned at once, one after another, before the loop gets its turn.
_AT_ONCE = 16

_Bytes = Union[bytes, bytearray, memoryview]


class DatagramSocket(Closing):
    """A UDP socket inside the tunnel. Addresses are `(host, port)` tuples."""

    def __init__(self, native: _native.Udp) -> None:
        self._native = native
        self._local = native.local()
        self._peer = native.peer()
        self._readers: list[asyncio.Future[None]] = []
        self._waiting = 0
        self._at_once = 0

    @property
    def address(self) -> Address:
        """The address that it is bound to."""
        return self._local

    @property
    def peer(self) -> Optional[Address]:
        """The address that it is connected to, or None."""
        return self._peer

    def send(self, data: _Bytes, to: Optional[Address] = None) -> bool:
        """
        Sends a datagram without waiting, to `to` unless the socket is connected. Returns false if it was dropped, for
        lack of room.

        Raises `OSError`: EMSGSIZE for a datagram that is too long, and others.
        """
        return self._native.send(data, to)

    async def receive(self) -> tuple[bytes, Address]:
        """The next datagram and its sender. A cancelled call takes nothing."""
        if self._at_once >= _AT_ONCE:
            self._at_once = 0
            await asyncio.sleep(0)
        received = self._native.receive()
        if received is not None:
            self._at_once += 1
            return received
        self._at_once = 0
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting += 1
        try:
            if self._waiting == 1:
                self._native.watch(self._arrived)
            while True:
                self._readers.append(future)
                await future
                future = loop.create_future()
                received = self._native.receive()
                if received is not None:
                    return received
        finally:
            if future in self._readers:
                self._readers.remove(future)
            self._waiting -= 1
            if self._waiting == 0:
                self._native.watch(None)

    def _arrived(self) -> None:
        readers, self._readers = self._readers, []
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    def receive_blocking(self, timeout: Optional[float] = None) -> tuple[bytes, Address]:
        """As `receive`, for threads. Raises `TimeoutError`."""
        received = self._native.wait(timeout)
        if received is None:
            raise timed_out("no datagram has come")
        return received

    def detach(self) -> socket.socket:
        """
        Returns a socket of the system in place of this one, which must be connected; `send` and `recv` keep the borders
        of datagrams. See `Network.connect`. A `receive` that waits raises `OSError` with EBADF, as all later calls.

        Raises `OSError`: ENOTCONN if it is not connected, EBUSY while a thread waits for a datagram; it stays unchanged
        then.
        """
        return socket.socket(fileno=self._native.detach())

    def close(self) -> None:
        """Closes it. Idempotent."""
        self._native.close()
