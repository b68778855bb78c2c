#!/usr/bin/env python3
"""What a flood at a tunnel's UDP port leaves of a live TCP stream, and of a ping, side by side with wireguard-go.

usage: benches/flood.py WG_EMBED WIREGUARD_GO [SECONDS]      (as root, on a machine that does nothing else)

For each kind of flood and each rate: the speed of a TCP stream through the tunnel during the flood, divided by the
speed just before it, the median of three rounds in which the implementations take turns. The flood comes from the other
end's network namespace, at its own pace. `sent` is the rate that was reached. What a flood costs the machine itself is
in both columns, and can be seen in the rows "nothing of ours": junk at another port of the same host, where a socket
that is full drops it.
"""

import base64
import contextlib
import ctypes
import errno
import hashlib
import os
import socket
import statistics
import subprocess
import sys
import time

from pair import IDLE_PORT, INNER, OUTER, PORT, Pair, end, within

KINDS = ["nothing of ours", "initiation", "bad mac1", "unknown index", "junk"]
RATES = [1_000, 5_000, 10_000, 20_000, 50_000, 100_000]
PING_RATE = 20_000
ROUNDS = 3
BULK = 1200  # bytes of a datagram of the kind "bulk"


@contextlib.contextmanager
def flooded(pair, kind, rate, target=0):
    """Floods one end from the other namespace. Yields a list to which, at the end, the rate reached is added."""
    options = ["--flood", kind, str(rate), pair.publics[target], str(target)]
    words = within(pair.netns[1 - target], sys.executable, __file__, *options)
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    reached = []
    try:
        process.stdout.readline()  # it has begun
        yield reached
    finally:
        try:
            reached.append(int(process.communicate(timeout=30)[0] or 0))
        except subprocess.TimeoutExpired:
            end(process)


def messages(kind, public):
    """Some thousand of a kind."""
    mac1_key = hashlib.blake2s(b"mac1----" + base64.b64decode(public)).digest()
    for _ in range(4096):
        if kind == "initiation":
            body = b"\1\0\0\0" + os.urandom(112)
            yield body + hashlib.blake2s(body, key=mac1_key, digest_size=16).digest() + bytes(16)
        elif kind == "bad mac1":
            yield b"\1\0\0\0" + os.urandom(144)
        elif kind == "unknown index":
            yield b"\4\0\0\0" + os.urandom(76)
        elif kind == "bulk":
            yield bytes(BULK)
        else:
            yield b"\xff" + os.urandom(99)


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]


class Mmsghdr(ctypes.Structure):
    """`struct mmsghdr` of 64-bit Linux."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_len", ctypes.c_size_t),
        ("iovec", ctypes.POINTER(Iovec)),
        ("iovec_len", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_len", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),  # an int, and 4 bytes to fill up `struct msghdr`
        ("len", ctypes.c_size_t),  # the same
    ]


def flood(kind, rate, public, target):
    """Sends at this rate, in steps of a millisecond, until its standard input ends. Then prints the rate reached, of
    what the system accepted. "bulk" goes through the tunnel, and everything else to its port.

    By sendmmsg(2), as a flood that takes much processor time to make says more about itself than about what it hits."""
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    host = (INNER if kind == "bulk" else OUTER)[target]
    out.connect((host, IDLE_PORT if kind in ("nothing of ours", "bulk") else PORT))
    out.setblocking(False)
    os.set_blocking(0, False)
    ready = [Iovec(message, len(message)) for message in messages(kind, public)]
    headers = (Mmsghdr * len(ready))(*[Mmsghdr(iovec=ctypes.pointer(one), iovec_len=1) for one in ready])
    tried, sent, begin = 0, 0, time.monotonic()
    print("begun", flush=True)
    while sys.stdin.buffer.raw.read(1) is None:
        due = min(int((time.monotonic() - begin) * rate), tried + rate // 100 + 1)
        while tried < due:
            at = tried % len(ready)
            first, most = ctypes.byref(headers, at * ctypes.sizeof(Mmsghdr)), min(due - tried, len(ready) - at)
            count = sendmmsg(out.fileno(), first, most, 0)
            if count < 0 and ctypes.get_errno() not in (errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED):
                raise OSError(ctypes.get_errno(), "sendmmsg")
            tried += max(count, 1)
            sent += max(count, 0)
        time.sleep(0.001)
    print(int(sent / (time.monotonic() - begin)))


def main(daemons, seconds):
    names = ["wg-embed", "wireguard-go"]
    with contextlib.ExitStack() as stack:
        tunnels = [Pair(stack, daemon, number) for number, daemon in enumerate(daemons)]
        shares = " | ".join(f"{name}, of its speed" for name in names)
        print(f"| flood | a second | sent | {shares} |\n|" + "---|" * 5)
        for kind in KINDS:
            for rate in RATES:
                shares, sent = [[], []], []
                for _ in range(ROUNDS):
                    for tunnel, share in zip(tunnels, shares):
                        before = tunnel.speed(seconds)
                        with flooded(tunnel, kind, rate) as reached:
                            share.append(tunnel.speed(seconds) / before)
                        sent += reached
                        time.sleep(1.1)  # until it does not count as being under load any more
                medians = " | ".join(f"{statistics.median(share):.2f}" for share in shares)
                print(f"| {kind} | {rate} | {statistics.median(sent):.0f} | {medians} |", flush=True)
        print(f"\nping, median in us: quiet, and during {PING_RATE} initiations a second; MiB resident afterwards")
        for name, tunnel in zip(names, tunnels):
            before = tunnel.ping(300)
            with flooded(tunnel, "initiation", PING_RATE):
                during = tunnel.ping(300)
            print(f"{name}: {before:.0f}, {during:.0f} ({during / before:.2f}); {tunnel.resident():.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--flood"]:
        flood(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    elif len(sys.argv) in (3, 4):
        main(sys.argv[1:3], int((sys.argv[3:] or ["4"])[0]))
    else:
        sys.exit(__doc__)
