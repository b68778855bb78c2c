"""The userspace network of a tunnel: asyncio streams, and sockets for threads."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Optional, Protocol, TypeVar, Union, cast

from . import _native
from ._connect import connected, start_tls
from ._datagram import DatagramSocket as DatagramSocket
from ._errors import timed_out
from ._server import Address as Address
from ._server import Listener as Listener
from ._server import Server as Server

try:
    import ssl
except ImportError:  # Some CPythons are built without it.
    pass

_T = TypeVar("_T")
_R_co = TypeVar("_R_co", covariant=True)

# asyncio's limit of what `StreamReader` buffers.
_LIMIT = 64 * 1024


class _Pending(Protocol[_R_co]):
    def watch(self, callback: Optional[Callable[[], Any]]) -> None: ...
    def close(self) -> None: ...
    def result(self) -> Optional[_R_co]: ...
    def wait(self, timeout: Optional[float] = None) -> Optional[_R_co]: ...


async def _finish(pending: _Pending[_T]) -> _T:
    """Waits for a pending operation; if this is cancelled, cancels the operation."""
    done = asyncio.Event()
    pending.watch(done.set)
    try:
        while True:
            await done.wait()
            done.clear()
            result = pending.result()
            if result is not None:
                return result
    finally:
        pending.watch(None)
        pending.close()


def _wait(pending: _Pending[_T], timeout: Optional[float], what: str) -> _T:
    try:
        result = pending.wait(timeout)
    finally:
        pending.close()
    if result is None:
        raise timed_out(f"{what} timed out")
    return result


class Network:
    """
    The network inside a tunnel: `tunnel.net`. It keeps a reference to the tunnel.

    Coroutines are for event loops; functions with `_blocking` in their name and those that return a `socket.socket` are
    for threads. Names are looked up by the tunnel's DNS servers, and never outside of it. `family` is `any`, `ipv4`,
    `ipv6`, `prefer4` or `prefer6`.
    """

    def __init__(self, native: _native.Net, tunnel: _native.Tunnel) -> None:
        self._native = native
        self._tunnel = tunnel

    @property
    def addresses(self) -> list[str]:
        """The network's own addresses inside the tunnel."""
        return self._native.addresses

    @addresses.setter
    def addresses(self, addresses: list[str]) -> None:
        self._native.set_addresses(list(addresses))

    @property
    def dns(self) -> list[str]:
        """The DNS servers, which are queried through the tunnel."""
        return self._native.dns

    @dns.setter
    def dns(self, servers: list[str]) -> None:
        self._native.set_dns(list(servers))

    @property
    def mtu(self) -> int:
        """The MTU."""
        return self._native.mtu

    def stats(self) -> dict[str, int]:
        """Returns the numbers of connections and packets, and the memory of the buffers in bytes."""
        names = ("connections", "half_open", "time_wait", "flows", "memory", "packets_in", "packets_out")
        return dict(zip(names, self._native.stats()))

    # Connections

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        target: str,
        *,
        ssl: Union[ssl.SSLContext, bool, None] = None,
        server_hostname: Optional[str] = None,
        family: str = "any",
        timeout: float = 30.0,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """
        Connects to `target`, `"host:port"`, like `loop.create_connection`.

        Raises `socket.gaierror`, `ConnectionRefusedError`, `TimeoutError` and other errors of connections.
        """
        connection = await _finish(self._native.start_dial(target, family, timeout))
        loop = asyncio.get_running_loop()
        protocol = protocol_factory()
        if not ssl:
            return await connected(loop, connection, protocol), protocol
        host = server_hostname if server_hostname is not None else _native.split_host_port(target)[0]
        tls = await start_tls(loop, connection, protocol, ssl, False, host)
        return tls, protocol

    async def dial(
        self,
        target: str,
        *,
        ssl: Union[ssl.SSLContext, bool, None] = None,
        server_hostname: Optional[str] = None,
        family: str = "any",
        timeout: float = 30.0,
        limit: int = _LIMIT,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects to `target`, `"host:port"`, like `asyncio.open_connection`. Raises as `create_connection`."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await self.create_connection(
            lambda: protocol, target, ssl=ssl, server_hostname=server_hostname, family=family, timeout=timeout
        )
        writer = asyncio.StreamWriter(cast(asyncio.WriteTransport, transport), protocol, reader, loop)
        return reader, writer

    def connect(self, target: str, *, family: str = "any", timeout: Optional[float] = 30.0) -> socket.socket:
        """
        Returns a socket that is connected to `target`, `"host:port"`, for threads. It works with `select` and the like,
        but it is one end of a socket pair, so its own addresses are not those of the connection.
        """
        limit = math.inf if timeout is None else timeout
        connection = _wait(self._native.start_dial(target, family, limit), timeout, f"connecting to {target}")
        return socket.socket(fileno=connection.detach())

    # Servers

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        port: int,
        host: str = "::",
        *,
        ssl: Optional[ssl.SSLContext] = None,
        backlog: int = 100,
    ) -> Server:
        """
        Creates a server, like `loop.create_server`. `host` is one of the network's addresses, or `::` for all of both
        families; with port 0 the network chooses one.

        Raises `OSError` if the port is in use, or the address is not one of the network's.
        """
        return Server(self._native.listen(host, port, backlog), protocol_factory, ssl)

    async def serve(
        self,
        handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Union[Awaitable[None], None]],
        port: int,
        host: str = "::",
        *,
        ssl: Optional[ssl.SSLContext] = None,
        backlog: int = 100,
        limit: int = _LIMIT,
    ) -> Server:
        """Calls `handler(reader, writer)` for each connection, like `asyncio.start_server`. See `create_server`."""
        loop = asyncio.get_running_loop()

        def factory() -> asyncio.BaseProtocol:
            reader = asyncio.StreamReader(limit=limit, loop=loop)
            return asyncio.StreamReaderProtocol(reader, cast(Any, handler), loop=loop)

        return await self.create_server(factory, port, host, ssl=ssl, backlog=backlog)

    def listen(self, port: int, host: str = "::", *, backlog: int = 100) -> Listener:
        """Returns a listener for threads. See `create_server`."""
        return Listener(self._native.listen(host, port, backlog))

    # Datagrams

    def udp(self, port: int = 0, host: str = "::", *, remote: Optional[Address] = None) -> DatagramSocket:
        """Returns a UDP socket, connected to `remote`, an IP address and a port, unless that is None."""
        return DatagramSocket(self._native.udp(host, port, remote))

    # Names, echo requests

    async def resolve(self, name: str, *, family: str = "any", timeout: float = 10.0) -> list[str]:
        """
        Returns the addresses of a name, the best first.

        Raises `socket.gaierror`: EAI_NONAME without an address, EAI_AGAIN if the servers failed, EAI_FAIL if there are
        no servers; and `TimeoutError`.
        """
        return await _finish(self._native.start_resolve(name, family, timeout))

    def resolve_blocking(self, name: str, *, family: str = "any", timeout: float = 10.0) -> list[str]:
        """Resolves a name like `resolve`, for threads."""
        return _wait(self._native.start_resolve(name, family, timeout), timeout + 1.0, f"looking up {name}")

    async def ping(self, address: str, *, size: int = 32, timeout: float = 5.0) -> float:
        """Sends an echo request, and returns the seconds until its reply. Raises `TimeoutError` without one."""
        pending = self._native.start_ping(address, size)
        try:
            return await asyncio.wait_for(_finish(pending), timeout)
        except asyncio.TimeoutError:
            raise timed_out(f"no reply from {address}") from None

    def ping_blocking(self, address: str, *, size: int = 32, timeout: float = 5.0) -> float:
        """Sends an echo request like `ping`, for threads."""
        return _wait(self._native.start_ping(address, size), timeout, f"an echo request to {address}")
