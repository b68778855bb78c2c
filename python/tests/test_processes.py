"""Interpreters that end, and children of fork(), while tunnels are open."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support import PATIENCE, running, script

pytestmark = [
    pytest.mark.ours_only("there is none"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

OPEN = """
import asyncio, gc, logging, os, socket, sys, threading, time, atexit
from support import SERVER_KEY, CLIENT_PUB, client, noise, pair, soon
import wg_embed, mitmproxy_wireguard, wg_embed.mitmproxy

async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()

async def keep(stream):
    await stream.read(1)
"""

ENDS = {
    "at the end of the program": """
server, tunnel = pair()
tunnel.net.ping_blocking("10.0.0.2", timeout=60)
""",
    "with everything logged": """
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
server, tunnel = pair()
tunnel.net.ping_blocking("10.0.0.2", timeout=60)
""",
    "in a cycle that is never collected": """
gc.disable()
class Program: pass
program = Program()
program.me, (program.server, program.tunnel) = program, pair()
program.tunnel.net.ping_blocking("10.0.0.2", timeout=60)
del program
""",
    "with threads that wait": """
server, tunnel = pair()
listener = server.net.listen(80)
udp = server.net.udp(53)
for call in (listener.accept, udp.receive_blocking, lambda: time.sleep(1000)):
    threading.Thread(target=call, daemon=True).start()
tunnel.on_event(print)
time.sleep(0.2)
""",
    "with threads that send": """
server, tunnel = pair()
listener = server.net.listen(80)
def serve():
    connection, _ = listener.accept()
    while connection.recv(65536): pass
def send():
    connection = tunnel.net.connect("10.0.0.2:80", timeout=60)
    flows.set()
    while True: connection.sendall(bytes(100_000))
flows = threading.Event()
for call in (serve, send):
    threading.Thread(target=call, daemon=True).start()
flows.wait(60)
time.sleep(0.2)
""",
    "with a loop that is not closed": """
async def main():
    server, tunnel = pair()
    await server.net.serve(echo, 80)
    reader, writer = await soon(tunnel.net.dial("10.0.0.2:80"))
    writer.write(b"x")
    await soon(reader.readexactly(1))
    kept.append((server, tunnel, reader, writer))
kept = []
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
""",
    "with servers of both interfaces": """
async def main():
    for start in (mitmproxy_wireguard.start_server, wg_embed.mitmproxy.wireguard.start_wireguard_server):
        server = await start("127.0.0.1", 0, SERVER_KEY, [CLIENT_PUB], keep, keep)
        tunnel = client(server.getsockname()[1])
        kept.append((server, tunnel, await soon(tunnel.net.dial("10.0.0.42:80"))))
kept = []
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
""",
    "by sys.exit in a handler": """
class Exits(asyncio.Protocol):
    def data_received(self, data):
        sys.exit(0)
async def main():
    global server, tunnel
    server, tunnel = pair()
    await server.net.create_server(Exits, 80)
    _, writer = await soon(tunnel.net.dial("10.0.0.2:80"))
    writer.write(b"x")
    await asyncio.sleep(60)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
""",
    "in a function that runs at exit": """
server, tunnel = pair()
atexit.register(lambda: tunnel.net.ping_blocking("10.0.0.2", timeout=60))
""",
}


def reports(errors: str) -> list[str]:
    """Without tasks that are left open: they are the program's, and Python says so."""
    return [line for line in errors.splitlines() if "Task was destroyed" not in line and not line.startswith("task:")]


@pytest.mark.parametrize("what", ENDS)
def test_an_interpreter_ends(what: str) -> None:
    ended = script(OPEN + ENDS[what])
    assert ended.returncode == 0 and not reports(ended.stderr), ended.stderr


def test_the_log_is_passed_on_to_the_end() -> None:
    """The thread that does it has to be gone before the interpreter is: a race, so it is tried some times."""
    for _ in range(10):
        ended = script(OPEN + ENDS["with everything logged"])
        assert ended.returncode == 0 and not ended.stderr, ended.stderr
        assert "the first handshake with the peer is complete" in ended.stdout, ended.stdout


FORKS = """
import errno, tempfile, threading
def child(check):
    # Standard output tells the parent how it went.
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check()
            code = 0
        except BaseException as error:
            print("in the child:", repr(error), flush=True)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def refuses(call):
    try:
        call()
    except OSError as error:
        assert error.errno == errno.EBADF, error
    else:
        raise AssertionError("it was not refused")
"""

