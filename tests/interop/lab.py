"""What one scenario makes on this machine - namespaces, VMs, processes, files - and its complete removal afterwards."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from report import Failed, expect

SOCKETS = Path("/var/run/wireguard")  # where wg(8) looks, whatever the namespace
numbers = itertools.count(1)
stopping = threading.Event()  # set when the suite has been asked to end early


class Settings:
    """Where things are: the daemon under test, the other implementations by name, the VM script and its directory."""

    def __init__(self, daemon, peers, vm_script, vm_directory):
        self.daemon, self.peers, self.vm_script, self.vm_directory = daemon, peers, vm_script, vm_directory
        self.shared = Lab(self)  # of all scenarios


def run(command, timeout=60, check=True):
    """Runs a program to its end. Returns what it printed, on both its outputs."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    output = done.stdout.decode(errors="replace")
    expect(done.returncode == 0 or not check, f"{' '.join(command)[-300:]}: status {done.returncode}: {output[-500:]}")
    return output


def wait_until(condition, seconds, what):
    """Polls. Returns what the condition returned, when that is true, and the seconds it took."""
    start = time.monotonic()
    while True:
        value = condition()
        took = time.monotonic() - start
        if value:
            return value, took
        expect(took < seconds and not stopping.is_set(), f"not within {took:.1f} s: {what}")
        time.sleep(0.1)


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def end_process(pid, first=signal.SIGTERM, patience=5):
    """Ends a process of ours by its number, gently and then not."""
    for number in (first, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        for _ in range(patience * 10):
            if has_ended(pid):
                return
            time.sleep(0.1)


class Lab:
    def __init__(self, settings):
        self.settings = settings
        self.undo, self.lock, self.vm_netns = contextlib.ExitStack(), threading.Lock(), None
        self.directory = Path(tempfile.mkdtemp(prefix="wg-interop-"))
        self.undo.callback(shutil.rmtree, self.directory)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.undo.close()

    def netns(self):
        """A network namespace. At the end its processes are ended too, also daemons in the background."""
        name = f"wgi{os.getpid()}n{next(numbers)}"
        run(["ip", "netns", "add", name])
        self.undo.callback(run, ["ip", "netns", "del", name])
        self.undo.callback(self.empty, name)
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        return name

    def linked_netns(self):
        """Two namespaces with a link between them, `veth0` in each: 198.18.1.1 and .2, fd00:19::1 and ::2."""
        pair = [self.netns(), self.netns()]
        run(["ip", "link", "add", "veth0", "netns", pair[0], "type", "veth", "peer", "name", "veth0", "netns", pair[1]])
        for number, netns in enumerate(pair, 1):
            run(["ip", "-n", netns, "addr", "add", f"198.18.1.{number}/24", "dev", "veth0"])
            run(["ip", "-n", netns, "-6", "addr", "add", f"fd00:19::{number}/64", "dev", "veth0", "nodad"])
            run(["ip", "-n", netns, "link", "set", "veth0", "up"])
        return pair

    def empty(self, netns):
        for pid in run(["ip", "netns", "pids", netns]).split():
            end_process(int(pid))

    def netns_with_vm(self):
        """Boots the VM on the TAP `tap0` of a new namespace; there is one of it."""
        with self.lock:
            if not self.vm_netns:
                netns, script, directory = self.netns(), self.settings.vm_script, self.settings.vm_directory
                self.undo.callback(self.stop_vm, netns)
                run([script, "start", directory, netns, "tap0", "198.18.0.1", "198.18.0.2"], timeout=120)
                self.vm_netns = netns
            return self.vm_netns

    def stop_vm(self, netns):
        run([self.settings.vm_script, "stop", self.settings.vm_directory, netns, "tap0"])
        for leftover in Path(self.settings.vm_directory).glob(f"{netns}.tap0.*"):
            leftover.unlink()

    def interface_name(self):
        name = f"wi{os.getpid() % 10**6}x{next(numbers)}"
        self.undo.callback(lambda: (SOCKETS / f"{name}.sock").unlink(missing_ok=True))
        return name

    def spawn(self, command, log):
        """Starts a program that runs along, its outputs going to a file."""
        with open(log, "ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        self.undo.callback(self.reap, process)
        return process

    @staticmethod
    def reap(process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
