"""Records what the kernel's WireGuard answers to packets that it cannot send; record.sh starts it.

The packets come from the TAP and are routed into an interface that has no peer for them, or one without an endpoint. What
the kernel makes of them on their way is one less in the TTL or hop limit; a packet is written as it enters the interface.
What a host would not forward (multicast, broadcast, no source) is sent by the VM itself, and only whether it is answered is
written: that is what the kernel counts.
"""

import argparse
import re
import socket
import struct
import sys
import time
from pathlib import Path

from record import ETH_P_IP, ETH_P_IPV6, HOST6, Vm

UDP, TCP, ICMP, ICMPV6 = 17, 6, 1, 58
ROUTING, FRAGMENT, AUTHENTICATION, NO_NEXT, DESTINATION = 43, 44, 51, 59, 60
SOURCE4, NO_PEER4, NO_ENDPOINT4 = "192.0.2.1", "10.8.9.9", "10.8.0.2"
SOURCE6, NO_PEER6, NO_ENDPOINT6 = "2001:db8::1", "fd08:9::9", "fd08::2"
WAIT = 3  # seconds for an answer of an emulated machine


def checksum(data):
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pattern(size):
    return bytes(i * 7 & 0xFF for i in range(size))


def ipv4(protocol, payload, target=NO_PEER4, source=SOURCE4, tos=0, ident=0x1234, flags=0, options=b"", ttl=63):
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, 20 + len(options) + len(payload), ident, flags, ttl, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(target),
    ) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(following, payload, target=NO_PEER6, source=SOURCE6, tos=0, label=0, hops=63):
    return struct.pack(
        ">IHBB16s16s", 6 << 28 | tos << 20 | label, len(payload), following, hops,
        socket.inet_pton(socket.AF_INET6, source), socket.inet_pton(socket.AF_INET6, target),
    ) + payload


def udp(size=32):
    """A header with a wrong checksum, which is not looked at."""
    return struct.pack(">HHHH", 9, 9, 8 + size, 0xABCD) + pattern(size)


def icmp(kind, code=0, size=32):
    return struct.pack(">BBHI", kind, code, 0xABCD, 0) + pattern(size)


TCP_SYN = struct.pack(">HHIIBBHHH", 9, 80, 1, 0, 0x50, 2, 1000, 0xABCD, 0)


