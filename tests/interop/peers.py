"""Our daemon against other userspace implementations, and against itself, over a link between two namespaces."""

import re
import time

from common import all_combinations, watch_rekey
from lab import wait_until
from node import Daemon, Netns, join, new_key, public_of
from report import expect
from scenario import Scenario
from traffic import DATA, INITIATION, Capture, inject, megabits, transfer


def places(lab):
    first, second = lab.linked_netns()
    return Netns(lab, first, "198.18.1.1", "fd00:19::1"), Netns(lab, second, "198.18.1.2", "fd00:19::2")


def pair(lab, other, **more):
    here, there = places(lab)
    ours, theirs = Daemon(lab, here), Daemon(lab, there, other)
    join(ours, theirs, **more)
    return ours, theirs


def basics(other):
    def script(lab, t):
        here, there = places(lab)
        all_combinations(t, lambda: (Daemon(lab, here), Daemon(lab, there, other)))
        ours, theirs = pair(lab, other)
        with t.check("the configuration reads back as it was set"):
            ours.configure(theirs.peer_section(endpoint=6, psk=new_key(), keepalive=25, allowed="10.0.0.0/8, 0.0.0.0/0, ::/0, fd00::/8"))
            again = ours.file("again", ours.shell(f"wg showconf {ours.interface}"))
            ours.shell(f"wg setconf {ours.interface} {again}")
            wanted, got = settings((ours.place.directory / f"{ours.interface}.conf").read_text()), settings(ours.shell(f"wg showconf {ours.interface}"))
            expect(wanted == got, f"set {wanted}, got {got}")
            join(ours, theirs)
        for family, port in ((4, 5001), (6, 5002)):
            with t.check(f"64 MB each way over IPv{family} arrive whole") as note:
                there, back = (transfer(a, b, 64 << 20, port + n, family) for n, (a, b) in enumerate(((ours, theirs), (theirs, ours)), 10))
                note.text = f"{there:.0f} and {back:.0f} Mbit/s"
        with t.check("iperf3 to it and back") as note:
            there, back = megabits(ours, theirs), megabits(ours, theirs, reverse=True)
            note.text = f"{there:.0f} and {back:.0f} Mbit/s"
            expect(there > 0 and back > 0, note.text)

    return script


def settings(text):
    """The lines of a configuration, order and blanks aside."""
    split = (re.split(r"\s*=\s*", line, maxsplit=1) for line in text.strip().split("\n") if "=" in line)
    return sorted((key, sorted(re.split(r",\s*", value))) for key, value in split)


def edits(other):
    def script(lab, t):
        ours, theirs = pair(lab, other)
        with t.check("the first pings", vital=True):
            ours.expect_pings(theirs)
        session = ours.peer(theirs).handshake
        own = theirs.inner_ranges().replace(", ", ",")
        stranger = f"peer {public_of(new_key())}"
        allowed = lambda: ours.peer(theirs).allowed
        keepalive = lambda: ours.peer(theirs).keepalive
        same = ours.file("same", f"[Interface]\nPrivateKey = {ours.private}\nListenPort = {ours.port}\n{theirs.peer_section(endpoint=4)}")
        steps = [
            ("another peer is added", f"set {ours.interface} {stranger} allowed-ips 10.66.0.0/16 endpoint 198.18.1.9:9 persistent-keepalive 1", lambda: len(ours.peers()) == 2),
            ("allowed IPs are added", f"set {ours.interface} peer {theirs.public} allowed-ips {own},10.77.0.0/24", lambda: "10.77.0.0/24" in allowed()),
            ("and taken away", f"set {ours.interface} peer {theirs.public} allowed-ips {own}", lambda: allowed() == set(own.split(","))),
            ("persistent keepalive is turned on", f"set {ours.interface} peer {theirs.public} persistent-keepalive 25", lambda: keepalive() == "25"),
            ("and off", f"set {ours.interface} peer {theirs.public} persistent-keepalive 0", lambda: keepalive() == "off"),
            ("the endpoint is set to what it is", f"set {ours.interface} peer {theirs.public} endpoint {theirs.endpoint(4)}", lambda: True),
            ("the other peer is removed", f"set {ours.interface} {stranger} remove", lambda: len(ours.peers()) == 1),
            ("a mark is set", f"set {ours.interface} fwmark 0x42", lambda: "0x42" in ours.shell(f"wg show {ours.interface} fwmark")),
            ("and taken away", f"set {ours.interface} fwmark 0", lambda: "off" in ours.shell(f"wg show {ours.interface} fwmark")),
            ("wg syncconf of the same", f"syncconf {ours.interface} {same}", lambda: len(ours.peers()) == 1),
        ]
        log = ours.place.directory / "pings"
        count = 20 * (len(steps) + 2)
        pings = ours.place.background(f"exec ping -n -q -i 0.05 -c {count} -W 2 {theirs.inner[4]}", "pings")
        for what, command, holds in steps:
            time.sleep(0.9)
            with t.check(what):
                ours.shell(f"wg {command}")
                expect(holds(), ours.shell(f"wg show {ours.interface}"))
        with t.check("none of these lost a ping, and all is one session"):
            pings.wait(30)
            expect(f" {count} received" in log.read_text(), log.read_text())
            expect(ours.peer(theirs).handshake == session, "there was a new handshake")

    return script


