"""The scenarios. "Node" is the kernel under test, "peer" is our scripted end; times are seconds since the node's link came up.

The peer answers initiations at once unless `answering` is off, and sends nothing else unless told to. Things that happen
often are kept away from the moments at which a timer or a limit of the protocol falls due (5, 10, 15, 120, 165, 180 s after
what starts it), so that a few milliseconds do not decide what comes next; hence the steps of 0.9 s.
"""

import asyncio
from collections import namedtuple

from wgpeer import DATA, INITIATION

Scenario = namedtuple("Scenario", "name about keepalive endpoint ports answering script")
ALL = {}

WINDOW = 8128  # how far behind the highest counter the kernel still accepts one
REJECT_AFTER_MESSAGES = 2**64 - 1 - WINDOW - 1


def scenario(keepalive=0, endpoint=True, ports=1, answering=True):
    """Registers a scenario; its name is the function's, its description the docstring."""

    def register(script):
        name = script.__name__.replace("_", "-")
        ALL[name] = Scenario(name, script.__doc__, keepalive, endpoint, ports, answering, script)
        return script

    return register


# Handshakes that are not answered.


@scenario(answering=False)
async def retry_silence(run):
    """one packet for a silent peer: retries until it gives up, is quiet, and a new packet starts it again."""
    await run.at(0.5)
    run.tun_send()
    await run.at(125)
    run.tun_send()
    await run.at(137)


@scenario(keepalive=25, answering=False)
async def retry_silence_keepalive(run):
    """as retry-silence, but nothing is sent and a persistent keepalive of 25 s is set."""
    await run.at(205)


@scenario(answering=False)
async def retry_with_traffic(run):
    """a packet for a silent peer every 3 s: each one starts the count of attempts anew, so it does not give up."""
    await run.every(3, 0.5, 130, run.tun_send)
    await run.at(135)


@scenario(answering=False)
async def rate_limit(run):
    """packets for a silent peer at 0.5, 1.5, 2.5, 3.5 s: one initiation per 5 s, whatever is asked for."""
    await run.every(1, 0.5, 4, run.tun_send)
    await run.at(22)


@scenario(answering=False)
async def staged_overflow(run):
    """140 packets of 100, 101, ... 239 bytes wait for the handshake: the oldest are dropped, the rest are sent in order."""
    await run.at(0.5)
    run.tun_send(100)
    initiation = await run.receive(INITIATION)
    for size in range(101, 240):
        run.tun_send(size)
        await asyncio.sleep(0.005)
    await run.at(3)
    run.respond(initiation)
    await run.at(8)


@scenario(answering=False)
async def response_late(run):
    """the first initiation is answered after the second was sent (ignored), then the second is answered."""
    await run.at(0.5)
    run.tun_send()
    first = await run.receive(INITIATION)
    second = await run.receive(INITIATION)
    await asyncio.sleep(0.5)
    run.respond(first)
    await asyncio.sleep(1)
    run.respond(second)
    await run.at(20)


@scenario(answering=False)
async def cookie_reply(run):
    """the peer is under load: a cookie is stored, the next attempt comes at its usual time and has a mac2."""
    await run.at(0.5)
    run.tun_send()
    run.send(run.peer.cookie_reply(await run.receive(INITIATION)))
    run.respond(await run.receive(INITIATION))
    await run.at(10)


@scenario(endpoint=False)
async def no_endpoint(run):
    """a peer without an endpoint: nothing is sent until the peer itself was heard."""
    await run.at(0.5)
    run.tun_send()
    await run.at(3)
    await run.initiate()
    await run.at(4)
    run.tun_send()
    await run.at(20)


# Traffic that goes one way, or none.


@scenario()
async def one_way_out(run):
    """a packet every 0.9 s, nothing comes back after the handshake: new handshakes, then the rekey at 120 s, the end at 180 s."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    run.answering = False
    await run.every(0.9, 2, 204, run.tun_send)
    await run.at(205)


@scenario()
async def one_way_out_answered(run):
    """as one-way-out, but the peer answers handshakes: each answer counts as hearing from it."""
    await run.every(0.9, 0.5, 60, run.tun_send)
    await run.at(60)


@scenario()
async def one_way_in(run):
    """the peer sends a packet every 0.9 s, the node has nothing to send: passive keepalives."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await run.every(0.9, 2, 60, run.data)
    await run.at(80)


