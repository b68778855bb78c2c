"""Runs the scenarios against a VM made by vm.sh and writes one .trace file for each; record.sh is the way to start it.

Every scenario has a WireGuard interface of its own in the one VM, and a scripted peer on this side. The VM routes
between eth0 and those interfaces, so an inner packet for the node is an ordinary packet on the TAP, and so is one that
the node delivers: one capture on the TAP sees all inputs and outputs of the node, with their times. A shell in the VM
changes the configuration and sends a datagram before and after each command.
"""

import argparse
import asyncio
import hashlib
import re
import socket
import struct
import sys
import time
import urllib.request
from base64 import b64encode
from pathlib import Path

import trace_file
import wgpeer
from trace_file import PEER_PORT, Frame

SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35  # Linux's numbers; the socket module lacks them
ETH_P_ALL, ETH_P_IP, ICMP, UDP = 3, 0x0800, 1, 17
AGENT_PORT, MARK_PORT = 7000, 7001
NODE_PORT = 20000  # plus the scenario's number, as PEER_PORT
START_GAP = 0.4  # seconds between the starts of two scenarios

AGENT = r"""
exec 3<>/dev/tcp/HOST/AGENT_PORT 4>/dev/udp/HOST/MARK_PORT
while read -r id command <&3; do
  echo "begin $id" >&4
  eval "$command" >/tmp/agent.out 2>&1 3<&- 4>&-
  echo "end $id $? $(head -c 200 /tmp/agent.out)" >&4
done
"""


def ipv4(source, target, size, protocol=UDP):
    """An inner packet of `size` bytes: UDP to the discard port, zeros inside."""
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(target))
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]
    return head + struct.pack(">HHHH", 9, 9, size - 20, 0) + bytes(size - 28)


def secret(*words):
    """The same keys at every recording: they protect nothing."""
    return hashlib.blake2s(" ".join(map(str, words)).encode()).digest()


def base64(key):
    return b64encode(key).decode()


