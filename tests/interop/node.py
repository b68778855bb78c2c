"""The two ends of a tunnel: a daemon in a network namespace, or the kernel's WireGuard in the VM."""

import functools
import itertools
import re
import signal
import socket
import subprocess
import time

from lab import SOCKETS, run, stopping, wait_until
from report import expect

REFUSALS = re.compile(r"invalid|neither ipv4|incorrect size|unallowed", re.IGNORECASE)
ports, kernel_interfaces, tunnels = itertools.count(20001), itertools.count(1), itertools.count(1)


class Netns:
    """A place in which shell lines can be run: a namespace of this machine. `outer` has its addresses outside."""

    nodad = "nodad"

    def __init__(self, lab, name, outer4, outer6):
        self.lab, self.name, self.outer = lab, name, {4: outer4, 6: outer6}
        self.directory = lab.directory

    def command(self, *words):
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def shell(self, script, timeout=60, check=True):
        return run(self.command("bash", "-c", f"set -eu; {script}"), timeout, check)

    def background(self, script, log="background.log"):
        return self.lab.spawn(self.command("bash", "-c", script), self.directory / log)


class Vm:
    """The same for the VM on a namespace's TAP."""

    nodad = ""  # busybox does not know the word, and the VM does no duplicate address detection

    def __init__(self, lab, netns):
        self.lab, self.netns, self.outer = lab, netns, {4: "198.18.0.2", 6: "fd00:18::2"}
        self.directory = "/tmp"

    def shell(self, script, timeout=60, check=True):
        settings = self.lab.settings
        command = ["env", f"VM_TIMEOUT={timeout}", settings.vm_script, "run", settings.vm_directory, self.netns, self.outer[4], f"set -eu; {script}"]
        return run(command, timeout + 10, check)


@functools.lru_cache(maxsize=None)
def public_of(private):
    return subprocess.run(["wg", "pubkey"], input=private.encode(), stdout=subprocess.PIPE, check=True).stdout.decode().strip()


def new_key():
    return run(["wg", "genkey"]).strip()


class Peer:
    """A peer's line of `wg show dump`."""

    def __init__(self, line):
        fields = line.split("\t")
        _, self.psk, self.endpoint, allowed, handshake, received, sent, keepalive = fields
        self.allowed = set(allowed.split(",")) - {"(none)"}
        self.handshake, self.received, self.sent, self.keepalive = int(handshake), int(received), int(sent), keepalive


class End:
    """A WireGuard interface. `inner` are its addresses inside the tunnel."""

    is_exact = True  # its counters and times of handshakes are what they should be

    def __init__(self, place, interface, label):
        self.place, self.interface, self.label = place, interface, label
        self.private, self.port = new_key(), next(ports)
        self.inner = {}

    @property
    def public(self):
        return public_of(self.private)

    def shell(self, script, **more):
        expect(not stopping.is_set(), "the suite was stopped")
        return self.place.shell(script, **more)

    def set(self, text):
        return self.shell(f"wg set {self.interface} {text}")

    def set_peer(self, other, text):
        return self.set(f"peer {other.public} {text}")

    def file(self, name, content):
        """Puts a file where this end is. Returns its path."""
        path = f"{self.place.directory}/{self.interface}.{name}"
        self.shell(f"cat > {path} <<'END'\n{content}\nEND")
        return path

    def configure(self, *peers):
        """The whole configuration; each peer is what `peer_section` makes."""
        text = f"[Interface]\nPrivateKey = {self.private}\nListenPort = {self.port}\n" + "".join(peers)
        self.shell(f"wg setconf {self.interface} {self.file('conf', text)}")

    def peer_section(self, allowed=None, endpoint=None, psk=None, keepalive=None):
        """This end as a peer in another's configuration. `endpoint` is 4 or 6: the family on the outside."""
        lines = ["[Peer]", f"PublicKey = {self.public}", f"AllowedIPs = {allowed or self.inner_ranges()}"]
        if endpoint:
            lines.append(f"Endpoint = {self.endpoint(endpoint)}")
        if psk:
            lines.append(f"PresharedKey = {psk}")
        if keepalive:
            lines.append(f"PersistentKeepalive = {keepalive}")
        return "\n".join(lines) + "\n"

    def endpoint(self, family):
        address = self.place.outer[family]
        return f"[{address}]:{self.port}" if family == 6 else f"{address}:{self.port}"

    def inner_ranges(self):
        return f"{self.inner[4]}/32, {self.inner[6]}/128"

    def address(self, tunnel, host):
        """Chooses the addresses inside: tunnel and host are small numbers."""
        self.inner = {4: f"10.9.{tunnel}.{host}", 6: f"fd09:{tunnel}::{host}"}

    def up(self):
        four, six, nodad = self.inner[4], self.inner[6], self.place.nodad
        self.shell(
            f"ip addr replace {four}/24 dev {self.interface}; ip -6 addr replace {six}/64 dev {self.interface} {nodad};"
            f" ip link set {self.interface} up"
        )

    def down(self):
        self.shell(f"ip link set {self.interface} down")

    def peers(self):
        """By public key."""
        lines = self.shell(f"wg show {self.interface} dump").strip().split("\n")[1:]
        return {line.split("\t")[0]: Peer(line) for line in lines}

    def peer(self, other):
        return self.peers()[other.public]

    def ping(self, other, family=4, count=3, more="-i 0.2", timeout=60):
        """How many of `count` pings were answered."""
        output = self.shell(f"ping -{family} -n -q -c {count} {more} {other.inner[family]}", timeout=timeout, check=False)
        found = re.search(r"(\d+) received", output)
        expect(found, f"ping: {output}")
        return int(found[1])

    def expect_pings(self, other, family=4, count=3, more="-i 0.2"):
        got = self.ping(other, family, count, more)
        expect(got == count, f"{got} of {count} pings from {self.label} to {other.label} over IPv{family} answered")

    def reaches(self, other, family=4):
        return self.ping(other, family, 1, "-W 1") == 1

    def wait_for_handshake(self, other, seconds, after=0):
        """Until the session with the other end is younger than `after`. Returns the seconds it took."""
        _, took = wait_until(lambda: self.peer(other).handshake > after, seconds, f"a handshake at {self.label}")
        return took


