"""Our daemon against the kernel's WireGuard, which also tells in its log what it thinks of our packets."""

import time

import routes
import suspend
from common import PSK, all_combinations, watch_rekey
from lab import wait_until
from node import Daemon, Kernel, Netns, Vm, attach, join, tunnels
from report import expect
from scenario import Scenario
from traffic import COOKIE, INITIATION, RESPONSE, Capture, Flood, megabits, transfer

HOST4, HOST6 = "198.18.0.1", "fd00:18::1"
FLOODER = "198.18.0.9"
# A UDP port that takes everything and answers nothing.
LISTEN = "python3 -c 'import socket, sys, time; s = socket.socket(2, 2); s.bind((sys.argv[1], 9)); time.sleep(30)'"


def places(lab, own_vm):
    """A namespace with a VM on its TAP. One is shared by all scenarios that change nothing outside their interfaces."""
    netns = lab.netns_with_vm() if own_vm else lab.settings.shared.netns_with_vm()
    return Netns(lab, netns, HOST4, HOST6), Vm(lab, netns)


def pair(lab, own_vm=False, **more):
    """The usual start: one tunnel between a daemon and the kernel."""
    host, vm = places(lab, own_vm)
    ours, theirs = Daemon(lab, host), Kernel(vm)
    join(ours, theirs, **more)
    return ours, theirs


def basics(lab, t):
    host, vm = places(lab, own_vm=False)
    all_combinations(t, lambda: (Daemon(lab, host), Kernel(vm)))
    ours, theirs = Daemon(lab, host), Kernel(vm)
    join(ours, theirs, psk=PSK)
    with t.check("another psk: no tunnel, and a tunnel when it is corrected"):
        other = ours.file("psk", "AAAAcws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=")
        ours.set_peer(theirs, f"preshared-key {other}")
        expect(ours.ping(theirs, count=1, more="-W 2") == 0, "a ping was answered")
        theirs.expect_said("Receiving handshake initiation")
        expect(ours.peer(theirs).handshake == 0, "a handshake was completed")
        ours.set_peer(theirs, f"preshared-key {ours.file('psk', PSK)}")
        ours.wait_for_handshake(theirs, 8)
        ours.expect_pings(theirs)


def keepalive(lab, t):
    ours, theirs = pair(lab)
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)
    heard = lambda: sum("Receiving keepalive packet" in line for line in theirs.said())
    with t.check("ours, persistent: the kernel receives one every 2 s") as note:
        before = heard()
        ours.set_peer(theirs, "persistent-keepalive 2")
        time.sleep(11)
        ours.set_peer(theirs, "persistent-keepalive 0")
        # One at once, and by 10 s five more; the kernel answers none.
        note.text = f"{heard() - before} in 11 s"
        expect(5 <= heard() - before <= 7, f"{heard() - before} in 11 s")
    with t.check("theirs, persistent: ours counts 32 bytes each and answers none"):
        before = ours.peer(theirs)
        theirs.set_peer(ours, "persistent-keepalive 2")
        time.sleep(11)
        theirs.set_peer(ours, "persistent-keepalive 0")
        after = ours.peer(theirs)
        keepalives, rest = divmod(after.received - before.received, 32)
        expect(rest == 0 and 4 <= keepalives <= 7, f"{after.received - before.received} bytes received")
        expect(after.sent == before.sent, f"{after.sent - before.sent} bytes sent")
    with t.check("passive: ours answers lone data with a keepalive after 10 s") as note:
        # The sender then has no reason to think that we are gone, which it would after 15 s. Somebody listens, lest a
        # refusal goes back.
        ours.place.background(f"exec {LISTEN} {ours.inner[4]}")
        time.sleep(1)
        before, start = heard(), time.monotonic()
        theirs.shell(f"echo lone > /dev/udp/{ours.inner[4]}/9")
        wait_until(lambda: heard() > before, 14, "a keepalive")
        note.text = f"{time.monotonic() - start:.1f} s"
        expect(time.monotonic() - start > 9, note.text)
    with t.check("the kernel's log"):
        theirs.expect_no_refusals()
        expect(not any("stopped hearing" in line for line in theirs.said()), "the kernel missed us")