CHILDREN = {
    "every call is refused": """
server, tunnel = pair()
net = tunnel.net
listener, udp = net.listen(80), net.udp(53)
def check():
    for call in (lambda: tunnel.peers, lambda: tunnel.rebind(), lambda: net.stats(), lambda: net.connect("10.0.0.2:80"),
                 lambda: net.addresses, lambda: net.listen(81), lambda: net.udp(),
                 lambda: udp.send(b"x", ("10.0.0.2", 1)),
                 lambda: udp.receive_blocking(1), lambda: listener.accept(1), lambda: net.ping_blocking("10.0.0.2")):
        refuses(call)
    for call in (tunnel._native.take_events, tunnel._native.wait_events,
                 lambda: asyncio.run(anext_of(tunnel.events()))):
        refuses(call)
    listener.close()
    udp.close()
    tunnel.close()
async def anext_of(events):
    return await events.__anext__()
child(check)
assert net.ping_blocking("10.0.0.2", timeout=60) > 0
""",
    "streams are refused": """
async def main():
    server = await mitmproxy_wireguard.start_server("127.0.0.1", 0, SERVER_KEY, [CLIENT_PUB], queue_up, lambda *_: None)
    tunnel = client(server.getsockname()[1])
    reader, writer = await soon(tunnel.net.dial("10.0.0.42:80"))
    stream = await soon(streams.get())
    def check():
        for call in (lambda: stream.read(1), lambda: stream.write(b"x"), stream.drain, stream.write_eof, stream.close,
                     server.wait_closed, lambda: server.send_datagram(b"", ("10.0.0.1", 1), ("10.0.0.2", 2))):
            refuses(call)
        server.close()
    child(check)
    stream.write(b"still there")
    assert await soon(reader.readexactly(11)) == b"still there"
    tunnel.close()
    server.close()
async def queue_up(stream):
    streams.put_nowait(stream)
    await asyncio.sleep(1000)
async def begin():
    global streams
    streams = asyncio.Queue()
    await main()
loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
loop.close()
""",
    "closing writes to no descriptor of its own": """
async def main():
    server = await mitmproxy_wireguard.start_server("127.0.0.1", 0, SERVER_KEY, [CLIENT_PUB], keep, lambda *_: None)
    inner, tunnel = pair()
    udp, service = inner.net.udp(53), await inner.net.serve(echo, 80)
    waiting = asyncio.ensure_future(udp.receive())
    events = tunnel.events()
    event = asyncio.ensure_future(anext_of(events))
    stop = tunnel.on_event(print)
    # Until the loop has taken what it was told: only then it is told again.
    await asyncio.sleep(0.2)
    def check():
        # These get the numbers that were closed at the fork.
        files = [tempfile.TemporaryFile() for _ in range(40)]
        udp.close()
        udp._native.watch(None)
        service.close()
        stop()
        inner.close()
        tunnel.close()
        server.close()
        for file in files:
            assert os.fstat(file.fileno()).st_size == 0
    child(check)
    for task in (waiting, event):
        task.cancel()
    server.close()
    inner.close()
    tunnel.close()
async def anext_of(events):
    return await events.__anext__()
asyncio.run(main())
""",
    "it has tunnels and sockets of its own": """
def both():
    server, tunnel = pair()
    with server, tunnel, server.net.listen(80) as listener:
        with tunnel.net.connect("10.0.0.2:80", timeout=60) as here:
            there, _ = listener.accept(60)
            here.sendall(b"through a pair")
            there.settimeout(60)
            assert there.recv(100) == b"through a pair"
            there.close()
server, tunnel = pair()
tunnel.net.connect
with server.net.listen(80) as listener, tunnel.net.connect("10.0.0.2:80", timeout=60):
    child(both)
both()
""",
    "what it drops is the parent's": """
server, tunnel = pair()
def check():
    global server, tunnel
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
    del server, tunnel
    gc.collect()
    # Numbers that were closed at the fork, and given again, are still open.
    for number in kept:
        os.fstat(number)
child(check)
assert tunnel.net.ping_blocking("10.0.0.2", timeout=60) > 0
""",
    "many at once, while data flow": """
server, tunnel = pair()
listener = server.net.listen(80)
stopped = threading.Event()
def serve():
    connection, _ = listener.accept()
    while connection.recv(65536): pass
def send():
    with tunnel.net.connect("10.0.0.2:80", timeout=60) as connection:
        while not stopped.is_set(): connection.sendall(bytes(100_000))
threads = [threading.Thread(target=call) for call in (serve, send)]
for thread in threads: thread.start()
def check():
    global server, tunnel, listener
    refuses(lambda: tunnel.peers)
    del server, tunnel, listener
    gc.collect()
for _ in range(30): child(check)
stopped.set()
for thread in threads: thread.join(60)
""",
    "a socket ends although a child has a copy of its other end": """
server, tunnel = pair()
listener = server.net.listen(80)
connection = tunnel.net.connect("10.0.0.2:80", timeout=60)
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(write)
    os.read(read, 1)
    os._exit(0)
os.close(read)
tunnel.close()
connection.settimeout(60)
try:
    assert connection.recv(1) == b""
except ConnectionError:
    pass
os.write(write, b"x")
os.waitpid(pid, 0)
""",
}