class Daemon(End):
    """A userspace implementation."""

    def __init__(self, lab, place, program="daemon"):
        super().__init__(place, lab.interface_name(), program)
        self.lab, self.process = lab, None
        self.program = lab.settings.daemon if program == "daemon" else lab.settings.peers[program]
        self.is_exact = program != "boringtun"
        self.options = ["--disable-drop-privileges"] if program == "boringtun" else []
        self.log = lab.directory / f"{self.interface}.log"
        self.start()

    @property
    def socket(self):
        return SOCKETS / f"{self.interface}.sock"

    def start(self):
        self.process = self.lab.spawn(self.place.command(self.program, "-f", *self.options, self.interface), self.log)
        self.wait_for_socket()

    def wait_for_socket(self):
        wait_until(self.answers, 10, f"{self.label}: {self.read_log()}")

    def answers(self):
        """Whether the socket takes connections. Not found out by wg(8), which removes a socket that takes none: it may
        be another by then."""
        with socket.socket(socket.AF_UNIX) as end:
            return end.connect_ex(str(self.socket)) == 0

    def read_log(self):
        return self.log.read_text(errors="replace")[-500:] if self.log.exists() else ""

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.wait_for_end()

    def wait_for_end(self, seconds=5):
        """Until the process is gone. Returns the seconds it took."""
        start = time.monotonic()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            expect(False, f"the process still runs after {seconds} s: {self.read_log()}")
        return time.monotonic() - start

    def exists(self):
        return self.interface in self.shell("ip -o link")


class Kernel(End):
    """The kernel's WireGuard, in the VM."""

    def __init__(self, place):
        super().__init__(place, f"wg{next(kernel_interfaces)}", "kernel")
        self.create()

    def create(self):
        self.shell(f"ip link add {self.interface} type wireguard")

    def delete(self):
        self.shell(f"ip link del {self.interface}")

    def said(self):
        """What the module has said about this interface."""
        return [line for line in self.shell("dmesg").split("\n") if f"wireguard: {self.interface}: " in line]

    def expect_said(self, text):
        expect(any(text in line for line in self.said()), f"the kernel did not say {text!r} but: {' | '.join(self.said()[-5:])}")

    def expect_no_refusals(self, source="", besides="nothing"):
        """That the module has found nothing wrong with any packet (of that source), `besides` excepted."""
        lines = [line for line in self.said() if REFUSALS.search(line) and source in line and besides not in line]
        expect(not lines, f"the kernel said {len(lines)} times: {' | '.join(lines[:3])}")


def join(a, b, family=4, psk=None, first=None):
    """Configures two ends for each other and brings them up. Only `first`, if given, knows where the other one is."""
    tunnel = next(tunnels)
    a.address(tunnel, 1)
    b.address(tunnel, 2)
    a.configure(b.peer_section(endpoint=family if first in (None, a) else None, psk=psk))
    b.configure(a.peer_section(endpoint=family if first in (None, b) else None, psk=psk))
    b.up()
    a.up()


def attach(a, b):
    """Adds a second peer to an end that is up: another tunnel, with addresses of its own."""
    inner, tunnel = a.inner, next(tunnels)
    a.address(tunnel, 1)
    a.up()
    b.address(tunnel, 2)
    b.configure(a.peer_section(endpoint=4))
    b.up()
    a.inner = inner
    a.set_peer(b, f"endpoint {b.endpoint(4)} allowed-ips {b.inner_ranges()}".replace(", ", ","))