@scenario()
async def one_way_in_two(run):
    """the peer sends packets at 2 and 5 s only: how many passive keepalives follow, and when."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await run.at(2)
    run.data()
    await run.at(5)
    run.data()
    await run.at(45)


@scenario(keepalive=25)
async def keepalive_peer_gone(run):
    """persistent keepalive of 25 s, the peer is gone after the first handshake: keepalives alone do not notice it."""
    await run.receive(DATA)
    run.answering = False
    await run.at(150)


@scenario()
async def idle_after_data(run):
    """one packet each way, then nothing: one passive keepalive, and no rekey while idle."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await run.at(2)
    run.data()
    await run.at(205)


@scenario(keepalive=25)
async def persistent_keepalive_idle(run):
    """persistent keepalive of 25 s and no traffic: the handshake at link up, keepalives, the rekey that one of them causes."""
    await run.at(205)


@scenario(keepalive=5)
async def persistent_keepalive_traffic(run):
    """persistent keepalive of 5 s: none while the node sends every second, then one every 5 s."""
    await asyncio.gather(run.every(1, 1, 31, run.tun_send), run.every(4, 3.5, 33, run.keepalive))
    await run.at(60)


@scenario()
async def keepalive_edits(run):
    """on a live session: persistent keepalive 0 -> 10 (sends one at once), 10 -> 5 (does not), 5 -> 0."""
    await run.at(0.5)
    run.tun_send()
    await run.at(1)
    run.keepalive()
    await run.at(3)
    await run.set_keepalive(10)
    await run.at(28)
    await run.set_keepalive(5)
    await run.at(50)
    await run.set_keepalive(0)
    await run.at(70)


@scenario(keepalive=200, answering=False)
async def keepalive_staged(run):
    """the session is older than 180 s when the persistent keepalive of 200 s fires: a handshake instead."""
    await run.at(0.5)
    await run.initiate()
    run.answering = True
    await run.at(230)


# The age of a session.


async def talk(run, stop):
    """A packet every second each way."""
    await asyncio.gather(run.every(1, 2, stop, run.tun_send), run.every(1, 2.7, stop, run.data))


@scenario()
async def rekey_initiator(run):
    """the node began the session; a packet per second each way for 140 s."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await talk(run, 140)


@scenario()
async def rekey_responder(run):
    """the peer began the session and does not rekey; a packet per second each way for 200 s."""
    await run.at(0.5)
    await run.initiate()
    await talk(run, 200)


@scenario()
async def lastminute_initiator(run):
    """the node began the session and then only receives, a packet every 0.9 s, up to 190 s."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await run.every(0.9, 3, 190, run.data)


@scenario()
async def lastminute_keepalives(run):
    """as lastminute-initiator, but only keepalives come, every 5 s: the node sends nothing that could make it rekey."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await run.every(5, 2, 190, run.keepalive)


@scenario()
async def expiry(run):
    """the node began the session; idle past 180 s; then a packet comes (ignored), then one is to be sent."""
    await run.at(0.5)
    run.tun_send()
    await run.at(1)
    run.keepalive()
    await run.at(182)
    run.data()
    await run.at(185)
    run.tun_send()
    await run.at(202)


@scenario()
async def expiry_responder(run):
    """the peer began the session; a packet comes at 179 s: the passive keepalive for it finds the session expired."""
    await run.at(0.5)
    await run.initiate()
    await run.at(179)
    run.data()
    await run.at(205)


# Changes of keys and links.


@scenario()
async def psk_change(run):
    """the psk is set and changed on a live session: the session stays, the next handshake uses the new one.
    At 9 s the peer initiates with the old psk (it cannot read the response and goes silent), at 12 s with the new one;
    from 16 s it is silent, so the node begins a handshake: answered first with the old psk, then with the new one."""
    await run.at(0.5)
    run.tun_send()
    await run.at(2)
    await run.set_psk("a")
    await run.at(3)
    run.tun_send()
    await run.at(3.5)
    run.data()
    await run.at(5)
    await run.initiate(psk="a")
    await run.at(6)
    run.tun_send()
    await run.at(8)
    await run.set_psk("b")
    await run.at(9)
    state, initiation = run.make_initiation()
    run.send(initiation)
    await run.complete(state, psk="b")  # so that the recorder knows the session
    await run.at(10)
    run.tun_send()
    await run.at(12)
    await run.initiate(psk="b")
    await run.at(16)
    run.answering = False
    run.tun_send()
    run.respond(await run.receive(INITIATION), psk="a")
    run.respond(await run.receive(INITIATION), psk="b")
    await run.at(50)


@scenario()
async def key_change(run):
    """the node's private key is changed at 3 s; the peer uses the session at 4 s, the node has a packet to send at 5 s."""
    await run.at(0.5)
    run.tun_send()
    await run.at(3)
    await run.set_other_key()
    await run.at(4)
    run.data()
    await run.at(5)
    run.tun_send()
    await run.at(25)


