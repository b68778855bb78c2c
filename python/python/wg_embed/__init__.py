"""
WireGuard and a userspace network for Python.

A `Tunnel` uses a file descriptor, a TUN device or, without root, a userspace network: `Tunnel.net` opens connections
through the tunnel as asyncio streams and as sockets.

```python
import asyncio, wg_embed

async def main():
    async with wg_embed.Tunnel.from_file("wg0.conf") as tunnel:
        reader, writer = await tunnel.net.dial("example.com:80")
        writer.write(b"GET / HTTP/1.0\\r\\nHost: example.com\\r\\n\\r\\n")
        print(await reader.read())

asyncio.run(main())
```

Errors are `OSError` with `errno`, `ConfigError` for configurations, and `socket.gaierror` for names. The logger
`wg_embed` and those below it receive the log; call `follow_log_level()` after its level has changed while a tunnel
runs.

After `os.fork()`, the child cannot use its parent's tunnels: their sockets are closed there, and calls fail.
"""

from __future__ import annotations

import atexit as _atexit
import os as _os

from . import _native, wireproto
from ._errors import ConfigError
from ._native import follow_level as follow_log_level
from ._native import genkey, genpsk, pubkey
from .config import Config, Peer
from .net import DatagramSocket, Listener, Network, Server
from .tunnel import Event, PeerState, Totals, Tunnel

# Before that of `logging`, which was imported earlier.
_atexit.register(_native.end_log)
if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(before=_native.before_fork, after_in_child=_native.after_fork_in_child)

__all__ = [
    "Config",
    "ConfigError",
    "DatagramSocket",
    "Event",
    "Listener",
    "Network",
    "Peer",
    "PeerState",
    "Server",
    "Totals",
    "Tunnel",
    "follow_log_level",
    "genkey",
    "genpsk",
    "pubkey",
    "wireproto",
]
