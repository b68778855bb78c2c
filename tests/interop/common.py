"""Checks that are made with every other end."""

import time

from node import Kernel, join
from report import expect

PSK = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="


def all_combinations(t, make_pair):
    """A tunnel for each of: who begins, what is outside, with and without psk; IPv4 and IPv6 inside each."""
    for initiator, family, psk in (("ours", 4, None), ("theirs", 4, PSK), ("ours", 6, PSK), ("theirs", 6, None)):
        ours, theirs = make_pair()
        first, second = (ours, theirs) if initiator == "ours" else (theirs, ours)
        join(ours, theirs, family, psk, first)
        name = f"{initiator} begins, IPv{family} outside, {'with' if psk else 'without'} psk"
        for inner in (4, 6):
            with t.check(f"{name}: IPv{inner} inside"):
                first.expect_pings(second, inner)
                second.expect_pings(first, inner)
        if theirs.is_exact:
            with t.check(f"{name}: counters agree"):
                mine, other = ours.peer(theirs), theirs.peer(ours)
                expect((mine.received, mine.sent) == (other.sent, other.received), f"{vars(mine)} but {vars(other)}")
        if isinstance(theirs, Kernel):
            with t.check(f"{name}: the kernel's log"):
                theirs.expect_said("Receiving handshake initiation" if first is ours else "Receiving handshake response")
                theirs.expect_no_refusals()
                sent = sum("Sending handshake initiation" in line for line in theirs.said())
                expect(sent == (first is theirs), f"the kernel sent {sent} initiations")


def watch_rekey(t, first, second):
    """One ping a second past the rekey at 120 s."""
    with t.check("the first ping", vital=True):
        first.expect_pings(second, count=1)
    ends = [(a, b) for a, b in ((first, second), (second, first)) if a.is_exact]
    handshakes = lambda: [a.peer(b).handshake for a, b in ends]
    began = handshakes()
    with t.check("140 s of pings, none lost, and one new session") as note:
        lost, start = [], time.monotonic()
        while time.monotonic() - start < 140:
            got = first.ping(second, count=5, more="-i 1")
            if got < 5:
                lost.append(f"{5 - got} at {time.monotonic() - start:.0f} s")
            if time.monotonic() - start < 15:
                settled = handshakes()
        expect(not lost, f"lost {lost}")
        # wireguard-go may repeat its first handshake once or twice, if the answer comes before it has set its timer.
        expect(first.label != "daemon" or settled == began, f"ours began again after {settled[0] - began[0]} s")
        ages = [now - then for now, then in zip(handshakes(), settled)]
        note.text = f"at {ages[0]} s"
        # Whole seconds, and the first ping may have come late.
        expect(all(118 <= age <= 127 for age in ages), f"the last handshakes are {ages} s after the first")
