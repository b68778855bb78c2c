"""
Round trips of one connection, one after another, as mitmproxy_wireguard's benchmark takes them: packets of 1000 bytes,
each answered before the next is sent, to an asyncio echo server over the system's TCP and over a tunnel.

    python round_trips.py [--packets 1000,10000] [--repeats 10] [--csv FILE] [--json FILE]

The JSON has the numbers of packets (`x`), all times in seconds (`ys`, by name), and the size (`sizes`).
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import mitmproxy_wireguard

import wg_embed

SIZE = 1000
Trips = Callable[[int], Awaitable[float]]


async def echo(reader: Any, writer: Any) -> None:
    """For streams of asyncio and of mitmproxy_wireguard."""
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()


def ignore(data: bytes, src: tuple[str, int], dst: tuple[str, int]) -> None:
    """For datagrams: there are none."""


async def trips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> float:
    """Returns the time that `count` round trips take."""
    packet = bytes(SIZE)
    begin = time.perf_counter()
    for _ in range(count):
        writer.write(packet)
        await reader.readexactly(SIZE)
    return time.perf_counter() - begin


async def over_the_system(count: int) -> float:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        taken = await trips(reader, writer, count)
        writer.close()
        return taken


async def over_a_tunnel(count: int) -> float:
    server_key, client_key = wg_embed.genkey(), wg_embed.genkey()
    peers = [wg_embed.pubkey(client_key)]
    server = await mitmproxy_wireguard.start_server(
        "127.0.0.1", 0, server_key, peers, lambda stream: echo(stream, stream), ignore
    )
    port = server.getsockname()[1]
    peer = wg_embed.Peer(wg_embed.pubkey(server_key), ["0.0.0.0/0"], f"127.0.0.1:{port}")
    with wg_embed.Tunnel(wg_embed.Config(client_key, [peer], ["10.0.0.1"])) as tunnel:
        reader, writer = await tunnel.net.dial("10.0.0.42:1234")
        taken = await trips(reader, writer, count)
        writer.close()
    server.close()
    await server.wait_closed()
    return taken


KINDS: dict[str, Trips] = {"asyncio": over_the_system, "wg_embed": over_a_tunnel}


async def main(counts: list[int], repeats: int) -> dict[str, Any]:
    ys: dict[str, list[list[float]]] = {name: [] for name in KINDS}
    for count in counts:
        for name, run in KINDS.items():
            times = [await run(count) for _ in range(repeats)]
            ys[name].append(times)
            print(f"{name}: {count} packets, median {statistics.median(times):.3f} s", flush=True)
    return {"x": counts, "ys": ys, "sizes": SIZE}


def write_csv(path: str, results: dict[str, Any]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "packets", "size", "seconds"])
        for name, all_times in results["ys"].items():
            for count, times in zip(results["x"], all_times):
                writer.writerows([name, count, results["sizes"], f"{seconds:.6f}"] for seconds in times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--packets", default="1000,10000", help="numbers of packets, separated by commas")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--csv")
    parser.add_argument("--json")
    options = parser.parse_args()
    results = asyncio.run(main([int(count) for count in options.packets.split(",")], options.repeats))
    if options.csv:
        write_csv(options.csv, results)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file)