def cases():
    """Names and packets as they enter the interface."""
    yield "IPv4 UDP", ipv4(UDP, udp())
    yield "IPv4 UDP, peer without endpoint", ipv4(UDP, udp(), NO_ENDPOINT4)
    yield "IPv4 TCP", ipv4(TCP, TCP_SYN)
    yield "IPv4 unknown protocol", ipv4(253, pattern(8))
    yield "IPv4 no payload", ipv4(253, b"")
    for tos in (0x01, 0x02, 0x03, 0x1C, 0x88, 0xB8, 0xFF):
        yield f"IPv4 TOS {tos:#04x}", ipv4(UDP, udp(), tos=tos)
    for size in (511, 512, 513, 519, 520, 521, 1392):
        yield f"IPv4 {20 + 8 + size} bytes", ipv4(UDP, udp(size))
    yield "IPv4 don't fragment", ipv4(UDP, udp(), flags=0x4000)
    yield "IPv4 first fragment", ipv4(UDP, udp(), flags=0x2000)
    yield "IPv4 later fragment", ipv4(UDP, udp(), flags=0x2001)
    yield "IPv4 last fragment", ipv4(UDP, udp(), flags=0x0004)
    yield "IPv4 options that do nothing", ipv4(UDP, udp(), options=bytes([1, 1, 1, 0]))
    yield "IPv4 options that do nothing, 600 bytes", ipv4(UDP, udp(568), options=bytes([1, 1, 1, 0]))
    yield "IPv4 unknown option", ipv4(UDP, udp(), options=bytes([0x9E, 4, 7, 7]))
    for kind in (*range(45), 255):
        yield f"IPv4 ICMP type {kind}", ipv4(ICMP, icmp(kind))
    yield "IPv4 ICMP cut before its type", ipv4(ICMP, b"")
    yield "IPv4 ICMP of one byte, a request", ipv4(ICMP, b"\x08")
    yield "IPv4 ICMP of one byte, an error", ipv4(ICMP, b"\x03")
    yield "IPv4 ICMP error behind options", ipv4(ICMP, icmp(3), options=bytes([1, 1, 1, 0]))
    yield "IPv4 ICMP request behind options", ipv4(ICMP, icmp(8), options=bytes([1, 1, 1, 0]))
    yield "IPv4 ICMP error in a first fragment", ipv4(ICMP, icmp(3), flags=0x2000)

    yield "IPv6 UDP", ipv6(UDP, udp())
    yield "IPv6 UDP, peer without endpoint", ipv6(UDP, udp(), NO_ENDPOINT6)
    yield "IPv6 TCP", ipv6(TCP, TCP_SYN)
    yield "IPv6 unknown protocol", ipv6(253, pattern(8))
    yield "IPv6 no next header", ipv6(NO_NEXT, b"")
    yield "IPv6 UDP without payload", ipv6(UDP, b"")
    for tos in (0x01, 0x03, 0xB8, 0xFF):
        yield f"IPv6 traffic class {tos:#04x}", ipv6(UDP, udp(), tos=tos)
    yield "IPv6 flow label", ipv6(UDP, udp(), label=0x12345)
    for size in (1183, 1184, 1185, 1191, 1192, 1193, 1350):
        yield f"IPv6 {40 + 8 + size} bytes", ipv6(UDP, udp(size))
    for kind in (0, 1, 2, 3, 4, 5, 99, 100, 101, 127, 128, 129, 130, 133, 134, 135, 136, 137, 138, 143, 160, 200, 255):
        yield f"IPv6 ICMP type {kind}", ipv6(ICMPV6, icmp(kind))
    yield "IPv6 ICMP cut before its type", ipv6(ICMPV6, b"")
    yield "IPv6 ICMP of one byte, a request", ipv6(ICMPV6, b"\x80")
    yield "IPv6 ICMP of one byte, an error", ipv6(ICMPV6, b"\x01")
    for name, offset in (("first", 0x0001), ("whole", 0x0000), ("second", 0x0009), ("last", 0x0008)):
        for inside, following, payload in (("UDP", UDP, udp()), ("ICMP error", ICMPV6, icmp(1)), ("ICMP request", ICMPV6, icmp(128))):
            yield f"IPv6 {name} fragment of {inside}", ipv6(FRAGMENT, struct.pack(">BBHI", following, 0, offset, 7) + payload)
    padding = bytes([1, 4, 0, 0, 0, 0])
    for name, kind in (("destination options", DESTINATION), ("routing header", ROUTING), ("authentication header", AUTHENTICATION)):
        head = {
            DESTINATION: lambda n: bytes([n, 0]) + padding,
            ROUTING: lambda n: bytes([n, 0, 4, 0, 0, 0, 0, 0]),
            AUTHENTICATION: lambda n: bytes([n, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]),
        }[kind]
        for inside, following, payload in (("UDP", UDP, udp()), ("ICMP error", ICMPV6, icmp(1)), ("ICMP request", ICMPV6, icmp(128))):
            yield f"IPv6 {inside} behind {name}", ipv6(kind, head(following) + payload)
        yield f"IPv6 {name} cut", ipv6(kind, head(UDP)[:3])
        yield f"IPv6 {name} longer than the packet", ipv6(kind, bytes([UDP, 9]) + pattern(6))
    yield "IPv6 ICMP error behind two headers", ipv6(
        DESTINATION, bytes([ROUTING, 0]) + padding + bytes([ICMPV6, 0, 4, 0, 0, 0, 0, 0]) + icmp(1)
    )


# What no router forwards: a command in the VM, and the packet's ends.
LOCAL = [
    ("ping -c 1 -W 1 10.8.9.9", "10.8.0.1", "10.8.9.9"),
    ("ping -c 1 -W 1 10.8.0.2", "10.8.0.1", "10.8.0.2"),
    ("ping -c 1 -W 1 -b 10.8.255.255", "10.8.0.1", "10.8.255.255"),
    ("ping -c 1 -W 1 -b -I wgu 255.255.255.255", "10.8.0.1", "255.255.255.255"),
    ("ping -c 1 -W 1 -I wgu 224.0.0.9", "10.8.0.1", "224.0.0.9"),
    ("ping -c 1 -W 1 -I wgu 240.0.0.9", "10.8.0.1", "240.0.0.9"),
    ("ping -6 -c 1 -W 1 fd08:9::9", "fd08::1", "fd08:9::9"),
    ("ping -6 -c 1 -W 1 fd08::2", "fd08::1", "fd08::2"),
    ("ping -6 -c 1 -W 1 ff02::9%wgu", "fe80::8", "ff02::9"),
    ("ping -6 -c 1 -W 1 -I wgu ff0e::9", "fd08::1", "ff0e::9"),
    ("ping -6 -c 1 -W 1 fe80::9%wgu", "fe80::8", "fe80::9"),
]