def roaming(lab, t):
    ours, theirs = pair(lab, own_vm=True)
    host, vm = ours.place, theirs.place
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)
    session = theirs.peer(ours).handshake
    with t.check("our port changes: the kernel follows, the session stays"):
        ours.port += 500
        ours.set(f"listen-port {ours.port}")
        ours.expect_pings(theirs)
        expect(theirs.peer(ours).endpoint == ours.endpoint(4), f"the kernel has {theirs.peer(ours).endpoint}")
        theirs.expect_pings(ours)
    with t.check("the kernel's port changes: ours follows"):
        theirs.port += 500
        theirs.set(f"listen-port {theirs.port}")
        theirs.expect_pings(ours)
        expect(ours.peer(theirs).endpoint == theirs.endpoint(4), f"ours has {ours.peer(theirs).endpoint}")
        ours.expect_pings(theirs)
    # Other addresses than those by which the VM is commanded.
    host.shell("ip addr add 198.18.1.1/24 dev tap0")
    vm.shell("ip addr add 198.18.1.2/24 dev eth0")
    with t.check("an endpoint is set: ours uses it, the kernel follows"):
        ours.set_peer(theirs, f"endpoint 198.18.1.2:{theirs.port}")
        ours.expect_pings(theirs)
        expect(theirs.peer(ours).endpoint == f"198.18.1.1:{ours.port}", f"the kernel has {theirs.peer(ours).endpoint}")
        theirs.expect_pings(ours)
    with t.check("the kernel's address is replaced: ours follows"):
        vm.shell("ip addr del 198.18.1.2/24 dev eth0; ip addr add 198.18.1.3/24 dev eth0")
        theirs.expect_pings(ours)
        expect(ours.peer(theirs).endpoint == f"198.18.1.3:{theirs.port}", f"ours has {ours.peer(theirs).endpoint}")
        ours.expect_pings(theirs)
    with t.check("our address is replaced: the kernel follows"):
        host.shell("ip addr del 198.18.1.1/24 dev tap0; ip addr add 198.18.1.7/24 dev tap0")
        ours.expect_pings(theirs)
        expect(theirs.peer(ours).endpoint == f"198.18.1.7:{ours.port}", f"the kernel has {theirs.peer(ours).endpoint}")
        theirs.expect_pings(ours)
    with t.check("from IPv4 to IPv6 outside"):
        host.shell(f"ping -6 -q -c 1 {vm.outer[6]}")  # so that the neighbour is known
        ours.set_peer(theirs, f"endpoint {theirs.endpoint(6)}")
        ours.expect_pings(theirs)
        expect(theirs.peer(ours).endpoint == ours.endpoint(6), f"the kernel has {theirs.peer(ours).endpoint}")
        theirs.expect_pings(ours)
    with t.check("all in one session, and the kernel's log"):
        expect(theirs.peer(ours).handshake == session, "there was a new handshake")
        theirs.expect_no_refusals()


def reconnect(first, second, seconds):
    """Pings until there is an answer. Returns the seconds it took."""
    return wait_until(lambda: first.reaches(second), seconds, f"an answer from {second.label} to {first.label}")[1]


def restarted_daemon(lab, t):
    ours, theirs = pair(lab)
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)

    def restart():
        ours.kill()
        ours.start()
        ours.configure(theirs.peer_section(endpoint=4))
        ours.up()

    with t.check("killed and started again, ours sends first: at once") as note:
        restart()
        took = reconnect(ours, theirs, 3)
        note.text = f"{took:.1f} s"
    with t.check("killed and started again, the kernel sends first: it gives the old session up") as note:
        restart()
        took = reconnect(theirs, ours, 25)
        note.text = f"{took:.1f} s"
        theirs.expect_said("stopped hearing back")
    with t.check("the kernel's log"):
        theirs.expect_no_refusals()


def restarted_kernel(lab, t):
    ours, theirs = pair(lab)
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)

    def restart():
        theirs.delete()
        theirs.create()
        theirs.configure(ours.peer_section(endpoint=4))
        theirs.up()

    with t.check("deleted and made again, the kernel sends first: at once") as note:
        restart()
        note.text = f"{reconnect(theirs, ours, 3):.1f} s"
    with t.check("deleted and made again, ours sends first: it gives the old session up after 15 s") as note:
        restart()
        took = reconnect(ours, theirs, 25)
        note.text = f"{took:.1f} s"
        expect(took > 10, f"after {took:.1f} s already")
    with t.check("the kernel's log"):
        theirs.expect_no_refusals()


