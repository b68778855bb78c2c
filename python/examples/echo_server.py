"""
An echo server inside a tunnel, without root: it can be reached by peers at the tunnel's addresses, and from nowhere
else.

    python echo_server.py wg0.conf PORT
"""

from __future__ import annotations

import asyncio
import sys

import wg_embed


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError as error:
        print(f"{writer.get_extra_info('peername')}: {error}", file=sys.stderr)
    finally:
        writer.close()


async def answer_datagrams(socket: wg_embed.DatagramSocket) -> None:
    while True:
        data, sender = await socket.receive()
        socket.send(data, sender)


async def main(conf: str, port: int) -> None:
    async with wg_embed.Tunnel.from_file(conf) as tunnel:
        server = await tunnel.net.serve(echo, port)
        with tunnel.net.udp(port) as socket:
            print(f"{', '.join(tunnel.net.addresses)} port {server.address[1]}, UDP {tunnel.listen_port}", flush=True)
            await asyncio.gather(server.serve_forever(), answer_datagrams(socket))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} FILE.conf PORT")
    try:
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    except KeyboardInterrupt:
        pass
