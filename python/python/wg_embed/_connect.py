"""From connections of the userspace network to transports that their protocols have."""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from typing import Any, Optional, Union, cast

from . import _native
from ._transport import TcpTransport

try:
    import ssl
except ImportError:  # Some CPythons are built without it.
    pass


async def connected(
    loop: asyncio.AbstractEventLoop, connection: _native.Tcp, protocol: asyncio.BaseProtocol
) -> TcpTransport:
    """A transport whose protocol has it."""
    transport = TcpTransport(loop, connection, protocol)
    made = loop.create_future()
    loop.call_soon(_set_if_waited_for, made)
    try:
        await made
    except BaseException:
        transport.abort()
        raise
    return transport


def _set_if_waited_for(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def start_tls(
    loop: asyncio.AbstractEventLoop,
    connection: _native.Tcp,
    protocol: asyncio.BaseProtocol,
    context: Union[ssl.SSLContext, bool],
    server_side: bool,
    host: Optional[str],
) -> asyncio.BaseTransport:
    """The same over TLS, after the handshake. What the protocol raises is reported to the loop, and raised."""
    handshake = loop.create_future()
    # What asyncio's own transports use, on any loop: those of others, such as uvloop, take their own transports alone.
    tls = sslproto.SSLProtocol(
        loop,
        cast(asyncio.Protocol, protocol),
        cast(Any, None if context is True else context),
        handshake,
        server_side,
        host,
    )
    of_protocol = tls._app_transport
    transport = TcpTransport(loop, connection, tls)
    try:
        await handshake
    except BaseException:
        transport.abort()
        raise
    if "ssl_object" not in tls._extra:
        raise ConnectionAbortedError("the connection was closed during the TLS handshake")
    return of_protocol
