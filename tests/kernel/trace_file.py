"""Turns what was captured of a scenario into the lines of its .trace file."""

import bisect
import re
import struct
from pathlib import Path

import wgpeer

PEER_PORT = 30000  # plus the scenario's number; the peer's further ports are 1000 higher each


class Frame:
    """A packet on the TAP that belongs to a scenario. kind: tun-send, tun-recv, unreachable, rx or tx."""

    def __init__(self, when, kind, size, payload=b"", port=0):
        self.when, self.kind, self.size, self.payload, self.port = when, kind, size, payload, port


class Writer:
    """Turns a finished run into lines."""

    def __init__(self, run):
        self.run = run
        self.changes = [self.change_time(*change) for change in run.changes]
        self.zero = self.changes[0][0]
        # Sender index -> number of an initiation: of the node's in the order sent, of the peer's in the order made.
        self.numbers = {"tx": {}, "rx": dict(zip(run.initiated, range(1, len(run.initiated) + 1)))}
        self.seen = set()

    def lines(self):
        run = self.run
        scenario = run.scenario
        endpoint = "yes" if scenario.endpoint else "no"
        entries = [(self.zero, 0, f"config peer-keepalive={scenario.keepalive} endpoint={endpoint}")]
        entries += [(when, 1, text) for when, text in self.changes]
        for frame in run.frames:
            text = self.describe(frame)
            if text and frame.when >= self.zero - 0.001:
                entries.append((max(frame.when, self.zero), 2, text))
        entries.sort(key=lambda entry: entry[:2])
        for when, _, text in entries:
            comment = "# " if text.startswith("unreachable") else ""
            yield f"{comment}at {when - self.zero:.3f} kernel {text}"

    def change_time(self, begin, end, text):
        """A command took effect before its end, and before anything that the node sent meanwhile."""
        times = [frame.when for frame in self.run.frames if frame.kind == "tx"]
        first = bisect.bisect_left(times, begin)
        return (min(end, times[first]) if first < len(times) else end), text

    def describe(self, frame):
        if frame.kind in ("tun-send", "tun-recv"):
            return f"{frame.kind} {frame.size}"
        if frame.kind == "unreachable":
            return "unreachable (ICMP to the sender of the inner packet)"
        kind = wgpeer.message_type(frame.payload)
        if kind is None:
            return f"{frame.kind} unknown {frame.size}"
        notes = list(self.notes(frame, kind))
        port = (frame.port - PEER_PORT) // 1000 + 1
        if port != 1:
            notes.append(f"port={port}")
        if frame.payload in self.seen:
            notes.append("copy")
        self.seen.add(frame.payload)
        return " ".join([frame.kind, wgpeer.TYPE_NAMES[kind], str(frame.size), *notes])

    def notes(self, frame, kind):
        """What the recorder knows of a message: it has all keys."""
        payload, way = frame.payload, frame.kind
        other = "rx" if way == "tx" else "tx"
        if kind == wgpeer.INITIATION:
            yield f"number={self.initiation_number(payload, way)}"
            if wgpeer.has_mac2(payload):
                yield "mac2"
        elif kind in (wgpeer.RESPONSE, wgpeer.COOKIE):
            yield f"for={self.numbers[other].get(wgpeer.receiver_index(payload), '?')}"
            if kind == wgpeer.RESPONSE:
                index = wgpeer.sender_index(payload)
                yield from self.session_note(index, other)
                _, session = self.find(index, other)
                if session and session.psk != "none":
                    yield f"psk={session.psk}"
        else:
            yield from self.session_note(wgpeer.receiver_index(payload), way)
            yield from self.data_note(payload, way)

    def initiation_number(self, payload, way):
        numbers = self.numbers[way]
        return numbers.setdefault(wgpeer.sender_index(payload), len(numbers) + 1)

    def find(self, index, way):
        """The session by the index that its receiver chose."""
        for number, session in enumerate(self.run.sessions, 1):
            if index == (session.ours if way == "tx" else session.theirs):
                return number, session
        return None, None

    def session_note(self, index, way):
        number, session = self.find(index, way)
        yield f"session={number or '?'}"

    def data_note(self, payload, way):
        _, session = self.find(wgpeer.receiver_index(payload), way)
        if session is None:
            return
        reader = session if way == "tx" else wgpeer.Session(session.theirs, session.ours, b"", session.send_key)
        try:
            counter, inner = reader.open(payload)
        except wgpeer.Rejected:
            yield "bad"
            return
        yield f"counter={counter}"
        yield f"inner={struct.unpack_from('>H', inner, 2)[0]}" if inner else "keepalive"


def dmesg_lines(text, run, zero, offset):
    """The module's messages on one interface since `zero`; `offset` is wall clock minus kernel clock."""
    keypairs = {}
    for line in text.splitlines():
        match = re.match(rf"\[ *([0-9.]+)\] wireguard: {run.interface}: (.*)", line)
        if match:
            when = float(match[1]) + offset - zero
            message = re.sub(r"\b([Pp])eer \d+\b", r"\1eer 1", match[2])
            message = re.sub(r"Keypair (\d+)", lambda it: f"Keypair {keypairs.setdefault(it[1], len(keypairs) + 1)}", message)
            if when > -0.1:
                yield f"# dmesg: {when:.3f} {message}"


def write(run, kernel, dmesg, offset, out, failed):
    about = [line.strip() for line in run.scenario.about.strip().splitlines()]
    head = [f"# {run.name}: {about[0]}", *(f"# {line}" for line in about[1:] if line)]
    head += [f"# {kernel}", f"# made by: tests/kernel/record.sh {run.name}"]
    if failed:
        head.append("# INCOMPLETE: the scenario did not run to its end")
    writer = Writer(run)
    lines = [*head, *writer.lines(), *dmesg_lines(dmesg, run, writer.zero, offset)]
    (Path(out) / f"{run.name}.trace").write_text("\n".join(lines) + "\n")
