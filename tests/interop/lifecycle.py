"""How the daemon begins and ends, and how it gets on with wg-quick and with namespaces."""

import os
import signal
import subprocess
from pathlib import Path

from lab import has_ended, run, wait_until
from node import Daemon, Netns, join
from peers import pair
from report import expect
from scenario import Scenario


def ends(lab, t):
    place = Netns(lab, lab.netns(), "", "")

    def gone(daemon, seconds=5):
        took = daemon.wait_for_end(seconds)
        expect(not daemon.socket.exists(), "its socket is still there")
        expect(not daemon.exists(), "its interface is still there")
        return f"{took:.1f} s"

    for number in (signal.SIGTERM, signal.SIGINT):
        with t.check(f"ends on {number.name}") as note:
            daemon = Daemon(lab, place)
            daemon.process.send_signal(number)
            note.text = gone(daemon)
            expect(daemon.process.returncode == 0, f"status {daemon.process.returncode}")
    with t.check("ends when its interface is removed") as note:
        daemon = Daemon(lab, place)
        daemon.shell(f"ip link del {daemon.interface}")
        note.text = gone(daemon)
    with t.check("ends when its socket is removed") as note:
        daemon = Daemon(lab, place)
        daemon.socket.unlink()
        note.text = gone(daemon)
    with t.check("a second one of the same name fails, and the first goes on"):
        daemon = Daemon(lab, place)
        again = subprocess.run(place.command(daemon.program, "-f", daemon.interface), capture_output=True, timeout=10)
        expect(again.returncode > 0, f"status {again.returncode}: {again.stderr}")
        expect(daemon.interface in daemon.shell(f"wg show {daemon.interface}"), "the first does not answer")
        daemon.stop()
    with t.check("a socket left behind by one that was killed is no obstacle"):
        daemon = Daemon(lab, place)
        daemon.kill()
        expect(daemon.socket.exists(), "there is no socket")
        daemon.start()
        daemon.stop()


def background(lab, t):
    place = Netns(lab, lab.netns(), "", "")
    name = lab.interface_name()
    socket = Path(f"/var/run/wireguard/{name}.sock")
    with t.check("without -f it goes to the background, and all is there when it does", vital=True):
        run(place.command(lab.settings.daemon, name), timeout=10)
        place.shell(f"wg show {name}; ip link show {name}")
    pids = run(["ip", "netns", "pids", place.name]).split()
    with t.check("it has left its caller's session and directory"):
        expect(len(pids) == 1, f"processes {pids}")
        pid = int(pids[0])
        expect(os.getsid(pid) != os.getsid(0), "the same session")
        expect(os.readlink(f"/proc/{pid}/cwd") == "/", os.readlink(f"/proc/{pid}/cwd"))
    with t.check("it ends with its interface"):
        place.shell(f"ip link del {name}")
        wait_until(lambda: has_ended(int(pids[0])) and not socket.exists(), 5, "its end")


def namespaces(lab, t):
    ours, theirs = pair(lab, "daemon")
    with t.check("the first pings", vital=True):
        ours.expect_pings(theirs)
    home, away = ours.place, Netns(lab, lab.netns(), *ours.place.outer.values())
    with t.check("its interface in another namespace: the tunnel works from there, the sockets stay"):
        home.shell(f"ip link set {ours.interface} netns {away.name}")
        ours.place = away
        ours.up()
        ours.expect_pings(theirs)
        theirs.expect_pings(ours, 6)
    with t.check("it can be configured as before"):
        ours.set_peer(theirs, "persistent-keepalive 5")
        expect(ours.peer(theirs).keepalive == "5", ours.shell(f"wg show {ours.interface}"))
        expect(home.outer[4] in theirs.peer(ours).endpoint, theirs.peer(ours).endpoint)
    with t.check("MTU and state are followed there"):
        ours.shell(f"ip link set {ours.interface} mtu 1300")
        ours.expect_pings(theirs, 4, 2, "-i 0.2 -M do -s 1272")
        ours.down()
        expect(theirs.ping(ours, count=1, more="-W 1") == 0, "it answers when down")
        ours.up()
        ours.expect_pings(theirs)
    with t.check("removed there: the daemon ends"):
        ours.shell(f"ip link del {ours.interface}")
        ours.wait_for_end(10)
        expect(not ours.socket.exists(), "its socket is still there")


