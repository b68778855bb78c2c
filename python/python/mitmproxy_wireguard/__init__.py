"""
This package contains a cross-platform, user-space WireGuard server implementation in Rust,
which provides a Python interface that is intended to be similar to the one provided by
[`asyncio.start_server`](https://docs.python.org/3/library/asyncio-stream.html#asyncio.start_server)
from the Python standard library.

It is part of `wg_embed`, and takes the place of mitmproxy_wireguard 0.1.23.
"""

import wg_embed as _wg_embed  # has children of fork() leave tunnels alone
from wg_embed._native import Server, TcpStream, genkey, start_server
from wg_embed._native import legacy_pubkey as pubkey

__all__ = ["Server", "TcpStream", "genkey", "pubkey", "start_server"]

del _wg_embed
