"""From connections of the userspace network to transports that their protocols have."""

from __future__ import annotations

import asyncio
import ssl
from typing import Optional, Union, cast

from . import _native
from ._transport import TcpTransport


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
    if context is True:
        context = ssl.create_default_context()
    transport = TcpTransport(loop, connection, None)
    try:
        # That of asyncio on any loop: those of others, such as uvloop, take transports of their own alone.
        tls = await asyncio.BaseEventLoop.start_tls(
            cast(asyncio.BaseEventLoop, loop),
            transport,
            cast(asyncio.Protocol, protocol),
            cast(ssl.SSLContext, context),
            server_side=server_side,
            server_hostname=host,
        )
    except BaseException:
        transport.abort()
        raise
    if tls is None:
        raise ConnectionAbortedError("the connection was closed during the TLS handshake")
    protocol.connection_made(tls)
    return tls