def wait_for_last_initiation(capture):
    """Waits until the other end does not begin again. wireguard-go repeats a handshake after 5 to 5.4 s if the answer
    comes before it has set its timer, and that may happen again with the repetition."""
    begun = lambda: (d.when for d in capture.datagrams() if d.direction == "in" and d.kind == INITIATION)
    wait_until(lambda: time.time() - max(begun(), default=0) > 6, 40, "the other end's last initiation")


def replays(other):
    def script(lab, t):
        for initiator in ("theirs", "ours"):
            ours, theirs = pair(lab, other)
            ours.down()
            capture = Capture(ours.place, "veth0")
            ours.up()
            first, second = (ours, theirs) if initiator == "ours" else (theirs, ours)
            with t.check(f"{initiator} began: the first pings", vital=True):
                first.expect_pings(second, count=10)
                if initiator == "theirs" and other == "wireguard-go":
                    wait_for_last_initiation(capture)
                second.expect_pings(first, count=5)
            seen = [d for d in capture.datagrams() if d.direction == "in"]
            handshake, data = [d for d in seen if d.kind != DATA], [d for d in seen if d.kind == DATA]
            state = lambda: vars(ours.peer(theirs))
            for name, frames in (
                ("copies of all datagrams", [d.altered() for d in seen]),
                ("copies from another port", [d.altered(source=9999) for d in seen]),
                ("datagrams with a bit changed", [d.altered(position=at, source=9999) for d in data for at in (0, 4, 8, 15, 16, -1)]),
                ("handshake messages with a bit changed", [d.altered(position=at, source=9999) for d in handshake for at in (0, 4, 8, 20, 50, 100, -17, -1)]),
                ("datagrams cut short", [d.altered(cut=cut) for d in seen for cut in (1, 16, 30, len(d.payload) - 1)]),
            ):
                with t.check(f"{initiator} began: {name} have no effect") as note:
                    note.text = f"{len(frames)}"
                    expect(frames and (initiator == "ours" or any(d.kind == INITIATION for d in handshake)), "nothing was captured")
                    before, sent = state(), len([d for d in capture.datagrams() if d.direction == "out"])
                    inject(theirs.place, "veth0", frames)
                    time.sleep(0.3)
                    expect(state() == before, f"{before} became {state()}")
                    answers = [d for d in capture.datagrams() if d.direction == "out"][sent:]
                    expect(not answers, f"ours sent {len(answers)} datagrams of types {[d.kind for d in answers]}")
            with t.check(f"{initiator} began: the tunnel goes on in its session"):
                session = ours.peer(theirs).handshake
                ours.expect_pings(theirs)
                theirs.expect_pings(ours)
                expect(ours.peer(theirs).handshake == session, "there was a new handshake")
            capture.stop()
            ours.stop()
            theirs.stop()

    return script


def rekey(other, initiator):
    def script(lab, t):
        ours, theirs = pair(lab, other)
        watch_rekey(t, *((ours, theirs) if initiator == "ours" else (theirs, ours)))

    return script


def scenarios(names):
    made = []
    for other in names:
        label = "another of ours" if other == "daemon" else other
        made += [Scenario(f"{label}, rekey by {who}", rekey(other, who), waits=True) for who in ("ours", "theirs")]
        made += [
            Scenario(label, basics(other)),
            Scenario(f"{label}, edits", edits(other)),
            Scenario(f"{label}, replays", replays(other)),
        ]
    return made