def bad_network(lab, t):
    ours, theirs = pair(lab, own_vm=True)
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)
    with t.check("without impairment: 16 MB each way arrive whole") as note:
        there, back = transfer(ours, theirs, 16 << 20, 5001), transfer(theirs, ours, 16 << 20, 5002)
        note.text = f"{there:.0f} and {back:.0f} Mbit/s"
    with t.check("iperf3 both ways") as note:
        note.text = f"{megabits(ours, theirs):.0f} and {megabits(ours, theirs, reverse=True):.0f} Mbit/s"
    # What leaves the VM and what enters it, over a second interface for the latter.
    netem = "netem delay 10ms 5ms loss 1% reorder 25% duplicate 1%"
    theirs.shell(
        f"ip link set ifb0 up; tc qdisc add dev eth0 root {netem}; tc qdisc add dev ifb0 root {netem}; tc qdisc add dev eth0 ingress;"
        " tc filter add dev eth0 parent ffff: protocol all matchall action mirred egress redirect dev ifb0"
    )
    for family, port in ((4, 5003), (6, 5004)):
        with t.check(f"loss, delay, reordering and duplicates in both directions: 2 MB each way over IPv{family} arrive whole") as note:
            there = transfer(ours, theirs, 2 << 20, port, family)
            back = transfer(theirs, ours, 2 << 20, port + 10, family)
            note.text = f"{there:.1f} and {back:.1f} Mbit/s"
    with t.check("half of all round trips fail: a handshake still succeeds") as note:
        theirs.shell("for i in eth0 ifb0; do tc qdisc change dev $i root netem loss 30%; done")
        ours.kill()
        ours.start()
        ours.configure(theirs.peer_section(endpoint=4, keepalive=1))
        ours.up()
        note.text = f"{ours.wait_for_handshake(theirs, 45):.0f} s"
    theirs.shell("for i in eth0 ifb0; do tc qdisc del dev $i root; done; tc qdisc del dev eth0 ingress")
    with t.check("the kernel's log: nothing wrong but duplicates"):
        theirs.expect_no_refusals(besides="invalid nonce")


def handshake_story(datagrams, port, other):
    """What the end at `port` and the one at `other` said, in order: "initiation+" is one with mac2."""
    names = {INITIATION: "initiation", RESPONSE: "response", COOKIE: "cookie"}
    story = []
    for d in datagrams:
        if {d.source, d.target} == {port, other} and d.kind in names:
            who = "ours" if d.source == port else "theirs"
            story.append(f"{who} {names[d.kind]}{'+' if d.has_mac2 else ''}")
    return story


def expect_marks(datagrams, port):
    """The marks of what an end sent over IPv4: those of tests/vectors/traces, and 0 for cookie replies."""
    wanted = {INITIATION: 0x88, RESPONSE: 0x88, COOKIE: 0}
    for d in datagrams:
        if d.source == port and d.kind in wanted:
            expect(d.frame[15] == wanted[d.kind], f"type {d.kind} has TOS {d.frame[15]:#04x}")


def cookies_from_kernel(lab, t):
    ours, theirs = pair(lab, own_vm=True)
    ours.down()
    ours.place.shell(f"ip addr add {FLOODER}/24 dev tap0")
    capture = Capture(ours.place, "tap0")
    flood = Flood(ours.place, FLOODER, theirs, 900, 0.3)
    with t.check("the kernel under load is reached with mac2") as note:
        time.sleep(2)
        ours.up()
        ours.set_peer(theirs, "persistent-keepalive 25")
        took = ours.wait_for_handshake(theirs, 30)
        datagrams = capture.stop()
        story = handshake_story(datagrams, ours.port, theirs.port)
        note.text = f"{took:.1f} s: {', '.join(story)}"
        expect(flood.running(), f"the flood ended first: {note.text}")
        expect("theirs cookie" in story, f"the kernel sent no cookie reply: {story}")
        expect(story.index("theirs cookie") < story.index("ours initiation+"), f"no initiation with mac2: {story}")
        expect(story[story.index("ours initiation+") :][:2] == ["ours initiation+", "theirs response"], f"{story}")
    with t.check("the marks of both"):
        expect_marks(datagrams, ours.port)
        expect_marks(datagrams, theirs.port)
    with t.check("the flood gets cookie replies") as note:
        note.text = f"{flood.cookies()}"
        expect(int(note.text) > 0, "none")
    with t.check("pings afterwards, and the kernel's log"):
        ours.expect_pings(theirs)
        theirs.expect_no_refusals(source=f"{HOST4}:{ours.port}")