@pytest.mark.parametrize("what", CHILDREN)
def test_in_a_child(what: str) -> None:
    ended = script("import warnings; warnings.simplefilter('ignore')\n" + OPEN + FORKS + CHILDREN[what])
    assert ended.returncode == 0 and not reports(ended.stderr), ended.stdout + ended.stderr


def in_a_network_of_its_own(code: str) -> None:
    """Runs a script that creates TUN devices."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("a TUN device needs root and /dev/net/tun")
    try:
        unshare = ["unshare", "--net", "true"]
        subprocess.run(unshare, check=True, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no network namespace can be made ({error})")
    ended = script("import warnings; warnings.simplefilter('ignore')\n" + OPEN + code, within=("unshare", "--net"))
    assert ended.returncode == 0 and not ended.stderr, ended.stdout + ended.stderr


def test_a_tun_goes_although_a_child_lives() -> None:
    in_a_network_of_its_own("""
tunnel = wg_embed.Tunnel(wg_embed.Config(SERVER_KEY), tun="wgpyfork0")
interfaces = lambda: [name for _, name in socket.if_nameindex()]
assert "wgpyfork0" in interfaces()
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(write)
    os.read(read, 1)
    os._exit(0)
os.close(read)
tunnel.close()
# The child may not have come to it yet.
deadline = time.monotonic() + 60
while "wgpyfork0" in interfaces():
    assert time.monotonic() < deadline
    time.sleep(0.01)
os.write(write, b"x")
os.waitpid(pid, 0)
""")


def test_a_tun_has_the_mtu_of_its_tunnel() -> None:
    in_a_network_of_its_own("""
import fcntl, struct
def mtu_of_interface():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, 0x8921, struct.pack("16si16x", b"wgpymtu0", 0))  # SIOCGIFMTU
    return struct.unpack_from("i", answer, 16)[0]
for in_config, argument, expected in ((None, None, 1420), (None, 1280, 1280), (1300, None, 1300), (1300, 1400, 1400)):
    with wg_embed.Tunnel(wg_embed.Config(SERVER_KEY, mtu=in_config), tun="wgpymtu0", mtu=argument) as tunnel:
        assert mtu_of_interface() == expected
        deadline = time.monotonic() + 60
        while tunnel.mtu != expected:
            assert time.monotonic() < deadline
            time.sleep(0.01)
""")


IDLE = """
async def main():
    for start in (mitmproxy_wireguard.start_server, wg_embed.mitmproxy.wireguard.start_wireguard_server):
        kept.append(await start("127.0.0.1", 0, SERVER_KEY, [CLIENT_PUB], keep, keep))
    tunnel = wg_embed.Tunnel(wg_embed.Config(SERVER_KEY, addresses=["10.0.0.2"]))
    kept.append((tunnel, await tunnel.net.serve(echo, 80), tunnel.net.udp(53), tunnel.net.listen(81)))
    print("READY", flush=True)
    await asyncio.Event().wait()
kept = []
asyncio.run(main())
"""


def test_idle_servers_make_no_system_call(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    trace = tmp_path / "trace"
    with running("-c", OPEN + IDLE) as (process, output):
        assert output.readline() == "READY\n"
        command = ["strace", "-f", "-o", str(trace), "-p", str(process.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            attached = strace.stderr.readline()
            if "attached" not in attached:
                pytest.skip(f"strace cannot trace: {attached}")
            try:
                # What strace itself interrupts is begun again.
                deadline = time.monotonic() + PATIENCE
                size = -1
                while size != (size := trace.stat().st_size if trace.exists() else 0) or not size:
                    assert time.monotonic() < deadline, trace.read_text()[-3000:]
                    time.sleep(1)
                time.sleep(3)
                assert trace.stat().st_size == size, trace.read_text()[size:]
            finally:
                strace.terminate()
        assert process.poll() is None
