"""Control calls as WireProto messages."""

from __future__ import annotations

import asyncio
import base64
import errno
from typing import Any

import pytest
from support import CLIENT_PUB, PATIENCE, noise, pair, run, soon, until

import wg_embed
from wg_embed import wireproto

pytestmark = pytest.mark.ours_only("there is none")

PEER = bytes(range(32))


@pytest.fixture
def tunnel() -> Any:
    server, client = pair()
    yield server
    client.close()
    server.close()


def answers(tunnel: wg_embed.Tunnel, *commands: Any, **options: Any) -> wireproto.Message:
    return wireproto.parse(tunnel.wireproto(wireproto.request(*commands, **options)))


def test_the_bytes_are_those_of_the_document() -> None:
    built = wireproto.request([("cmd", "ping"), ("arg", b"\x00\xff")])
    assert built.hex() == (
        "1bc9c6b4370100000001020000" + "00010000002c00000001000000240000" + "00020000001c00000003000000"
        "04636d6470696e67000000030000000261726700ff0304"
    )
    little = wireproto.request([("cmd", "ping")], checksum=False, little_endian=True)
    assert little.hex() == (
        "010000000102010000001f0000000100000017000000010000000f0000000300000004000000636d6470696e670304"
    )


def test_messages_survive() -> None:
    commands: Any = [[("cmd", "x"), ("", b""), ("cmd", noise(1000))], [("\u00e4", "\u00e4")]]
    for checksum in (False, True):
        for little_endian in (False, True):
            bytes_ = wireproto.request(*commands, checksum=checksum, little_endian=little_endian)
            message = wireproto.parse(bytes_, little_endian=little_endian)
            assert (message.ok, message.has_checksum) == (None, checksum)
            found = [list(record.pairs) for record in message.answers]
            assert found == [
                [(name, value.encode() if isinstance(value, str) else value) for name, value in command]
                for command in commands
            ]
            assert all(record.copy is None for record in message.answers)
            assert message.answers[0].command == "x"


def test_what_is_no_message() -> None:
    good = wireproto.request([("cmd", "version")])
    for bad in (b"", good[:-1], good + b"x", good[:1] + b"\0" + good[2:]):
        with pytest.raises(ValueError, match="byte "):
            wireproto.parse(bad)
    none: Any
    for none in ([], [[]]):
        with pytest.raises(ValueError, match="there must be at least one"):
            wireproto.request(*none)
    with pytest.raises(OverflowError):
        wireproto.u16(65536)
    with pytest.raises(ValueError, match="not an answer"):
        wireproto.parse(good).answers[0].result()


def test_commands(tunnel: wg_embed.Tunnel) -> None:
    response = answers(
        tunnel,
        [("cmd", "version")],
        [
            ("cmd", "set"),
            ("fwmark", wireproto.u32(0)),
            ("public_key", PEER),
            ("allowed_ip", "192.0.2.0/24"),
            ("persistent_keepalive_interval", wireproto.u16(0)),
        ],
        [("cmd", "peers"), ("public_key", PEER)],
        [("cmd", "get")],
        [("cmd", "stats")],
    )
    assert response.ok and response.has_checksum
    version, changed, peers, got, stats = response.answers
    assert version.json()["name"] == "wg-embed" and changed.result() == b""
    assert peers.json()[0]["public_key"] == base64.b64encode(PEER).decode()
    assert peers.json()[0]["allowed_ips"] == ["192.0.2.0/24"]
    assert f"public_key={PEER.hex()}" in got.result().decode() and b"private_key" not in got.result()
    assert stats.json()["peers"] == len(tunnel.peers)
    assert [answer.command for answer in response.answers] == ["version", "set", "peers", "get", "stats"]
    assert changed.copy is not None and changed.copy[2] == ("public_key", PEER)


def test_errors_are_answers(tunnel: wg_embed.Tunnel) -> None:
    before = tunnel.get_config()
    response = answers(tunnel, [("cmd", "set"), ("public_key", PEER), ("endpoint", "x")], [("cmd", "version")])
    assert response.ok is False
    with pytest.raises(wireproto.CommandError, match="endpoint") as raised:
        response.answers[0].result()
    assert (raised.value.name, raised.value.code, raised.value.errno) == ("invalid", -2, errno.EINVAL)
    assert response.answers[1].json()["wireproto"] == 1
    assert [line for line in tunnel.get_config().splitlines() if "public_key" in line] == [
        line for line in before.splitlines() if "public_key" in line
    ]
    refused = wireproto.parse(tunnel.wireproto(b"nothing"))
    with pytest.raises(wireproto.CommandError):
        refused.answers[0].result()
    assert refused.answers[0].copy == (("", b""),) and refused.answers[0].command is None


def test_events_are_kept_from_the_first_question_on() -> None:
    async def main() -> None:
        server, client = pair()
        async with server, client:
            ask = [("cmd", "events")]
            assert answers(server, ask).answers[0].json() == {"events": [], "dropped": 0, "left": 0}
            assert client.net is not None
            await soon(client.net.ping("10.0.0.2", timeout=PATIENCE))
            found: list[Any] = []

            def has_come() -> bool:
                found.extend(answers(server, ask).answers[0].json()["events"])
                return any(event["event"] == "handshake_completed" for event in found)

            await until(has_come)
            assert {"event": "handshake_completed", "peer": CLIENT_PUB} in found

    run(main())


def test_events_may_be_waited_for() -> None:
    async def main() -> None:
        server, client = pair()
        async with server, client:
            ask = [("cmd", "events"), ("wait", (30_000).to_bytes(4, "big"))]
            # From here on they are kept.
            answers(server, [("cmd", "events")])
            waiting = asyncio.get_running_loop().run_in_executor(None, answers, server, ask)
            assert client.net is not None
            await soon(client.net.ping("10.0.0.2", timeout=PATIENCE))
            events = (await soon(waiting)).answers[0].json()["events"]
            assert events[0]["event"] in ("endpoint_changed", "handshake_completed"), events

    run(main())


def test_a_closed_tunnel_has_no_answers() -> None:
    server, client = pair()
    client.close()
    server.close()
    with pytest.raises(OSError, match="closed"):
        server.wireproto(wireproto.request([("cmd", "version")]))