def cookies_from_us(lab, t):
    ours, theirs = pair(lab, own_vm=True)
    theirs.down()
    calm = Kernel(theirs.place)
    attach(ours, calm)
    ours.place.shell(f"ip addr add {FLOODER}/24 dev tap0")
    capture = Capture(ours.place, "tap0")
    with t.check("the first pings", vital=True):
        ours.expect_pings(calm)
    flood = Flood(ours.place, FLOODER, ours, 1000, 0.3)
    with t.check("the kernel reaches us under load with mac2") as note:
        time.sleep(2)
        theirs.up()
        theirs.set_peer(ours, "persistent-keepalive 25")
        took = theirs.wait_for_handshake(ours, 30)
        datagrams = capture.stop()
        story = handshake_story(datagrams, ours.port, theirs.port)
        note.text = f"{took:.1f} s: {', '.join(story)}"
        expect(flood.running(), f"the flood ended first: {note.text}")
        expect("ours cookie" in story, f"ours sent no cookie reply: {story}")
        expect(story.index("ours cookie") < story.index("theirs initiation+"), f"no initiation with mac2: {story}")
        theirs.expect_said("Receiving cookie response")
        theirs.expect_said("Receiving handshake response")
    with t.check("the marks of both"):
        expect_marks(datagrams, ours.port)
        expect_marks(datagrams, theirs.port)
    with t.check("a session that was there before goes on during the flood") as note:
        # Some datagrams may find the socket's buffer full.
        got = ours.ping(calm, count=30, more="-i 0.1 -W 1")
        note.text = f"{got} of 30 pings"
        expect(flood.running() and got >= 20, note.text)
    with t.check("the flood gets cookie replies") as note:
        note.text = f"{flood.cookies()}"
        expect(int(note.text) > 0, "none")
    with t.check("pings afterwards, and the kernel's log"):
        theirs.expect_pings(ours)
        calm.expect_no_refusals()
        theirs.expect_no_refusals()


def mtu(lab, t):
    ours, theirs = pair(lab)
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)
    for size in (1280, 1281, 1420, 1440, 1500, 1420):
        with t.check(f"{size} at both ends: exactly that fits"):
            for end in (ours, theirs):
                end.shell(f"ip link set {end.interface} mtu {size}")
            for family, header in ((4, 28), (6, 48)):
                for a, b in ((ours, theirs), (theirs, ours)):
                    a.expect_pings(b, family, 2, f"-i 0.2 -W 2 -M do -s {size - header}")
                    expect(a.ping(b, family, 1, f"-W 1 -M do -s {size - header + 1}") == 0, "one byte more got through")
    with t.check("different MTUs: TCP goes on") as note:
        ours.shell(f"ip link set {ours.interface} mtu 1280")
        note.text = f"{transfer(theirs, ours, 1 << 20, 5005):.0f} and {transfer(ours, theirs, 1 << 20, 5006):.0f} Mbit/s"
    with t.check("the kernel's log"):
        theirs.expect_no_refusals()


def timestamps(lab, t):
    """The same key used by our daemon and by the kernel in turn: the responder must find each one's timestamps new."""
    host, vm = places(lab, own_vm=False)
    vm.shell(f"date -s @{round(time.time())}")
    skew = float(vm.shell("date +%s")) - time.time()
    t.report.remark(f"{t.scenario}: the VM's clock differs from ours by {skew:+.1f} s, in whole seconds")
    for responder in ("kernel", "ours"):
        answering = Kernel(vm) if responder == "kernel" else Daemon(lab, host)
        mine, theirs = Daemon(lab, host), Kernel(vm)
        theirs.private, tunnel = mine.private, next(tunnels)
        for end, number in ((answering, 1), (mine, 2), (theirs, 2)):
            end.address(tunnel, number)
        answering.configure(mine.peer_section())
        answering.up()
        for name, end in (("ours first", mine), ("then the kernel", theirs), ("then ours again", mine), ("then the kernel again", theirs)):
            with t.check(f"the responder is {responder}: {name}") as note:
                # Further apart than the clocks may be.
                time.sleep(2.5)
                before = answering.peer(mine).handshake
                end.configure(answering.peer_section(endpoint=4, keepalive=1))
                end.up()
                wait_until(lambda: answering.peer(mine).handshake > before, 4, f"a handshake with {end.label}")
                # By its own clock, which `before` was not; `setconf` began with no session.
                wait_until(lambda: end.peer(answering).handshake > 0, 1, f"a handshake at {end.label}")
                note.text = f"{answering.peer(mine).endpoint}"
                end.down()
        if responder == "kernel":
            with t.check("the kernel's log"):
                answering.expect_no_refusals()


