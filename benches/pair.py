"""Two network namespaces that are joined by a veth, and one end of a tunnel in each: what the benchmarks here measure.

What is started ends with the `contextlib.ExitStack` that it was started on, and every command has a time limit.
"""

import base64
import json
import os
import re
import shlex
import socket
import statistics
import subprocess
import sys
import time

OUTER = ("198.18.9.1", "198.18.9.2")
INNER = ("10.9.9.1", "10.9.9.2")
PORT = 51820
IDLE_PORT = 9


def run(*words, limit=60, **options):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, timeout=limit, **options).stdout.decode()


def within(netns, *words):
    return ["ip", "netns", "exec", netns, *words]


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in {seconds} s: {what}"
        time.sleep(0.002)


def end(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Use:
    """What processes have used until now: seconds of processor time, and how often one of their threads went to
    sleep, which is how often it was woken."""

    def __init__(self, pids):
        self.cpu = self.wakeups = 0
        for task in (f"/proc/{pid}/task/{thread}" for pid in pids for thread in os.listdir(f"/proc/{pid}/task")):
            try:
                with open(f"{task}/schedstat") as file:
                    self.cpu += int(file.read().split()[0]) / 1e9
                with open(f"{task}/status") as file:
                    self.wakeups += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", file.read(), re.M).group(1))
            except OSError:  # The thread has ended.
                pass

    def until(self, later):
        later.cpu, later.wakeups = later.cpu - self.cpu, later.wakeups - self.wakeups
        return later


class Pair:
    """A tunnel between two namespaces. The first one is the server: it is flooded, and downloads come from it.

    `command` starts one end of it. A daemon gets " -f INTERFACE" appended unless "{if}" is in it, and is configured
    through its socket. With `forwarder` it is not a daemon, and gets its interface, port, and the other's address."""

    def __init__(self, stack, command, number, forwarder=False, keepalive=0):
        self.command, self.forwarder, self.keepalive = command, forwarder, keepalive
        self.netns = [f"wgp{os.getpid()}x{number}{end}" for end in "ab"]
        self.names = [f"wp{os.getpid() % 10**6}{number}{end}" for end in "ab"]
        self.daemons = [None, None]
        for netns in self.netns:
            run("ip", "netns", "add", netns)
            stack.callback(run, "ip", "netns", "del", netns)
            run("ip", "-n", netns, "link", "set", "lo", "up")
        a, b = self.netns
        run("ip", "link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
        self.keys = [run("wg", "genkey").strip() for _ in "ab"]
        self.publics = [run("wg", "pubkey", input=key.encode()).strip() for key in self.keys]
        stack.callback(self.stop, 0)
        stack.callback(self.stop, 1)
        for side, netns in enumerate(self.netns):
            run("ip", "-n", netns, "addr", "add", f"{OUTER[side]}/24", "dev", "veth0")
            run("ip", "-n", netns, "link", "set", "veth0", "up")
            self.start(side)
        idle = f"import socket, time; s = socket.socket(2, 2); s.bind(('', {IDLE_PORT})); time.sleep(1e6)"
        self.background(stack, a, sys.executable, "-c", idle)
        self.background(stack, a, "iperf3", "-s")
        self.ping(20)

    @staticmethod
    def background(stack, netns, *words):
        process = subprocess.Popen(within(netns, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(end, process)

    def start(self, side):
        """Starts one end, configures it and gives it its address."""
        netns, name = self.netns[side], self.names[side]
        arguments = " {if} {port} {peer} {port}" if self.forwarder else " -f {if}"
        command = self.command if "{if}" in self.command else self.command + arguments
        words = within(netns, *shlex.split(command.format(**{"if": name, "port": PORT, "peer": OUTER[1 - side]})))
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env={**os.environ, "WG_PROCESS_FOREGROUND": "1"})
        self.daemons[side] = process
        if self.forwarder:
            wait_until(lambda: self.is_there(netns, name), f"{command}: no interface")
        else:
            self.configure(side)
        commands = f"addr add {INNER[side]}/24 dev {name}\nlink set {name} mtu 1420 up\n"
        run("ip", "-n", netns, "-batch", "-", input=commands.encode())

    @staticmethod
    def is_there(netns, name):
        return subprocess.run(["ip", "-n", netns, "link", "show", name], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0

    def configure(self, side):
        """Sends the configuration as soon as the daemon listens. Without wg(8): its start would also be measured."""
        path = f"/var/run/wireguard/{self.names[side]}.sock"
        client = socket.socket(socket.AF_UNIX)

        def connected():
            assert self.daemons[side].poll() is None, f"{self.command} does not start"
            return client.connect_ex(path) == 0

        private, public = (base64.b64decode(key).hex() for key in (self.keys[side], self.publics[1 - side]))
        with client:
            client.settimeout(30)
            wait_until(connected, f"{self.command}: no socket")
            text = f"set=1\nprivate_key={private}\nlisten_port={PORT}\nreplace_peers=true\n"
            text += f"public_key={public}\nendpoint={OUTER[1 - side]}:{PORT}\n"
            text += f"persistent_keepalive_interval={self.keepalive}\nallowed_ip={INNER[1 - side]}/32\n\n"
            client.sendall(text.encode())
            answer = client.recv(4096)
        assert b"errno=0" in answer, f"{self.command}: {answer}"

    def stop(self, side):
        if self.daemons[side]:
            end(self.daemons[side])
            self.daemons[side] = None

    def use(self):
        return Use([daemon.pid for daemon in self.daemons if daemon])

    def ping(self, count):
        """The median in microseconds."""
        text = run(*within(self.netns[1], "ping", "-n", "-i", "0.01", "-c", str(count), "-W", "5", INNER[0]))
        times = [float(line.split("time=")[1].split()[0]) for line in text.splitlines() if "time=" in line]
        return 1000 * statistics.median(times)

    def iperf(self, seconds, *options):
        """What iperf3 reports of the client, which is the second end."""
        words = ["iperf3", "-J", "-c", INNER[0], "-t", str(seconds), *options]
        return json.loads(run(*within(self.netns[1], *words), limit=seconds + 60))

    def speed(self, seconds, *options):
        """Of a TCP stream, in Mbit/s."""
        return self.iperf(seconds, *options)["end"]["sum_received"]["bits_per_second"] / 1e6

    def resident(self):
        """Of the end that is flooded, in MiB."""
        with open(f"/proc/{self.daemons[0].pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