class Vm:
    """The TAP, the capture on it, and the command channel into the VM."""

    def __init__(self, tap, host, address):
        self.tap, self.host, self.address = tap, host, address
        self.runs, self.commands, self.next_id = {}, {}, 0
        self.capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.capture.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.capture.bind((tap, ETH_P_ALL))
        self.capture.setblocking(False)
        self.injector = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.injector.bind((tap, 0))
        # Never read: it is there so that the marks do not meet a closed port.
        self.marks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.marks.bind((host, MARK_PORT))

    def shell(self, script):
        """Runs shell lines in the VM by its web server: untimed."""
        request = urllib.request.Request(f"http://{self.address}/cgi-bin/run", script.encode(), {"Content-Type": "text/plain"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            output, _, status = answer.read().decode(errors="replace").rpartition("status=")
        if status.strip() != "0":
            raise RuntimeError(f"in the VM: {script}: {output}")
        return output

    async def start(self):
        connected = asyncio.get_running_loop().create_future()
        self.server = await asyncio.start_server(lambda r, w: connected.set_result(w), self.host, AGENT_PORT)
        agent = AGENT.replace("HOST", self.host).replace("AGENT_PORT", str(AGENT_PORT)).replace("MARK_PORT", str(MARK_PORT))
        script = f"cat > /tmp/agent <<'END'\n{agent}\nEND\nsetsid bash /tmp/agent >/dev/null 2>&1 </dev/null &"
        await asyncio.to_thread(self.shell, script)
        self.writer = await asyncio.wait_for(connected, 20)
        self.vm_mac = bytes.fromhex(self.shell("cat /sys/class/net/eth0/address").strip().replace(":", ""))
        self.own_mac = bytes.fromhex(Path(f"/sys/class/net/{self.tap}/address").read_text().strip().replace(":", ""))
        asyncio.get_running_loop().add_reader(self.capture, self.read_frames)
        await self.command(
            "sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
            " net.ipv4.conf.all.send_redirects=0 net.ipv6.conf.default.disable_ipv6=1;"
            f" ip route add 192.0.2.0/24 via {self.host}"
        )

    async def command(self, text):
        """Runs one line in the VM. Returns the times between which it ran."""
        self.next_id += 1
        number = self.next_id
        entry = self.commands[number] = {"done": asyncio.get_running_loop().create_future()}
        self.writer.write(f"{number} {text}\n".encode())
        status = await asyncio.wait_for(entry["done"], 60)
        if not status.startswith("0"):
            raise RuntimeError(f"in the VM: {text}: {status}")
        return entry["begin"], entry["end"]

    def inject(self, packet):
        self.injector.send(self.vm_mac + self.own_mac + struct.pack(">H", ETH_P_IP) + packet)

    def read_frames(self):
        while True:
            try:
                frame, extra, _, _ = self.capture.recvmsg(2048, 128)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
            if len(frame) >= 34 and struct.unpack_from(">H", frame, 12)[0] == ETH_P_IP:
                size = struct.unpack_from(">H", frame, 16)[0]
                self.take(seconds + nanoseconds / 1e9, frame[14 : 14 + size])

    def take(self, when, packet):
        source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        size, protocol = len(packet), packet[9]
        if source.startswith("192.0.2."):
            self.note(int(source.split(".")[3]), Frame(when, "tun-send", size))
        elif target.startswith("192.0.2."):
            kind = "unreachable" if protocol == ICMP else "tun-recv"
            self.note(int(target.split(".")[3]), Frame(when, kind, size))
        elif protocol == UDP:
            sport, dport = struct.unpack_from(">HH", packet, 20)
            payload = packet[28:]
            if dport == MARK_PORT:
                self.mark(when, payload.decode().strip())
            elif source == self.address and NODE_PORT < sport < NODE_PORT + 256:
                self.note(sport - NODE_PORT, Frame(when, "tx", len(payload), payload, dport))
            elif source == self.host and NODE_PORT < dport < NODE_PORT + 256:
                self.note(dport - NODE_PORT, Frame(when, "rx", len(payload), payload, sport))

    def mark(self, when, text):
        what, number, *rest = text.split(" ", 2)
        entry = self.commands[int(number)]
        entry[what] = when
        if what == "end":
            entry["done"].set_result(" ".join(rest))

    def note(self, number, frame):
        if number in self.runs:
            self.runs[number].frames.append(frame)


class Run:
    """One scenario under way. Times are seconds from the moment at which the node's interface came up."""

    def __init__(self, vm, number, scenario):
        self.vm, self.number, self.scenario = vm, number, scenario
        self.name, self.interface = scenario.name, f"wg{number}"
        self.frames, self.changes, self.sessions, self.initiated = [], [], [], []
        self.zero = None
        self.node_key = secret(self.name, "node")
        self.peer = wgpeer.Peer(secret(self.name, "peer"), wgpeer.public_key(self.node_key))
        self.psks = {"none": wgpeer.NO_PSK, "a": secret(self.name, "a"), "b": secret(self.name, "b")}
        self.answering = scenario.answering  # whether the peer answers initiations by itself
        self.session = None  # the newest
        self.inbox = {kind: asyncio.Queue() for kind in wgpeer.TYPE_NAMES}
        self.sockets = []
        for extra in range(scenario.ports):
            end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            end.bind((vm.host, PEER_PORT + number + 1000 * extra))
            end.setblocking(False)
            asyncio.get_running_loop().add_reader(end, self.read, end)
            self.sockets.append(end)
        vm.runs[number] = self

    # What the node is given.

    async def prepare(self):
        """Makes the interface, all but up."""
        i, n = self.interface, self.number
        endpoint = f"endpoint {self.vm.host}:{PEER_PORT + n}" if self.scenario.endpoint else ""
        keepalive = f"persistent-keepalive {self.scenario.keepalive}" if self.scenario.keepalive else ""
        await self.vm.command(
            f"set -e; echo {base64(self.node_key)} >/tmp/{i}.key; echo {base64(self.psks['a'])} >/tmp/{i}.a;"
            f" echo {base64(self.psks['b'])} >/tmp/{i}.b; echo {base64(secret(self.name, 'other'))} >/tmp/{i}.other;"
            f" ip link add {i} type wireguard; ip link set {i} mtu 1420;"
            f" wg set {i} private-key /tmp/{i}.key listen-port {NODE_PORT + n}"
            f" peer {base64(self.peer.public)} {endpoint} allowed-ips 10.9.{n}.0/24 {keepalive}; set +e"
        )

    async def change(self, text, command):
        begin, end = await self.vm.command(command)
        self.changes.append((begin, end, text))
        return end

    async def link_up(self):
        i = self.interface
        return await self.change("link up", f"ip link set {i} up && ip route add 10.9.{self.number}.0/24 dev {i}")

    async def link_down(self):
        await self.change("link down", f"ip link set {self.interface} down")

    async def set_keepalive(self, seconds):
        command = f"wg set {self.interface} peer {base64(self.peer.public)} persistent-keepalive {seconds}"
        await self.change(f"config peer-keepalive={seconds}", command)

    async def set_psk(self, name):
        command = f"wg set {self.interface} peer {base64(self.peer.public)} preshared-key /tmp/{self.interface}.{name}"
        await self.change(f"config psk={name}", command)

    async def set_other_key(self):
        """Gives the node another private key, and tells the peer of it."""
        await self.change("config private-key=other", f"wg set {self.interface} private-key /tmp/{self.interface}.other")
        self.peer.their_public = wgpeer.public_key(secret(self.name, "other"))

    def tun_send(self, size=84):
        """Hands the node's interface an inner packet."""
        self.vm.inject(ipv4(f"192.0.2.{self.number}", f"10.9.{self.number}.1", size))

    def send(self, datagram, port=1):
        """Sends a datagram to the node from the peer's n-th port."""
        self.sockets[port - 1].sendto(datagram, (self.vm.address, NODE_PORT + self.number))
        return datagram

    # What the peer does.

    def data(self, size=84, session=None, port=1, counter=None):
        """A data message with an inner packet, on the newest session unless told otherwise. Returns the datagram."""
        inner = ipv4(f"10.9.{self.number}.1", f"192.0.2.{self.number}", size)
        return self.send((session or self.session).data(inner, counter), port)

    def keepalive(self, session=None, port=1):
        return self.send((session or self.session).data(), port)

    def respond(self, datagram, psk="none", port=1):
        """Answers an initiation of the node."""
        session, response = self.peer.respond(self.peer.read_initiation(datagram), self.psks[psk])
        self.adopt(session, psk)
        self.send(response, port)
        return session

    def adopt(self, session, psk):
        session.psk = psk
        self.sessions.append(session)
        self.session = session
        return session

    def make_initiation(self):
        """An initiation to send, and the state with which to read its response."""
        state, initiation = self.peer.initiate()
        self.initiated.append(state.index)
        return state, initiation

    async def complete(self, state, psk="none"):
        """Waits for the node's response; the session is the newest from then on."""
        response = await self.receive(wgpeer.RESPONSE)
        return self.adopt(self.peer.read_response(state, response, self.psks[psk]), psk)

    async def initiate(self, confirm=True, psk="none", port=1):
        """A whole handshake begun by the peer; without `confirm` the peer then sends nothing on the session."""
        state, initiation = self.make_initiation()
        self.send(initiation, port)
        session = await self.complete(state, psk)
        if confirm:
            self.keepalive(session, port)
        return session

    async def receive(self, kind, timeout=30):
        return await asyncio.wait_for(self.inbox[kind].get(), timeout)

    def read(self, end):
        datagram = end.recv(2048)
        kind = wgpeer.message_type(datagram)
        if kind == wgpeer.INITIATION and self.answering:
            self.respond(datagram)
        elif kind:
            self.inbox[kind].put_nowait(datagram)

    # Time.

    async def at(self, seconds):
        await asyncio.sleep(max(0, self.zero + seconds - time.time()))

    async def every(self, step, start, stop, action):
        """Does something at start, start + step and so on, before stop."""
        moment = start
        while moment < stop:
            await self.at(moment)
            action()
            moment += step

    async def play(self):
        self.zero = await self.link_up()
        await self.scenario.script(self)


async def clock_offset(vm):
    best = None
    for _ in range(10):
        name = f"clock-{vm.next_id}."
        begin, end = await vm.command(f"echo {name} >/dev/kmsg")
        if best is None or end - begin < best[1] - best[0]:
            best = begin, end, name
    stamp = re.search(rf"\[ *([0-9.]+)\] {re.escape(best[2])}", vm.shell("dmesg"))
    return (best[0] + best[1]) / 2 - float(stamp[1])


async def record(options, scenarios):
    vm = Vm(options.tap, options.host, options.vm)
    await vm.start()
    kernel = re.search(r"Linux version (\S+).*(Debian \S+)", vm.shell("cat /proc/version"))
    kernel = f"Linux {kernel[1]} ({kernel[2]}), x86-64, HZ={options.hz}, emulated CPU"
    runs = [Run(vm, number, scenario) for number, scenario in enumerate(scenarios, 1)]
    for run in runs:
        await run.prepare()
    offset = await clock_offset(vm)

    failed = []

    async def one(run):
        await asyncio.sleep(START_GAP * run.number)
        try:
            await run.play()
        except Exception as error:
            failed.append(run.name)
            print(f"{run.name}: {error!r}", file=sys.stderr)
        if run.changes:
            text = await asyncio.to_thread(vm.shell, f"dmesg | grep ' {run.interface}:' || true")
            trace_file.write(run, kernel, text, offset, options.out, run.name in failed)
            print(f"{run.name}: {len(run.frames)} packets", flush=True)

    await asyncio.gather(*(one(run) for run in runs))
    drift = await clock_offset(vm) - offset
    print(f"clock drift between host and VM: {drift * 1000:.1f} ms")
    return 1 if failed else 0


def main():
    import scenarios

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tap", "host", "vm", "hz", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    unknown = set(options.names) - set(scenarios.ALL)
    if unknown:
        parser.error(f"no such scenario: {' '.join(sorted(unknown))}; there are: {' '.join(scenarios.ALL)}")
    chosen = [scenarios.ALL[name] for name in options.names or scenarios.ALL]
    return asyncio.run(record(options, chosen))


if __name__ == "__main__":
    sys.exit(main())
