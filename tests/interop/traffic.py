"""What goes through a tunnel and past it: captures, re-sent frames, floods, transfers, speed."""

import json
import re
import subprocess
import sys
from pathlib import Path

from lab import wait_until
from report import Failed, expect
from wire import udp_payload

WIRE = str(Path(__file__).with_name("wire.py"))
INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4


class Datagram:
    """A UDP datagram that was seen. `direction` is "in" or "out" of the interface at which it was."""

    def __init__(self, when, direction, frame):
        self.when, self.direction, self.frame = when, direction, frame
        self.source, self.target, self.payload, self.offset = udp_payload(frame)

    @property
    def kind(self):
        return self.payload[0] if len(self.payload) >= 32 else 0

    @property
    def has_mac2(self):
        return self.kind in (INITIATION, RESPONSE) and any(self.payload[-16:])

    def altered(self, position=None, cut=0, source=None):
        """The frame again, with one byte of the payload flipped, its end cut off, or another source port. IPv4 only."""
        frame, start = bytearray(self.frame), self.offset
        frame[start - 2 : start] = b"\0\0"  # no UDP checksum: the true one may have been left to the interface
        if position is not None:
            frame[start + position % len(self.payload)] ^= 1
        if cut:
            del frame[len(frame) - cut :]
            for at, size in ((16, len(frame) - 14), (start - 4, len(frame) - start + 8)):
                frame[at : at + 2] = size.to_bytes(2, "big")
            frame[24:26] = b"\0\0"
            frame[24:26] = ip_checksum(frame[14 : start - 8])
        if source:
            frame[start - 8 : start - 6] = source.to_bytes(2, "big")
        return bytes(frame)


def ip_checksum(header):
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, len(header), 2))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


class Capture:
    """Every UDP datagram at an interface of a namespace, from now on."""

    def __init__(self, place, interface):
        self.file = place.directory / f"{interface}.capture"
        self.file.unlink(missing_ok=True)
        self.process = place.lab.spawn(place.command(sys.executable, WIRE, "capture", interface), self.file)
        wait_until(lambda: self.file.read_text().startswith("ready"), 10, f"the capture: {self.file.read_text()}")

    def datagrams(self):
        """All so far."""
        seen = []
        for line in self.file.read_text().split("\n")[1:-1]:
            when, direction, frame = line.split()
            seen.append(Datagram(float(when), direction, bytes.fromhex(frame)))
        return seen

    def stop(self):
        self.process.terminate()
        self.process.wait()
        return self.datagrams()


def inject(place, interface, frames):
    """Sends whole frames out of an interface of a namespace."""
    text = "".join(f"{frame.hex()}\n" for frame in frames).encode()
    command = place.command(sys.executable, WIRE, "inject", interface)
    subprocess.run(command, input=text, check=True, timeout=60)


class Flood:
    """Bursts of handshake initiations, right in mac1 only, from another address, until `cookies` is called.

    A node under load stays so for a second, so that bursts suffice; and what else arrives finds room between them."""

    def __init__(self, place, source, end, burst, pause):
        self.file = place.directory / f"{end.interface}.flood"
        words = [source, end.place.outer[4], end.port, end.public, burst, pause, 300]
        self.process = place.lab.spawn(place.command(sys.executable, WIRE, "flood", *words), self.file)

    def running(self):
        return self.process.poll() is None

    def cookies(self):
        """Ends it. Returns how many cookie replies it got."""
        self.process.terminate()
        self.process.wait(60)
        found = re.search(r"cookies (\d+)", self.file.read_text())
        expect(found, f"the flood: {self.file.read_text()}")
        return int(found[1])


def megabits(client, server, reverse=False, seconds=2):
    """TCP by iperf3 from one end to the other (back, if `reverse`), in Mbit/s. Each run has a server of its own."""
    server.shell("iperf3 -s -1 -D >/dev/null 2>&1")
    last = None
    for _ in range(20):
        text = client.shell(f"sleep 0.2; iperf3 -c {server.inner[4]} -t {seconds} -J {'-R' if reverse else ''}", timeout=60, check=False)
        try:
            found = json.loads(text)
            return found["end"]["sum_received"]["bits_per_second"] / 1e6
        except (ValueError, KeyError):
            last = text[-200:]
            if "refused" not in text:
                break
    raise Failed(f"iperf3: {last}")


def transfer(sender, receiver, size, port, family=4, timeout=60):
    """Sends random bytes over TCP inside the tunnel and compares the SHA-256 of both ends. Returns Mbit/s.

    Each end may be the VM, whose nc is busybox's; the host needs none."""
    name = f"{receiver.place.directory}/{receiver.interface}.{port}"
    source = f"{sender.place.directory}/{sender.interface}.{port}.sent"
    sender.shell(f"head -c {size} /dev/urandom > {source}")
    wanted = sender.shell(f"sha256sum < {source}").split()[0]
    listen = (
        f"nc -l -p {port} > {name} </dev/null"
        if receiver.label == "kernel"
        else f"{sys.executable} -c \"import shutil, socket, sys;"
        f" s = socket.create_server(('::', {port}), family=socket.AF_INET6, dualstack_ipv6=True);"
        f" shutil.copyfileobj(s.accept()[0].makefile('rb'), open('{name}', 'wb'))\""
    )
    receiver.shell(f"rm -f {name}; ({listen}) >/dev/null 2>&1 & sleep 0.7")
    before = now(sender)
    sender.shell(f"cat {source} > /dev/tcp/{receiver.inner[family]}/{port}", timeout=timeout)
    got = lambda: receiver.shell(f"sha256sum < {name}", check=False).split()[:1]
    wait_until(lambda: got() == [wanted], timeout, f"the sum {wanted} at {receiver.label}; it is {got()}")
    return size * 8 / (now(sender) - before) / 1e6


def now(end):
    return float(end.shell("cat /proc/uptime").split()[0])