def allowed_ips(lab, t):
    ours, theirs = pair(lab)
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)
    session = ours.peer(theirs).handshake
    theirs.shell(f"ip addr add 10.7.0.2/32 dev {theirs.interface}; ip -6 addr add fd07::2/128 dev {theirs.interface}")
    ours.shell(f"ip route add 10.7.0.0/16 dev {ours.interface}; ip -6 route add fd07::/64 dev {ours.interface}")
    count = lambda address: int(ours.ping(type("At", (), {"inner": {4: address, 6: address}}), 6 if ":" in address else 4, 2, "-i 0.2 -W 1"))

    def holds(address, wanted):
        got = count(address)
        expect(got == (2 if wanted else 0), f"{got} of 2 pings to {address} answered")

    base = ours.peer(theirs).allowed
    text = lambda allowed: f"allowed-ips {','.join(sorted(allowed))}"
    with t.check("not allowed yet: no answer"):
        holds("10.7.0.2", False)
    with t.check("added: answers at once"):
        ours.set_peer(theirs, text(base | {"10.7.0.0/24", "fd07::/64"}))
        holds("10.7.0.2", True)
        holds("fd07::2", True)
    with t.check("a longer prefix given to another peer takes its packets"):
        other = Kernel(theirs.place)
        ours.set_peer(other, "allowed-ips 10.7.0.2/32")
        holds("10.7.0.2", False)
        ours.set_peer(other, "remove")
        holds("10.7.0.2", True)
    with t.check("the same prefix given to another peer moves, and back"):
        ours.set_peer(other, "allowed-ips 10.7.0.0/24")
        expect("10.7.0.0/24" not in ours.peer(theirs).allowed, "two peers have it")
        holds("10.7.0.2", False)
        ours.set_peer(other, "remove")
        holds("10.7.0.2", False)
        ours.set_peer(theirs, text(base | {"10.7.0.0/24", "fd07::/64"}))
        holds("10.7.0.2", True)
    with t.check("removed: no answer, and packets from there are dropped"):
        ours.set_peer(theirs, text(base | {"fd07::/64"}))
        holds("10.7.0.2", False)
        holds("fd07::2", True)
        got = theirs.shell(f"ping -n -q -c 2 -i 0.2 -W 1 -I 10.7.0.2 {ours.inner[4]}", check=False)
        expect(" 0 received" in got, got)
        theirs.expect_no_refusals()
    with t.check("the kernel refuses what it has not allowed, and says so"):
        ours.shell(f"ip addr add 10.8.8.8/32 dev {ours.interface}")
        got = ours.shell(f"ping -n -q -c 1 -W 1 -I 10.8.8.8 {theirs.inner[4]}", check=False)
        expect(" 0 received" in got, got)
        theirs.expect_said("unallowed src IP")
    with t.check("all in one session"):
        ours.expect_pings(theirs)
        expect(ours.peer(theirs).handshake == session, "there was a new handshake")


def rekey(initiator):
    def script(lab, t):
        ours, theirs = pair(lab)
        first, second = (ours, theirs) if initiator == "ours" else (theirs, ours)
        watch_rekey(t, first, second)
        with t.check("the kernel's log"):
            theirs.expect_no_refusals()
            keypairs = sum("Keypair" in line and "created" in line for line in theirs.said())
            expect(keypairs == 2, f"{keypairs} sessions")

    return script


def suspended(lab, t):
    suspend.keepalive(*places(lab, own_vm=True), lab, t)


def scenarios():
    return [
        Scenario("kernel, rekey by ours", rekey("ours"), waits=True),
        Scenario("kernel, rekey by the kernel", rekey("theirs"), waits=True),
        Scenario("kernel, keepalive", keepalive, waits=True),
        Scenario("kernel, suspended", suspended, waits=True),
        Scenario("kernel, cookies from the kernel", cookies_from_kernel),
        Scenario("kernel, cookies from ours", cookies_from_us),
        Scenario("kernel", basics),
        Scenario("kernel, roaming", roaming),
        Scenario("kernel, two uplinks", routes.failover),
        Scenario("kernel, daemon restarted", restarted_daemon),
        Scenario("kernel, kernel restarted", restarted_kernel),
        Scenario("kernel, bad network", bad_network),
        Scenario("kernel, MTU", mtu),
        Scenario("kernel, timestamps", timestamps),
        Scenario("kernel, allowed IPs", allowed_ips),
    ]
