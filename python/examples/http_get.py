"""
An HTTP GET through a tunnel, without root: the name is looked up, and the server reached, inside it.

    python http_get.py wg0.conf http://intranet.example/ | https://...
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

import wg_embed


async def get(tunnel: wg_embed.Tunnel, url: str) -> bytes:
    """The whole response, head and body."""
    parts = urlsplit(url)
    is_https = parts.scheme == "https"
    port = parts.port or (443 if is_https else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    reader, writer = await tunnel.net.dial(f"{host}:{port}", ssl=is_https)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
    try:
        return await reader.read()
    finally:
        writer.close()


async def main(conf: str, url: str) -> None:
    async with wg_embed.Tunnel.from_file(conf) as tunnel:
        sys.stdout.buffer.write(await get(tunnel, url))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} FILE.conf URL")
    asyncio.run(main(sys.argv[1], sys.argv[2]))
