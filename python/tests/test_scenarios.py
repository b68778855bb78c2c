"""The conversations of tests/scenarios, whose README.md describes the steps."""

from __future__ import annotations

import errno
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE

import wg_embed

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "scenarios"

# The errors that Python has for codes of wg_result_t.
ERRORS: dict[str, tuple[type[Exception], int]] = {
    "invalid": (wg_embed.ConfigError, 0),
    "addr_in_use": (OSError, errno.EADDRINUSE),
    "not_found": (FileNotFoundError, errno.ENOENT),
}


class Party:
    """A name of the scenario: a key, and a tunnel while it is on."""

    def __init__(self) -> None:
        self.key = wg_embed.genkey()
        self.public = wg_embed.pubkey(self.key)
        self.handshakes: dict[str, float] = {}
        self._events: list[wg_embed.Event] = []
        self._changed = threading.Condition()
        self._tunnel: wg_embed.Tunnel | None = None

    @property
    def tunnel(self) -> wg_embed.Tunnel:
        assert self._tunnel is not None, "the tunnel is off"
        return self._tunnel

    def start(self, conf: str) -> None:
        self.app, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with tun:
            self._tunnel = wg_embed.Tunnel(conf, fd=tun.fileno(), bind="127.0.0.1")
        self._tunnel.on_event(self._note)

    def stop(self) -> None:
        self.tunnel.close()
        self._tunnel = None
        self.app.close()

    def _note(self, event: wg_embed.Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def take(self, kind: str, peer: str) -> None:
        def find() -> wg_embed.Event | None:
            return next((event for event in self._events if event[:2] == (kind, peer)), None)

        with self._changed:
            found = self._changed.wait_for(find, PATIENCE)
            assert found, f"there is no {kind}, only {self._events}"
            self._events.remove(found)


class Conversation:
    """The parties, and what they do."""

    def __init__(self) -> None:
        self.parties: dict[str, Party] = {}
        self._number = 0

    def party(self, name: str) -> Party:
        return self.parties.setdefault(name, Party())

    def fill(self, conf: str) -> str:
        """Replaces `{NAME.private}` and the like."""

        def value(found: re.Match[str]) -> str:
            party = self.party(found[1])
            return {
                "private": lambda: party.key,
                "public": lambda: party.public,
                "port": lambda: str(party.tunnel.listen_port),
            }[found[2]]()

        return re.sub(r"\{(\w+)\.(\w+)\}", value, conf)

    def _packet(self, source: str, destination: str) -> bytes:
        self._number += 1
        addresses = socket.inet_aton(source) + socket.inet_aton(destination)
        return struct.pack("!BBHIBBH", 0x45, 0, 24, 0, 64, 253, 0) + addresses + struct.pack("!I", self._number)

    def on(self, name: str, conf: str) -> None:
        self.party(name).start(conf)

    def update(self, name: str, conf: str) -> None:
        self.party(name).tunnel.set_config(conf)

    def refused(self, name: str, code: str, conf: str) -> None:
        kind, number = ERRORS[code]
        with pytest.raises(kind) as caught:
            self.update(name, conf)
        assert getattr(caught.value, "errno", 0) == number

    def pass_(self, source: str, destination: str, *addresses: str) -> None:
        packet = self._packet(*addresses)
        out = self.party(destination).app
        out.settimeout(1)
        for _ in range(int(PATIENCE)):
            self.party(source).app.send(packet)
            try:
                while out.recv(2000) != packet:
                    pass
                return
            except socket.timeout:
                continue
        raise AssertionError("the packet has not come")

    def send(self, name: str, *addresses: str) -> None:
        self.party(name).app.send(self._packet(*addresses))

    def event(self, name: str, kind: str, peer: str) -> None:
        self.party(name).take(kind, self.party(peer).public)

    def _state(self, name: str, peer: str) -> wg_embed.PeerState:
        return self.party(name).tunnel.peers[self.party(peer).public]

    def session(self, name: str, peer: str) -> None:
        state = self._state(name, peer)
        assert state.has_session and state.last_handshake > 0
        assert self.party(name).handshakes.setdefault(peer, state.last_handshake) == state.last_handshake

    def traffic(self, name: str, peer: str) -> None:
        state = self._state(name, peer)
        assert state.rx_bytes > 0 and state.tx_bytes > 0

    def counter(self, name: str, counter: str, value: str) -> None:
        end = time.monotonic() + PATIENCE
        while self.party(name).tunnel.stats()[counter] != int(value):
            assert time.monotonic() < end, f"{counter} is {self.party(name).tunnel.stats()[counter]}"
            time.sleep(0.01)

    def peers(self, name: str, number: str) -> None:
        assert len(self.party(name).tunnel.peers) == int(number)

    def network(self, name: str) -> None:
        self.party(name).tunnel.rebind()

    def off(self, name: str) -> None:
        tunnel = self.party(name).tunnel
        self.party(name).stop()
        with pytest.raises(OSError) as caught:
            tunnel.rebind()
        assert caught.value.errno == errno.ENODEV


STEPS: dict[str, Callable[..., None]] = {
    "on": Conversation.on,
    "update": Conversation.update,
    "refused": Conversation.refused,
    "pass": Conversation.pass_,
    "send": Conversation.send,
    "event": Conversation.event,
    "session": Conversation.session,
    "traffic": Conversation.traffic,
    "counter": Conversation.counter,
    "peers": Conversation.peers,
    "network": Conversation.network,
    "off": Conversation.off,
}


def steps(text: str) -> Iterator[tuple[list[str], str]]:
    """The words of each step, and its configuration."""
    words: list[str] = []
    conf = ""
    for line in text.splitlines():
        if line.startswith(" "):
            conf += line + "\n"
        elif line and not line.startswith("#"):
            if words:
                yield words, conf
            words, conf = line.split(" "), ""
    yield words, conf


@pytest.mark.ours_only("there is none")
@pytest.mark.skipif(not FOLDER.is_dir(), reason="these tests are outside of their repository")
def test_scenarios() -> None:
    paths = sorted(FOLDER.glob("*.txt"))
    assert paths
    for path in paths:
        conversation = Conversation()
        for (name, *words), conf in steps(path.read_text(encoding="utf-8")):
            print(path.name, name, *words)
            STEPS[name](conversation, *words, *([conversation.fill(conf)] if conf else []))
