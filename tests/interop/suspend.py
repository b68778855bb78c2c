"""Our daemon in a machine that is suspended: what came due meanwhile is done when the machine wakes, and not later.

This shows the whole: a clock that counts sleep, and a wait that ends. tests/device_sleep.rs shows that the wait ends by
our own timer, and not only because the kernel happens to interrupt it."""

import re
import shutil
import sys

from lab import run, wait_until
from node import Daemon, End, join
from report import expect
from traffic import DATA, Capture

SLEEP = 20  # seconds
KEEPALIVE = 15  # so it comes due during the sleep, and before the time limit of any wait that stood still meanwhile
FILES, MARK = 8123, 9  # ports of the host
CLOCK = "/sys/class/rtc/rtc0"


class DaemonInVm(End):
    """The daemon under test, in the VM: it is fetched from the host, with the libraries that it needs."""

    def __init__(self, lab, vm, host):
        super().__init__(vm, "wgvm", "daemon in the VM")
        program, directory = lab.settings.daemon, lab.directory / "files"
        # A static program has none, and ldd then fails.
        libraries = re.findall(r"/\S+", run(["ldd", program], check=False).replace(f"{program}:", ""))
        directory.mkdir()
        for file in (program, *libraries):
            shutil.copy(file, directory)
        serve = (sys.executable, "-m", "http.server", "--bind", host.outer[4], FILES, "--directory", directory)
        lab.spawn(host.command(*serve), lab.directory / "files.log")
        url = f"http://{host.outer[4]}:{FILES}"
        wait_until(lambda: "there" in self.shell(f"if wget -q -O /dev/null {url}/; then echo there; fi"), 10, "the server of files")
        for source, target in [(program, "/tmp/wg-embed"), *((library, library) for library in libraries)]:
            name = source.rpartition("/")[2]
            self.shell(f"[ -e {target} ] || {{ mkdir -p {target.rpartition('/')[0]}; wget -q -O {target} {url}/{name}; chmod 755 {target}; }}")
        self.shell(f"/tmp/wg-embed {self.interface} > /tmp/{self.interface}.log 2>&1")


def why_not(vm):
    """Why the VM cannot be suspended; empty if it can."""
    states = vm.shell("cat /sys/power/state /sys/power/mem_sleep", check=False)
    if "mem" not in states.split() or "deep" not in states:
        return f"the VM's kernel cannot be suspended: {states.strip()}"
    if "there" not in vm.shell(f"if [ -e {CLOCK}/wakealarm ]; then echo there; fi"):
        return "the VM has no clock that would wake it"
    return ""


def seconds_asleep(vm):
    """What one clock counts and the other does not."""
    up, awake = vm.shell("cut -d' ' -f1 /proc/uptime; awk '/^now at/ { print $3 }' /proc/timer_list").split()
    return float(up) - int(awake) / 1e9


def keepalive(host, vm, lab, t):
    reason = why_not(vm)
    if reason:
        t.report.remark(f"{t.scenario}: skipped: {reason}")
        return
    ours, theirs = Daemon(lab, host), DaemonInVm(lab, vm, host)
    with t.check("a session", vital=True):
        join(ours, theirs, first=theirs)
        theirs.expect_pings(ours)
    before, capture = seconds_asleep(vm), Capture(host, "tap0")
    from_vm = lambda: [d for d in capture.datagrams() if d.direction == "in" and d.source == theirs.port and d.kind == DATA]
    theirs.set_peer(ours, f"persistent-keepalive {KEEPALIVE}")
    wait_until(from_vm, 5, "the first keepalive")
    asleep = from_vm()[-1].when
    # In the background: its answer would have to outlive the sleep.
    sleep = f"echo +{SLEEP} > {CLOCK}/wakealarm; echo mem > /sys/power/state; echo $? > /dev/udp/{host.outer[4]}/{MARK}"
    vm.shell(f"({sleep}) > /tmp/suspend.log 2>&1 &")
    marks = lambda: [d for d in capture.datagrams() if d.target == MARK]
    with t.check(f"the VM is suspended for {SLEEP} s", vital=True) as note:
        mark = wait_until(marks, SLEEP + 20, "a sign of life")[0][0]
        slept = seconds_asleep(vm) - before
        note.text = f"{slept:.1f} s by its own clocks"
        expect(mark.payload == b"0\n", f"{mark.payload}: {vm.shell('cat /tmp/suspend.log; dmesg | tail -n 5')}")
        expect(abs(slept - SLEEP) < 3, note.text)
    with t.check("a keepalive that came due meanwhile is sent within a second of waking up") as note:
        after = lambda: [d for d in from_vm() if d.when > mark.when - 3]
        wait_until(after, KEEPALIVE + 5, "a keepalive")
        late = after()[0].when - mark.when
        note.text = f"{late * 1000:.0f} ms; {mark.when - asleep:.1f} s after the one before"
        expect(late < 1, f"{late:.1f} s after waking up")
    with t.check("the next one is on time again") as note:
        count = len(after())
        wait_until(lambda: len(after()) > count, KEEPALIVE + 5, "a keepalive")
        note.text = f"{after()[count].when - after()[count - 1].when:.2f} s"
        expect(abs(float(note.text.split()[0]) - KEEPALIVE) < 0.5, note.text)