def wg_quick(lab, t):
    if Path("/sys/module/wireguard").exists():
        t.report.remark(f"{t.scenario}: skipped, since wg-quick takes the WireGuard of this machine's kernel")
        return
    ours, theirs = pair(lab, "daemon")
    ours.stop()
    # The other end lives behind a default route, so that without its mark the daemon would send into its own tunnel.
    theirs.shell("ip addr add 203.0.113.5/32 dev lo; ip addr add 198.51.100.1/32 dev lo; ip -6 addr add 2001:db8::1/128 dev lo nodad")
    theirs.shell(f"wg set {theirs.interface} peer {ours.public} allowed-ips {ours.inner_ranges().replace(', ', ',')}")
    ours.shell("ip route add default via 198.18.1.2 dev veth0")
    quick = f"WG_QUICK_USERSPACE_IMPLEMENTATION={lab.settings.daemon} wg-quick"
    path = ours.place.directory / f"{ours.interface}.conf"

    def write(allowed, table=""):
        path.write_text(
            f"[Interface]\nPrivateKey = {ours.private}\nListenPort = {ours.port}\nAddress = {ours.inner[4]}/24, {ours.inner[6]}/64\nMTU = 1400\n{table}"
            f"[Peer]\nPublicKey = {theirs.public}\nAllowedIPs = {allowed}\nEndpoint = 203.0.113.5:{theirs.port}\n"
        )
        path.chmod(0o600)

    def clean(before):
        wait_until(lambda: not ours.exists() and not ours.socket.exists(), 5, "interface and socket gone")
        wait_until(lambda: not run(["ip", "netns", "pids", ours.place.name]).strip(), 5, "the daemon's end")
        expect(network() == before, f"{before} became {network()}")

    def network():
        return ours.shell("ip rule; ip -6 rule; ip route; nft list ruleset")

    for name, allowed in (("some routes", f"{theirs.inner_ranges()}, 198.51.100.0/24, 2001:db8::/32"), ("default routes", "0.0.0.0/0, ::/0")):
        before = network()
        write(allowed)
        with t.check(f"{name}: up"):
            ours.shell(f"{quick} up {path}")
            expect("mtu 1400" in ours.shell(f"ip link show {ours.interface}"), "another MTU")
        with t.check(f"{name}: pings, also through the routes"):
            ours.expect_pings(theirs)
            ours.shell("ping -n -q -c 2 -i 0.2 -W 2 198.51.100.1; ping -6 -n -q -c 2 -i 0.2 -W 2 2001:db8::1")
            expect(ours.peer(theirs).received > 5 * 100, "not through the tunnel")
        if name == "default routes":
            with t.check(f"{name}: the daemon's own packets are marked, and pass by the tunnel"):
                mark = ours.shell(f"wg show {ours.interface} fwmark").strip()
                expect(mark != "off", "no mark")
                expect("veth0" in ours.shell(f"ip route get 203.0.113.5 mark {mark}"), "they would not")
                expect(ours.interface in ours.shell("ip route get 203.0.113.5"), "and others do")
        else:  # with default routes it would remove the mark, also from the kernel's WireGuard
            with t.check(f"{name}: wg-quick strip and wg syncconf keep the session"):
                session = ours.peer(theirs).handshake
                ours.shell(f"wg syncconf {ours.interface} <(wg-quick strip {path})")
                ours.expect_pings(theirs)
                expect(ours.peer(theirs).handshake == session, "there was a new handshake")
        with t.check(f"{name}: down leaves nothing behind"):
            ours.shell(f"{quick} down {path}")
            clean(before)


def scenarios():
    return [
        Scenario("daemon, its end", ends),
        Scenario("daemon, in the background", background),
        Scenario("daemon, namespaces", namespaces),
        Scenario("daemon, wg-quick", wg_quick),
    ]
