"""What `compare.py` measures itself, beside what wgbench measures. Each function takes a `Pair` and returns figures.

All of it ends by itself: what is measured has a fixed length, and every command a time limit.
"""

import contextlib
import statistics
import subprocess
import sys
import threading
import time

from flood import BULK, flooded
from pair import IDLE_PORT, INNER, Pair, end, run, wait_until, within

SECONDS = 4
IPERF_PORT = 5201
ECHO_PORT = 7
DOWNLOAD, UPLINK, OFFERED = 50, 10, 30  # Mbit/s
FLOODS = (20_000, 50_000)  # initiations a second
STARTS = 9
LIGHT_SECONDS = 20
QUIET_SECONDS = 300
KEEPALIVE = 25

ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", int(sys.argv[1])))
while True:
    server.sendto(*server.recvfrom(64))
"""
# Counts datagrams until its standard input ends.
COUNT = """
import os, socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", int(sys.argv[1])))
server.settimeout(0.1)
os.set_blocking(0, False)
print("begun", flush=True)
count = 0
while sys.stdin.buffer.raw.read(1) is None:
    try:
        count += len(server.recv(2048)) > 0
    except TimeoutError:
        pass
print(count)
"""
# Prints when the first answer came, by the clock that all processes share.
FIRST_ANSWER = """
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(0.0005)
print("begun", flush=True)
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    try:
        client.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
        client.recv(64)
        print(time.monotonic())
        break
    except TimeoutError:
        pass
    except OSError:  # There is no route yet.
        time.sleep(0.0005)
"""


class Drops:
    """Counts what the receiving socket of iperf3 has no room for, while it exists: the last column of /proc/net/udp."""

    def __init__(self, pair):
        self.path = f"/proc/{pair.daemons[0].pid}/net/udp"
        self.most, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.ended.wait(0.005):
            with open(self.path) as file:
                rows = [line.split() for line in file.readlines()[1:]]
            drops = sum(int(row[-1]) for row in rows if int(row[1].split(":")[1], 16) == IPERF_PORT)
            self.most = max(self.most, drops)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def udp(pair):
    """64 bytes, as fast as iperf3 sends. What came through the tunnel is what the server has read, and what its socket
    had no room for: that depends on when the server runs more than on the tunnel. With an equal buffer for all."""
    before = pair.use()
    with Drops(pair) as drops:
        total = pair.iperf(SECONDS, "-u", "-l", "64", "-b", "0", "-w", "4M")["end"]["sum"]
    use = before.until(pair.use())
    read = total["packets"] - total["lost_packets"]
    through = read + drops.most
    return {
        "sent_pps": total["packets"] / total["seconds"],
        "through_pps": through / total["seconds"],
        "received_pps": read / total["seconds"],
        "cpu_us": use.cpu * 1e6 / through,
    }


@contextlib.contextmanager
def slow_uplink(pair):
    """Its queue drops what does not fit into 50 ms."""
    place = ["-n", pair.netns[1], "qdisc"], ["dev", "veth0", "root"]
    run("tc", *place[0], "add", *place[1], "tbf", "rate", f"{UPLINK}mbit", "burst", "64kb", "latency", "50ms")
    try:
        yield
    finally:
        run("tc", *place[0], "del", *place[1])


def datagrams(megabits):
    """Returns how many of the kind "bulk" a second make this rate."""
    return megabits * 1_000_000 // (8 * BULK)


def download(pair, uploads):
    """Which part of a UDP stream arrives at the second end; TCP would also depend on how its acknowledgements fare."""
    words = within(pair.netns[1], sys.executable, "-c", COUNT, str(IDLE_PORT))
    counter = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        counter.stdout.readline()
        with contextlib.ExitStack() as stack:
            if uploads:
                stack.enter_context(flooded(pair, "bulk", datagrams(OFFERED)))
                time.sleep(1)  # until the queues are full
            with flooded(pair, "bulk", datagrams(DOWNLOAD), target=1) as reached:
                begin = time.monotonic()
                time.sleep(SECONDS)
            took = time.monotonic() - begin
        received = int(counter.communicate(timeout=30)[0])
    finally:
        end(counter)
    return received / (reached[0] * took)


def uplink(pair):
    """What arrives of a download while the uplink is offered three times what it can carry."""
    with slow_uplink(pair):
        return {"alone": download(pair, False), "during": download(pair, True)}


def floods(pair):
    """A TCP stream during floods of initiations, relative to the same just before."""
    figures = {}
    for rate in FLOODS:
        before = pair.speed(SECONDS)
        with flooded(pair, "initiation", rate) as reached:
            figures[str(rate)] = pair.speed(SECONDS) / before
        figures[f"sent {rate}"] = reached[0]
        time.sleep(1.1)  # until it does not count as being under load any more
    return figures


def cold_start(pair):
    """From the start of a daemon's process to the first answer through its tunnel, in ms: start, configuration,
    addresses, handshake, and one packet in each direction."""
    times = []
    with contextlib.ExitStack() as stack:
        pair.background(stack, pair.netns[0], sys.executable, "-c", ECHO, str(ECHO_PORT))
        for _ in range(STARTS):
            pair.stop(1)
            wait_until(lambda: not pair.is_there(pair.netns[1], pair.names[1]), "the interface is still there")
            words = within(pair.netns[1], sys.executable, "-c", FIRST_ANSWER, INNER[0], str(ECHO_PORT))
            client = subprocess.Popen(words, stdout=subprocess.PIPE)
            try:
                client.stdout.readline()
                begin = time.monotonic()
                pair.start(1)
                answer = client.communicate(timeout=60)[0]
            finally:
                end(client)
            times.append(1000 * (float(answer) - begin))
    return {"median_ms": statistics.median(times), "worst_ms": max(times)}


def light(pair):
    """A download of 1 Mbit/s, as of a call or a stream of music: processor time and wake-ups of one end, a second."""
    before, begin = pair.use(), time.monotonic()
    pair.iperf(LIGHT_SECONDS, "-u", "-l", "1200", "-b", "1M", "-R")
    return per_second(before, pair, begin)


def per_second(before, pair, begin):
    use, took = before.until(pair.use()), time.monotonic() - begin
    return {"wakeups": use.wakeups / 2 / took, "cpu_ms": 1000 * use.cpu / 2 / took}


def keepalives(commands):
    """An hour with nothing but a keepalive every 25 s, of one end, for all implementations at the same time: five
    minutes of real time with two handshakes, times twelve."""
    with contextlib.ExitStack() as stack:
        pairs = {}
        for number, (name, command) in enumerate(commands.items()):
            try:
                pairs[name] = Pair(stack, command, number, keepalive=KEEPALIVE)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                print(name, "keepalives", error, flush=True)
        time.sleep(10)
        before, begin = {name: pair.use() for name, pair in pairs.items()}, time.monotonic()
        time.sleep(QUIET_SECONDS)
        figures = {name: per_second(before[name], pair, begin) for name, pair in pairs.items()}
    return {name: {key: 3600 * value for key, value in figure.items()} for name, figure in figures.items()}
