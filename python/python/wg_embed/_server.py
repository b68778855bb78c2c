"""Servers and listeners inside a tunnel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Optional

from . import _native
from ._closing import AsyncClosing, Closing
from ._connect import start_tls
from ._errors import timed_out
from ._transport import TcpTransport

try:
    import ssl
except ImportError:  # Some CPythons are built without it.
    pass

Address = tuple[str, int]
"""An IP address in text form, and a port."""


class Server(AsyncClosing):
    """A server on an event loop, like `asyncio.Server`."""

    def __init__(
        self,
        listener: _native.Listener,
        factory: Callable[[], asyncio.BaseProtocol],
        context: Optional[ssl.SSLContext],
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        self._address = listener.local()
        self._handshakes: set[asyncio.Task[None]] = set()
        listener.watch(self._accept)

    def _accept(self) -> None:
        # A bounded number, as other callbacks are to have their turn; the next ones wait in the listener.
        for _ in range(64):
            try:
                connection = self._listener.accept()
            except OSError:
                self.close()
                return
            if connection is None:
                return
            try:
                protocol = self._factory()
            except Exception as error:
                connection.reset()
                context = {"message": "a protocol factory failed: a connection is refused", "exception": error}
                self._loop.call_exception_handler(context)
                continue
            if self._context is None:
                TcpTransport(self._loop, connection, protocol)
            else:
                task = self._loop.create_task(self._handshake(connection, protocol, self._context))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)
        self._loop.call_soon(self._accept)

    async def _handshake(
        self, connection: _native.Tcp, protocol: asyncio.BaseProtocol, context: ssl.SSLContext
    ) -> None:
        try:
            await start_tls(self._loop, connection, protocol, context, True, None)
        except Exception:
            pass  # As asyncio's own servers. What is no failure of the connection was reported already.

    @property
    def address(self) -> Address:
        """The address that it listens at."""
        return self._address

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return not self._closed.done()

    def close(self) -> None:
        """Stops listening; connections stay open. Idempotent."""
        if not self._closed.done():
            self._listener.watch(None)
            self._listener.close()
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """Waits until it is closed."""
        await asyncio.shield(self._closed)

    async def serve_forever(self) -> None:
        """Serves until it is closed or the task is cancelled, which closes it."""
        try:
            await self.wait_closed()
        finally:
            self.close()


class Listener(Closing):
    """A listener for threads."""

    def __init__(self, native: _native.Listener) -> None:
        self._native = native
        self._address = native.local()

    @property
    def address(self) -> Address:
        """The address that it listens at."""
        return self._address

    def accept(self, timeout: Optional[float] = None) -> tuple[socket.socket, Address]:
        """
        The next connection, as a socket (see `Network.connect`), and the address of its other side.

        Raises `TimeoutError`, and `OSError` with EBADF when it is closed.
        """
        connection = self._native.wait(timeout)
        if connection is None:
            raise timed_out("no connection has come")
        peer = connection.peer()
        return socket.socket(fileno=connection.detach()), peer

    def close(self) -> None:
        """Stops listening, and ends `accept` in other threads. Idempotent."""
        self._native.close()
