"""A daemon with two uplinks, the kernel at the other end: the way to the peer moves, and the tunnel with it.

Each uplink's network drops what has another's source address, as providers do, so that packets from an old source
address do not arrive.
"""

import contextlib

from lab import run, wait_until
from node import Daemon, Kernel, Netns, Vm, join
from report import Failed, expect

PEER = {4: "198.18.0.2/32", 6: "fd00:18::2/128"}
LIMIT = 60  # seconds; bounds a hang
MARK = 7  # of the daemon's sockets
# Pings without an answer, of a second each, once the change is made: the daemon hears of it within a tenth of one.
LOST = 1
# The system announces a route that has expired only when it collects it, up to half a minute later: docs/adr/0008.
EXPIRES = "the route expires"


class Uplinks:
    """A namespace with two links, `up1` and `up2`, to the one that has the VM."""

    def __init__(self, lab):
        self.lab, self.router = lab, lab.netns_with_vm()
        self.name = lab.netns()
        self.vm = Vm(lab, self.router)
        for n in (1, 2):
            run(["ip", "link", "add", f"up{n}", "netns", self.name, "type", "veth", "peer", "name", f"down{n}", "netns", self.router])
            for netns, link, end in ((self.name, f"up{n}", 1), (self.router, f"down{n}", 254)):
                run(["ip", "-n", netns, "addr", "add", f"{self.address(n, 4, end)}/24", "dev", link])
                run(["ip", "-n", netns, "-6", "addr", "add", f"{self.address(n, 6, end)}/64", "dev", link, "nodad"])
                run(["ip", "-n", netns, "link", "set", link, "up"])
        self.place = Netns(lab, self.name, self.address(1, 4), self.address(1, 6))
        rules = "; ".join(
            f"add rule inet uplinks prerouting iif down{n} {ip} saddr != {{ {self.network(n, family)}{local} }} drop"
            for n in (1, 2)
            for family, ip, local in ((4, "ip", ""), (6, "ip6", ", fe80::/10"))
        )
        chain = "add chain inet uplinks prerouting { type filter hook prerouting priority 0; }"
        Netns(lab, self.router, "", "").shell(
            "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1;"
            f" nft 'add table inet uplinks; {chain}; {rules}'"
        )
        self.vm.shell("".join(
            f"ip route add {self.network(n, 4)} via 198.18.0.1; ip -6 route add {self.network(n, 6)} via fd00:18::1;" for n in (1, 2)
        ))

    @staticmethod
    def address(n, family, end=1):
        return f"198.18.{10 + n}.{end}" if family == 4 else f"fd00:{n}::{end}"

    @staticmethod
    def network(n, family):
        return f"198.18.{10 + n}.0/24" if family == 4 else f"fd00:{n}::/64"

    def ip(self, family, text):
        return self.place.shell(f"ip -{family} {text}")

    def by(self, n, family):
        return f"{PEER[family]} via {self.address(n, family, 254)} dev up{n}"


# What moves the way from the first uplink to the second, what is made before for that, and what undoes it.
def moves(links, family):
    one, two = links.by(1, family), links.by(2, family)
    host = PEER[family].split("/")[0]
    default = f"default via {links.address(2, family, 254)} dev up2"
    address = f"{links.address(1, family)}/{24 if family == 4 else 64} dev up1"
    return [
        ("the route is replaced", [f"route add {one}"], [f"route replace {two}"], [f"route del {PEER[family]}"]),
        (
            "a better metric", [f"route add {one} metric 50"],
            [f"route add {two} metric 10"], [f"route flush {PEER[family]}"],
        ),
        (
            "a rule", [f"route add {one}", f"route add {default} table 77"],
            [f"rule add to {host} table 77"], [f"rule del to {host} table 77", "route flush table 77", f"route flush {PEER[family]}"],
        ),
        (
            "a rule by mark", [f"route add {one}", f"route add {default} table 77"],
            [f"rule add fwmark {MARK} table 77"],
            [f"rule del fwmark {MARK} table 77", "route flush table 77", f"route flush {PEER[family]}"],
        ),
        (
            "the address is removed", [f"route add {one} metric 50", f"route add {two} metric 90"],
            # The route over IPv4 goes with the address.
            [f"addr del {address}", *([f"route del {one} metric 50"] if family == 6 else [])],
            [f"addr add {address}", f"route flush {PEER[family]}"],
        ),
        *([] if family == 4 else [(
            EXPIRES, [f"route add {one} metric 50 expires 6", f"route add {two} metric 90"],
            [], [f"route flush {PEER[family]}"],
        )]),
    ]


