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
import json
import os
import socket
import statistics
import subprocess
import sys
import time

KINDS = ["nothing of ours", "initiation", "bad mac1", "unknown index", "junk"]
RATES = [1_000, 5_000, 10_000, 20_000, 50_000, 100_000]
PING_RATE = 20_000
ROUNDS = 3
PORT = 51820
IDLE_PORT = 9


def run(*words, **options):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, **options).stdout.decode()


def within(netns, *words):
    return ["ip", "netns", "exec", netns, *words]


class Tunnel:
    """Two namespaces with a link, and an end of the tunnel in each. The first one is flooded."""

    def __init__(self, stack, daemon, number):
        self.netns = [f"wgf{os.getpid()}x{number}{end}" for end in "ab"]
        self.daemons = []
        for netns in self.netns:
            run("ip", "netns", "add", netns)
            stack.callback(run, "ip", "netns", "del", netns)
        a, b = self.netns
        run("ip", "link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
        keys = [run("wg", "genkey").strip() for _ in "ab"]
        self.publics = [run("wg", "pubkey", input=key.encode()).strip() for key in keys]
        for end, netns in enumerate(self.netns):
            name = f"wf{os.getpid() % 10**6}{number}{'ab'[end]}"
            run("ip", "-n", netns, "addr", "add", f"198.18.9.{end + 1}/24", "dev", "veth0")
            run("ip", "-n", netns, "link", "set", "veth0", "up")
            process = subprocess.Popen(within(netns, daemon, "-f", name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.daemons.append(process)
            stack.callback(self.end, process)
            deadline = time.monotonic() + 30
            while not os.path.exists(f"/var/run/wireguard/{name}.sock"):
                assert time.monotonic() < deadline and process.poll() is None, f"{daemon} does not start"
                time.sleep(0.05)
            configuration = f"[Interface]\nPrivateKey={keys[end]}\nListenPort={PORT}\n[Peer]\nPublicKey={self.publics[1 - end]}\n"
            configuration += f"AllowedIPs=10.9.9.{2 - end}/32\nEndpoint=198.18.9.{2 - end}:{PORT}\n"
            run(*within(netns, "wg", "setconf", name, "/dev/stdin"), input=configuration.encode())
            run("ip", "-n", netns, "addr", "add", f"10.9.9.{end + 1}/24", "dev", name)
            run("ip", "-n", netns, "link", "set", name, "up", "mtu", "1420")
        idle = f"import socket, time; s = socket.socket(2, 2); s.bind(('198.18.9.1', {IDLE_PORT})); time.sleep(1e6)"
        idle = subprocess.Popen(within(a, sys.executable, "-c", idle))
        stack.callback(self.end, idle)
        server = subprocess.Popen(within(a, "iperf3", "-s"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(self.end, server)
        self.ping(20)

    @staticmethod
    def end(process):
        process.terminate()
        process.wait()

    def ping(self, count):
        """The median in microseconds."""
        text = run(*within(self.netns[1], "ping", "-n", "-i", "0.01", "-c", str(count), "-W", "5", "10.9.9.1"))
        times = [float(line.split("time=")[1].split()[0]) for line in text.splitlines() if "time=" in line]
        return 1000 * statistics.median(times)

    def speed(self, seconds):
        """Of a TCP stream, in Mbit/s."""
        text = run(*within(self.netns[1], "iperf3", "-J", "-c", "10.9.9.1", "-t", str(seconds)))
        return json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e6

    def resident(self):
        """Of the end that is flooded, in MiB."""
        with open(f"/proc/{self.daemons[0].pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    @contextlib.contextmanager
    def flood(self, kind, rate):
        words = within(self.netns[1], sys.executable, __file__, "--flood", kind, str(rate), self.publics[0])
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        reached = []
        try:
            process.stdout.readline()  # it has begun
            yield reached
        finally:
            reached.append(int(process.communicate()[0] or 0))


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
        ("flags", ctypes.c_int),
        ("len", ctypes.c_uint),
    ]


def flood(kind, rate, public):
    """Sends at this rate, in steps of a millisecond, until its standard input ends. Then prints the rate reached.

    By sendmmsg(2), as a flood that takes much processor time to make says more about itself than about what it hits."""
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect(("198.18.9.1", IDLE_PORT if kind == "nothing of ours" else PORT))
    out.setblocking(False)
    os.set_blocking(0, False)
    ready = [Iovec(message, len(message)) for message in messages(kind, public)]
    headers = (Mmsghdr * len(ready))(*[Mmsghdr(iovec=ctypes.pointer(one), iovec_len=1) for one in ready])
    sent, begin = 0, time.monotonic()
    print("begun", flush=True)
    while sys.stdin.buffer.raw.read(1) is None:
        due = min(int((time.monotonic() - begin) * rate), sent + rate // 100 + 1)
        while sent < due:
            at = sent % len(ready)
            count = sendmmsg(out.fileno(), ctypes.byref(headers, at * ctypes.sizeof(Mmsghdr)), min(due - sent, len(ready) - at), 0)
            if count < 0 and ctypes.get_errno() not in (errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED):
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += max(count, 1)
        time.sleep(0.001)
    print(int(sent / (time.monotonic() - begin)))


def main(daemons, seconds):
    names = ["wg-embed", "wireguard-go"]
    with contextlib.ExitStack() as stack:
        tunnels = [Tunnel(stack, daemon, number) for number, daemon in enumerate(daemons)]
        print("| flood | a second | sent | " + " | ".join(f"{name}, of its speed" for name in names) + " |\n|" + "---|" * 5)
        for kind in KINDS:
            for rate in RATES:
                shares, sent = [[], []], []
                for _ in range(ROUNDS):
                    for tunnel, share in zip(tunnels, shares):
                        before = tunnel.speed(seconds)
                        with tunnel.flood(kind, rate) as reached:
                            share.append(tunnel.speed(seconds) / before)
                        sent += reached
                        time.sleep(1.1)  # until it does not count as being under load any more
                medians = " | ".join(f"{statistics.median(share):.2f}" for share in shares)
                print(f"| {kind} | {rate} | {statistics.median(sent):.0f} | {medians} |", flush=True)
        print(f"\nping, median in us: quiet, and during {PING_RATE} initiations a second; MiB resident afterwards")
        for name, tunnel in zip(names, tunnels):
            before = tunnel.ping(300)
            with tunnel.flood("initiation", PING_RATE):
                during = tunnel.ping(300)
            print(f"{name}: {before:.0f}, {during:.0f} ({during / before:.2f}); {tunnel.resident():.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--flood"]:
        flood(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    elif len(sys.argv) in (3, 4):
        main(sys.argv[1:3], int((sys.argv[3:] or ["4"])[0]))
    else:
        sys.exit(__doc__)