class Recorder:
    def __init__(self, vm):
        self.vm = vm
        vm.vm_mac = bytes.fromhex(vm.shell("cat /sys/class/net/eth0/address").strip().replace(":", ""))
        vm.own_mac = bytes.fromhex(Path(f"/sys/class/net/{vm.tap}/address").read_text().strip().replace(":", ""))
        vm.shell(
            "set -e; sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0"
            " net.ipv4.conf.eth0.rp_filter=0 net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=10000 net.ipv6.icmp.ratelimit=0 net.ipv6.conf.default.disable_ipv6=0;"
            " ip link add wgu type wireguard; umask 077; wg genkey > /tmp/u; wg genkey | wg pubkey > /tmp/p;"
            " wg set wgu private-key /tmp/u peer $(cat /tmp/p) allowed-ips 10.8.0.2/32,fd08::2/128;"
            " ip addr add 10.8.0.1/16 brd 10.8.255.255 dev wgu; ip -6 addr add fd08::1/16 dev wgu;"
            " ip -6 addr add fe80::8/64 dev wgu; ip link set wgu up;"
            f" ip route add 192.0.2.0/24 via {vm.host}; ip -6 route add 2001:db8::/32 via {HOST6};"
            f" ping -c 1 -W 2 {vm.host} >/dev/null; ping -6 -c 3 -W 2 {HOST6} >/dev/null"
        )

    def inject(self, packet):
        """Sends it as it is one hop before the interface."""
        before = bytearray(packet)
        if packet[0] >> 4 == 4:
            before[8] += 1
            before[10:12] = bytes(2)
            before[10:12] = struct.pack(">H", checksum(bytes(before[: 4 * (packet[0] & 15)])))
            kind = ETH_P_IP
        else:
            before[7] += 1
            kind = ETH_P_IPV6
        self.vm.injector.send(self.vm.vm_mac + self.vm.own_mac + struct.pack(">H", kind) + bytes(before))

    def answers(self, until):
        """ICMP messages from the VM to the sources of the packets, up to the first one that `until` holds for."""
        end, found = time.monotonic() + WAIT, []
        self.vm.capture.setblocking(True)
        while time.monotonic() < end:
            self.vm.capture.settimeout(max(0.01, end - time.monotonic()))
            try:
                frame = self.vm.capture.recv(4096)
            except TimeoutError:
                break
            if frame[:6] != self.vm.own_mac:
                continue
            packet = frame[14:]
            if packet[0] >> 4 == 4 and packet[9] == ICMP and packet[16:20] == socket.inet_aton(SOURCE4):
                packet = packet[: struct.unpack_from(">H", packet, 2)[0]]
            elif packet[0] >> 4 == 6 and packet[6] == ICMPV6 and packet[24:40] == socket.inet_pton(socket.AF_INET6, SOURCE6):
                packet = packet[: 40 + struct.unpack_from(">H", packet, 4)[0]]
            else:
                continue
            found.append(packet)
            if until(packet):
                break
        return found

    def exchange(self, packet):
        """The answer to a packet, or None: behind it comes another one, whose answer is known."""
        marker = ipv4(UDP, udp(8), ident=0x4D4D) if packet[0] >> 4 == 4 else ipv6(UDP, udp(8), label=0x4D4D4)
        quoted = lambda answer: answer[28:] if answer[0] >> 4 == 4 else answer[48:]
        self.inject(packet)
        self.inject(marker)
        answers = self.answers(lambda answer: quoted(answer) == marker)
        if not answers or quoted(answers[-1]) != marker:
            raise RuntimeError(f"no answer to the marker behind {packet.hex()}")
        return answers[0] if len(answers) > 1 else None

    def counts(self):
        text = self.vm.shell("grep ^Icmp: /proc/net/snmp; grep OutDestUnreachs /proc/net/snmp6")
        names, values = (line.split() for line in text.splitlines() if line.startswith("Icmp:"))
        return int(dict(zip(names, values))["OutDestUnreachs"]), int(re.search(r"Icmp6OutDestUnreachs\s+(\d+)", text)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tap", "host", "vm", "out"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    vm = Vm(options.tap, options.host, options.vm)
    recorder = Recorder(vm)
    version = re.search(r"Linux version (\S+).*(Debian \S+)", vm.shell("cat /proc/version"))
    lines = [
        "# What the kernel's WireGuard answers to packets that it cannot send. tests/vectors/unreachable/README.md says how to read it.",
        f"# Linux {version[1]} ({version[2]}), x86-64",
        "# made by: tests/kernel/record.sh unreachable",
    ]
    for name, packet in cases():
        answer = recorder.exchange(packet)
        lines += ["", f"case {name}", f"packet {packet.hex()}", f"answer {answer.hex()}" if answer else "silence"]
    lines.append("")
    for command, source, target in LOCAL:
        before = recorder.counts()
        vm.shell(f"{command} || true")
        after = recorder.counts()
        family = ":" in target
        lines.append(f"ping {source} {target} {'answered' if after[family] > before[family] else 'silence'}")
    Path(options.out).mkdir(exist_ok=True)
    (Path(options.out) / "kernel.txt").write_text("\n".join(lines) + "\n")
    print(f"unreachable: {sum(1 for _ in cases())} packets")


if __name__ == "__main__":
    sys.exit(main())
