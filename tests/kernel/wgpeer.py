"""A minimal WireGuard peer without sockets, clocks or timers: it builds and opens datagrams, and nothing else.

It is the scripted other end of the recordings: the caller decides when each message is made and whether it is sent.
"""

import hashlib
import hmac
import os
import struct
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
TYPE_NAMES = {INITIATION: "initiation", RESPONSE: "response", COOKIE: "cookie", DATA: "data"}
FIXED_SIZES = {INITIATION: 148, RESPONSE: 92, COOKIE: 64}
NO_PSK = bytes(32)


class Rejected(Exception):
    """The message is not for us, or it does not authenticate."""


def hash_(*parts):
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(key, data):
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def kdf(key, data, count):
    secret = hmac.new(key, data, hashlib.blake2s).digest()
    out, last = [], b""
    for number in range(1, count + 1):
        last = hmac.new(secret, last + bytes([number]), hashlib.blake2s).digest()
        out.append(last)
    return out


def nonce(counter):
    return bytes(4) + struct.pack("<Q", counter)


def seal(key, counter, text, extra):
    return ChaCha20Poly1305(key).encrypt(nonce(counter), text, extra)


def open_(key, counter, sealed, extra):
    try:
        return ChaCha20Poly1305(key).decrypt(nonce(counter), sealed, extra)
    except InvalidTag:
        raise Rejected("the message does not authenticate") from None


def public_key(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private, public):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def hchacha20(key, block):
    """The key derivation of XChaCha20: the ChaCha20 rounds over key and 16 bytes, first and last row kept."""
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + block))

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            mixed = state[z] ^ state[x]
            state[z] = ((mixed << turn) | (mixed >> (32 - turn))) & 0xFFFFFFFF

    for _ in range(10):
        for lane in range(4):
            quarter(lane, lane + 4, lane + 8, lane + 12)
        for lane in range(4):
            quarter(lane, 4 + (lane + 1) % 4, 8 + (lane + 2) % 4, 12 + (lane + 3) % 4)
    return struct.pack("<8I", *state[0:4], *state[12:16])


