"""
This package contains a cross-platform, user-space WireGuard server implementation in Rust,
which provides a Python interface that is intended to be similar to the one provided by
[`asyncio.start_server`](https://docs.python.org/3/library/asyncio-stream.html#asyncio.start_server)
from the Python standard library.

It is part of `wg_embed`, and takes the place of mitmproxy_wireguard 0.1.23.
"""

import sys as _sys

# No file of this package has the module's name there: Python would take an extension module that the original has left
# in this directory in place of it.
from . import _extension as mitmproxy_wireguard
from ._extension import Server, TcpStream, genkey, pubkey, start_server

_sys.modules["mitmproxy_wireguard.mitmproxy_wireguard"] = mitmproxy_wireguard

__all__ = ["Server", "TcpStream", "genkey", "pubkey", "start_server"]
