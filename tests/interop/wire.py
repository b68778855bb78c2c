"""Works on the frames of an interface, in the namespace in which it is run.

    wire.py capture INTERFACE                    prints "SECONDS DIRECTION HEX" for each frame that carries UDP
    wire.py inject INTERFACE                     sends the frames given in hex on stdin, one a line
    wire.py flood SOURCE TARGET PORT KEY BURST PAUSE SECONDS
                                                 sends bursts of initiations for the public key KEY: right in mac1,
                                                 random in all else. SIGTERM ends it, and SECONDS do if that does not
                                                 come. Prints how many were sent, and how many cookie replies came.
"""

import base64
import contextlib
import hashlib
import os
import signal
import socket
import struct
import sys
import threading
import time

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, UDP = 3, 0x0800, 0x86DD, 17
SO_RCVBUFFORCE, PACKET_OUTGOING = 33, 4


def udp_payload(frame):
    """Source port, target port, payload and its offset; None if the frame carries no UDP."""
    kind = struct.unpack_from(">H", frame, 12)[0]
    if kind == ETH_P_IP and len(frame) >= 42 and frame[23] == UDP:
        offset = 14 + 4 * (frame[14] & 15)
    elif kind == ETH_P_IPV6 and len(frame) >= 62 and frame[20] == UDP:
        offset = 54
    else:
        return None
    source, target, size = struct.unpack_from(">HHH", frame, offset)
    return source, target, frame[offset + 8 : offset + size], offset + 8


def capture(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    end.bind((interface, ETH_P_ALL))
    print("ready", flush=True)
    while True:
        frame, origin = end.recvfrom(65536)
        if udp_payload(frame):
            direction = "out" if origin[2] == PACKET_OUTGOING else "in"
            print(f"{time.time():.6f} {direction} {frame.hex()}", flush=True)


def inject(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.bind((interface, 0))
    for line in sys.stdin:
        end.send(bytes.fromhex(line.strip()))


def flood(source, target, port, key, burst, pause, seconds):
    mac_key = hashlib.blake2s(b"mac1----" + base64.b64decode(key)).digest()
    end = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((source, 0))
    end.connect((target, int(port)))
    end.setblocking(False)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    stop, sent, cookies = time.monotonic() + float(seconds), 0, 0
    while time.monotonic() < stop and not ended.is_set():
        messages = []
        for _ in range(int(burst)):
            message = struct.pack("<I", 1) + os.urandom(112)
            messages.append(message + hashlib.blake2s(message, key=mac_key, digest_size=16).digest() + bytes(16))
        for message in messages:
            with contextlib.suppress(OSError):
                sent += bool(end.send(message))
        ended.wait(float(pause))
        with contextlib.suppress(OSError):
            while True:
                cookies += end.recv(2048)[0] == 3
    print(f"sent {sent} cookies {cookies}")


if __name__ == "__main__":
    {"capture": capture, "inject": inject, "flood": flood}[sys.argv[1]](*sys.argv[2:])