CHAIN_START = hash_(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
HASH_START = hash_(CHAIN_START, b"WireGuard v1 zx2c4 Jason@zx2c4.com")


def message_type(datagram):
    """The type of a datagram, None if it is no WireGuard message."""
    kind = struct.unpack_from("<I", datagram)[0] if len(datagram) >= 4 else 0
    fits = len(datagram) >= 32 if kind == DATA else FIXED_SIZES.get(kind) == len(datagram)
    return kind if fits else None


def sender_index(datagram):
    """Of an initiation or a response."""
    return struct.unpack_from("<I", datagram, 4)[0]


def receiver_index(datagram):
    """Of a response, a cookie reply or a data message."""
    offset = 8 if message_type(datagram) == RESPONSE else 4
    return struct.unpack_from("<I", datagram, offset)[0]


def has_mac2(datagram):
    """Whether a handshake message carries a cookie's MAC."""
    return datagram[-16:] != bytes(16)


class Session:
    """Transport keys; `ours` is the index that the other end puts on what it sends to us."""

    def __init__(self, ours, theirs, send_key, receive_key):
        self.ours, self.theirs = ours, theirs
        self.send_key, self.receive_key = send_key, receive_key
        self.next_counter = 0

    def data(self, inner=b"", counter=None):
        """A data message, a keepalive if `inner` is empty."""
        if counter is None:
            counter = self.next_counter
            self.next_counter += 1
        padded = inner + bytes(-len(inner) % 16)
        return struct.pack("<IIQ", DATA, self.theirs, counter) + seal(self.send_key, counter, padded, b"")

    def open(self, datagram):
        """The counter and the (padded) inner bytes of a data message."""
        counter = struct.unpack_from("<Q", datagram, 8)[0]
        return counter, open_(self.receive_key, counter, datagram[16:], b"")


class Initiation:
    """A handshake under way: either begun by us or taken from the other end."""

    def __init__(self, index, chain, transcript, ephemeral):
        self.index, self.chain, self.transcript, self.ephemeral = index, chain, transcript, ephemeral


class Peer:
    """Our static key and the other end's. Holds no handshake state: the caller keeps the objects that it needs."""

    def __init__(self, private, their_public):
        self.private, self.public, self.their_public = private, public_key(private), their_public
        self.last_timestamp = b""

    def timestamp(self):
        """TAI64N, always above the one before."""
        now = time.time_ns()
        while True:
            stamp = struct.pack(">QI", (1 << 62) + 10 + now // 10**9, now % 10**9)
            if stamp > self.last_timestamp:
                self.last_timestamp = stamp
                return stamp
            now += 1000

    def finish(self, message, to):
        """Appends mac1, and a mac2 of zeros."""
        return message + mac(hash_(b"mac1----", to), message) + bytes(16)

    def initiate(self):
        """Begins a handshake: the state to keep, and the initiation."""
        index, ephemeral = int.from_bytes(os.urandom(4), "little"), os.urandom(32)
        ephemeral_public = public_key(ephemeral)
        transcript = hash_(hash_(HASH_START, self.their_public), ephemeral_public)
        (chain,) = kdf(CHAIN_START, ephemeral_public, 1)
        chain, key = kdf(chain, dh(ephemeral, self.their_public), 2)
        sealed_static = seal(key, 0, self.public, transcript)
        transcript = hash_(transcript, sealed_static)
        chain, key = kdf(chain, dh(self.private, self.their_public), 2)
        sealed_time = seal(key, 0, self.timestamp(), transcript)
        transcript = hash_(transcript, sealed_time)
        message = struct.pack("<II", INITIATION, index) + ephemeral_public + sealed_static + sealed_time
        return Initiation(index, chain, transcript, ephemeral), self.finish(message, self.their_public)

    def read_initiation(self, datagram):
        """Takes an initiation; `respond` goes on from what this returns."""
        ephemeral, sealed_static, sealed_time = datagram[8:40], datagram[40:88], datagram[88:116]
        if not hmac.compare_digest(mac(hash_(b"mac1----", self.public), datagram[:116]), datagram[116:132]):
            raise Rejected("mac1")
        transcript = hash_(hash_(HASH_START, self.public), ephemeral)
        (chain,) = kdf(CHAIN_START, ephemeral, 1)
        chain, key = kdf(chain, dh(self.private, ephemeral), 2)
        if open_(key, 0, sealed_static, transcript) != self.their_public:
            raise Rejected("another static key")
        transcript = hash_(transcript, sealed_static)
        chain, key = kdf(chain, dh(self.private, self.their_public), 2)
        open_(key, 0, sealed_time, transcript)
        transcript = hash_(transcript, sealed_time)
        return Initiation(sender_index(datagram), chain, transcript, ephemeral)

    def respond(self, initiation, psk=NO_PSK):
        """Answers an initiation: the session, and the response."""
        index, ephemeral = int.from_bytes(os.urandom(4), "little"), os.urandom(32)
        ephemeral_public = public_key(ephemeral)
        transcript = hash_(initiation.transcript, ephemeral_public)
        (chain,) = kdf(initiation.chain, ephemeral_public, 1)
        (chain,) = kdf(chain, dh(ephemeral, initiation.ephemeral), 1)
        (chain,) = kdf(chain, dh(ephemeral, self.their_public), 1)
        chain, mixed, key = kdf(chain, psk, 3)
        transcript = hash_(transcript, mixed)
        message = struct.pack("<III", RESPONSE, index, initiation.index) + ephemeral_public
        message = self.finish(message + seal(key, 0, b"", transcript), self.their_public)
        receive_key, send_key = kdf(chain, b"", 2)
        return Session(index, initiation.index, send_key, receive_key), message

    def read_response(self, initiation, datagram, psk=NO_PSK):
        """Completes a handshake that we began."""
        if receiver_index(datagram) != initiation.index:
            raise Rejected("for another initiation")
        ephemeral = datagram[12:44]
        (chain,) = kdf(initiation.chain, ephemeral, 1)
        (chain,) = kdf(chain, dh(initiation.ephemeral, ephemeral), 1)
        (chain,) = kdf(chain, dh(self.private, ephemeral), 1)
        chain, mixed, key = kdf(chain, psk, 3)
        transcript = hash_(hash_(initiation.transcript, ephemeral), mixed)
        open_(key, 0, datagram[44:60], transcript)
        send_key, receive_key = kdf(chain, b"", 2)
        return Session(initiation.index, sender_index(datagram), send_key, receive_key)

    def cookie_reply(self, datagram):
        """A cookie reply to a handshake message of the other end, as if we were under load."""
        fresh = os.urandom(24)
        key = hchacha20(hash_(b"cookie--", self.public), fresh[:16])
        sealed = ChaCha20Poly1305(key).encrypt(bytes(4) + fresh[16:], os.urandom(16), datagram[-32:-16])
        return struct.pack("<II", COOKIE, sender_index(datagram)) + fresh + sealed


def check():
    """The peer against itself, and HChaCha20 against its published vector."""
    key = bytes(range(32))
    block = bytes.fromhex("000000090000004a0000000031415927")
    wanted = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    assert hchacha20(key, block).hex() == wanted
    a, b = os.urandom(32), os.urandom(32)
    left, right = Peer(a, public_key(b)), Peer(b, public_key(a))
    state, initiation = left.initiate()
    session, response = right.respond(right.read_initiation(initiation), key)
    other = left.read_response(state, response, key)
    assert session.open(other.data(b"hello"))[1] == b"hello" + bytes(11)
    assert other.open(session.data()) == (0, b"")


if __name__ == "__main__":
    check()