@scenario(keepalive=25)
async def link_down_up(run):
    """down at 5 s, up at 8 s with persistent keepalive 25; down, keepalive off, up at 14 s; then down and up between
    two packets less than 5 s apart."""
    await run.at(5)
    await run.link_down()
    await run.at(6)
    run.data()
    run.tun_send()
    await run.at(8)
    await run.link_up()
    await run.at(12)
    await run.link_down()
    await run.set_keepalive(0)
    await run.at(14)
    await run.link_up()
    await run.at(18)
    run.tun_send()
    await run.at(19)
    await run.link_down()
    await run.at(20)
    await run.link_up()
    await run.at(21)
    run.tun_send()
    await run.at(28)


# The other end's moves.


@scenario()
async def previous_session(run):
    """which sessions still receive: 1 and 2 after the peer began 2; only 2 (and 3) once it has begun 3, confirmed or not."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    first = run.session
    await run.at(2)
    second = await run.initiate()
    await run.at(3)
    run.data(84, first)
    await run.at(4)
    run.data(100, second)
    await run.at(5)
    run.tun_send()
    await run.at(6)
    third = await run.initiate(confirm=False)
    await run.at(7)
    run.data(84, first)
    await run.at(8)
    run.data(100, second)
    await asyncio.sleep(0.1)
    run.tun_send()
    await run.at(9)
    run.data(116, third)
    await run.at(10)
    run.data(84, first)
    await run.at(11)
    run.data(100, second)
    await asyncio.sleep(0.1)
    run.tun_send()
    await run.at(14)


@scenario()
async def padding(run):
    """inner sizes around multiples of 16 and at the MTU (1420), to which the padding is limited."""
    sizes = (28, 31, 32, 33, 47, 48, 49, 84, 1392, 1393, 1408, 1409, 1419, 1420)
    for step, size in enumerate(sizes, 1):
        await run.at(step / 2)
        run.tun_send(size)
    await run.at(8)
    run.keepalive()
    await run.at(9)


@scenario()
async def peer_restart(run):
    """the peer forgets the session at 1 s, begins a new one at 6.2 s and confirms it at 8.2 s; the node sends every second."""

    async def peer():
        await run.at(6.2)
        session = await run.initiate(confirm=False)
        await run.at(8.2)
        run.keepalive(session)

    await asyncio.gather(peer(), run.every(1, 0.5, 15, run.tun_send))
    await run.at(18)


@scenario()
async def unconfirmed_responder(run):
    """the peer initiates at 0.5 s; the node has packets to send at 1 and 1.5 s; the peer confirms at 3 s."""
    await run.at(0.5)
    session = await run.initiate(confirm=False)
    await run.at(1)
    run.tun_send(84)
    await run.at(1.5)
    run.tun_send(100)
    await run.at(3)
    run.keepalive(session)
    await run.at(20)


@scenario()
async def unconfirmed_never(run):
    """as unconfirmed-responder, but the peer never confirms; the node has packets to send at 1 and 7 s."""
    await run.at(0.5)
    await run.initiate(confirm=False)
    run.answering = False
    await run.at(1)
    run.tun_send(84)
    await run.at(7)
    run.tun_send(100)
    await run.at(20)


@scenario(answering=False)
async def handshake_cross(run):
    """both begin at once: the node's initiation is on its way when the peer's arrives; the peer then answers the node's too."""
    await run.at(0.5)
    run.tun_send()
    theirs = await run.receive(INITIATION)
    state, ours = run.make_initiation()
    run.send(ours)
    session = await run.complete(state)
    run.respond(theirs)
    await run.at(2)
    run.keepalive(session)
    await run.at(3)
    run.data(session=session)
    await run.at(20)


