"""
An echo server for any WireGuard client, over mitmproxy_wireguard's interface: it answers every TCP connection and UDP
datagram, to any address and port, in upper case.

    python echo_test_server.py [HOST [PORT]]

Then, through a client that has the configuration which it prints:

    nc 10.0.0.42 1234
    nc -u 10.0.0.42 1234

The keys are well known, those of mitmproxy_wireguard's own test server: they are for tests alone.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import mitmproxy_wireguard

SERVER_KEY = "EG47ZWjYjr+Y97TQ1A7sVl7Xn3mMWDnvjU/VxU769ls="
CLIENT_KEY = "qG8b7LI/s+ezngWpXqj5A7Nj988hbGL+eQ8ePki0iHk="
SERVER_PUBLIC_KEY = mitmproxy_wireguard.pubkey(SERVER_KEY)
CLIENT_PUBLIC_KEY = mitmproxy_wireguard.pubkey(CLIENT_KEY)

log = logging.getLogger("echo")


async def answer_twice(stream: mitmproxy_wireguard.TcpStream) -> None:
    """Answers two pieces in upper case, and resets the connection."""
    log.debug("connection: %r", stream)
    for _ in range(2):
        data = await stream.read(4096)
        log.debug("%r: %r", stream, data)
        if not data:
            break
        stream.write(data.upper())
        await stream.drain()
    stream.close()


class Server:
    """The server, and what it answers datagrams with."""

    async def run(self, host: str, port: int) -> None:
        self.server = await mitmproxy_wireguard.start_server(
            host, port, SERVER_KEY, [CLIENT_PUBLIC_KEY], answer_twice, self.answer_datagram
        )
        host, port = self.server.getsockname()
        print(configuration(host, port), flush=True)

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.stop)
        await self.server.wait_closed()

    def answer_datagram(self, data: bytes, src: tuple[str, int], dst: tuple[str, int]) -> None:
        log.debug("datagram from %s to %s: %r", src, dst, data)
        self.server.send_datagram(data.upper(), dst, src)

    def stop(self) -> None:
        """Closes the server; a second SIGINT ends the program."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        self.server.close()


def configuration(host: str, port: int) -> str:
    """What a client needs."""
    return f"""\
[Interface]
PrivateKey = {CLIENT_KEY}
Address = 10.0.0.1/32
MTU = 1420

[Peer]
PublicKey = {SERVER_PUBLIC_KEY}
AllowedIPs = 10.0.0.0/24
Endpoint = {"127.0.0.1" if host == "0.0.0.0" else host}:{port}
"""


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    host = sys.argv[1] if len(sys.argv) > 1 else "0.0.0.0"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 51820
    asyncio.run(Server().run(host, port), debug=True)