def heard_from(links, ours, theirs, family, n):
    return theirs.peer(ours).endpoint.rpartition(":")[0].strip("[]") == links.address(n, family)


@contextlib.contextmanager
def moved(links, ours, theirs, family, before, change, after):
    """The first uplink was in use, and the way to the peer has moved to the second."""
    try:
        for line in before:
            links.ip(family, line)
        ours.set_peer(theirs, f"endpoint {theirs.endpoint(family)}")
        in_use = lambda: ours.reaches(theirs) and heard_from(links, ours, theirs, family, 1)
        wait_until(in_use, LIMIT, "the first uplink is in use")
        for line in change:
            links.ip(family, line)
        by_second = lambda: "dev up2" in links.ip(family, f"route get {PEER[family].split('/')[0]} mark {MARK}")
        wait_until(by_second, LIMIT, "the way has moved")
        yield
    finally:
        for line in after:
            links.place.shell(f"ip -{family} {line}", check=False)


def followed(links, ours, theirs, family, *steps):
    """Returns how many pings got no answer from when the way had moved."""
    lost = 0
    with moved(links, ours, theirs, family, *steps):
        while not ours.reaches(theirs):
            lost += 1
            expect(lost < LIMIT, f"{lost} pings were lost")
        expect(heard_from(links, ours, theirs, family, 2), f"the kernel has {theirs.peer(ours).endpoint}")
    return lost


def failover(lab, t):
    links = Uplinks(lab)
    for program in ("daemon", *(name for name in lab.settings.peers if name == "wireguard-go")):
        ours, theirs = Daemon(lab, links.place, program), Kernel(links.vm)
        links.ip(4, f"route replace {links.by(1, 4)}")
        join(ours, theirs)
        ours.set(f"fwmark {MARK}")
        with t.check(f"{program}: the first pings", vital=True):
            ours.expect_pings(theirs)
        links.ip(4, f"route flush {PEER[4]}")
        for family in (4, 6):
            for name, *steps in moves(links, family):
                if program == "daemon":
                    with t.check(f"IPv{family}: {name}") as note:
                        lost = followed(links, ours, theirs, family, *steps)
                        note.text = f"{lost} lost"
                        expect(lost <= (LOST if name != EXPIRES else LIMIT), note.text)
                else:
                    # For comparison only.
                    try:
                        what = f"{followed(links, ours, theirs, family, *steps)} lost"
                    except Failed as failed:
                        what = str(failed)
                    t.report.remark(f"{t.scenario}: {program}, IPv{family}: {name}: {what}")
            if program == "daemon":
                with t.check(f"IPv{family}: the default route is replaced, keepalives alone"):
                    ours.set_peer(theirs, "persistent-keepalive 1")
                    first, second = (f"default via {links.address(n, family, 254)} dev up{n}" for n in (1, 2))
                    steps = [f"route add {first}"], [f"route replace {second}"], ["route del default"]
                    with moved(links, ours, theirs, family, *steps):
                        wait_until(lambda: heard_from(links, ours, theirs, family, 2), LIMIT, "a keepalive from the second uplink")
                    ours.set_peer(theirs, "persistent-keepalive 0")
        ours.kill()