@scenario(answering=False)
async def handshake_cross_answered(run):
    """both begin at once, the other order: the peer answers the node's initiation, then its own initiation arrives."""
    await run.at(0.5)
    run.tun_send()
    run.respond(await run.receive(INITIATION))
    await asyncio.sleep(0.005)
    second = await run.initiate(confirm=False)
    await run.at(1)
    run.tun_send(100)
    await run.at(2)
    run.keepalive(second)
    await run.at(3)
    run.tun_send(120)
    await run.at(20)


@scenario()
async def replay(run):
    """datagrams that come twice or too late; counters at the edge of the window (8128); the 20 ms flood rule.
    Initiations 2, 3, 4 are made in this order at 8 s. 3 is sent, and 4 within 20 ms (refused). At 9 s comes 2 (older than
    3: refused), at 10 s 4 again: as it was refused and not consumed, it is no replay."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await run.at(2)
    old = run.data()
    await run.at(3)
    run.send(old)
    await run.at(4)
    run.data(84, counter=5)
    await asyncio.sleep(0.01)
    late = run.data(100, counter=3)
    await asyncio.sleep(0.01)
    run.send(late)
    await run.at(5)
    run.data(84, counter=10000)
    await asyncio.sleep(0.01)
    run.data(100, counter=10000 - WINDOW)
    await asyncio.sleep(0.01)
    run.data(116, counter=10000 - WINDOW - 1)
    run.session.next_counter = 10001
    await run.at(6)
    state, first = run.make_initiation()
    run.send(first)
    await run.complete(state)
    run.keepalive()
    await run.at(7)
    run.send(first)
    await run.at(8)
    (_, second), (state3, third), (state4, fourth) = (run.make_initiation() for _ in range(3))
    run.send(third)
    await asyncio.sleep(0.005)
    run.send(fourth)
    await run.complete(state3)
    await run.at(9)
    run.send(second)
    await run.at(10)
    run.send(fourth)
    await run.complete(state4)
    await run.at(11)
    run.tun_send()
    await run.at(14)


@scenario()
async def counter_limit(run):
    """data at the counters where a session ends: the last one that may be used is accepted, then the session takes no more."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    await run.at(2)
    run.data(counter=REJECT_AFTER_MESSAGES)
    await run.at(3)
    run.data(counter=REJECT_AFTER_MESSAGES - 1)
    await run.at(4)
    run.data(counter=REJECT_AFTER_MESSAGES - 2)
    await run.at(5)
    run.tun_send()
    await run.at(20)


@scenario(ports=3)
async def roaming(run):
    """the endpoint follows what authenticates and is no replay; nothing else moves it."""
    await run.at(0.5)
    run.tun_send()
    await run.receive(DATA)
    first = run.session
    await run.at(2)
    old = run.data(port=2)
    await run.at(3)
    run.tun_send()
    await run.at(4)
    broken = bytearray(first.data(bytes(64)))
    broken[-1] ^= 1
    run.send(bytes(broken), port=3)
    await run.at(5)
    run.tun_send()
    await run.at(6)
    run.keepalive(port=3)
    await run.at(7)
    run.tun_send()
    await run.at(8)
    run.send(old, port=1)
    await run.at(9)
    run.tun_send()
    await run.at(10)
    state, initiation = run.make_initiation()
    run.send(initiation, port=1)
    session = await run.complete(state)
    await run.at(11)
    run.tun_send()
    await run.at(12)
    run.send(initiation, port=2)
    await run.at(13)
    run.tun_send()
    await run.at(14)
    run.keepalive(session, port=2)
    await run.at(15)
    run.tun_send()
    await run.at(18)
