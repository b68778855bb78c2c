//! wg(8) and wg-quick(8) drive it with nothing special.

use std::{fs, net::UdpSocket, path::Path, process::Command};

use crate::{
    harness::{BINARY, Directory, Interface, command, fail, run, run_command, succeed, wg},
    in_time::output_of,
    netns::{Netns, as_root, eventually},
};

const PRIVATE: &str = "gGggGGgggGGggggggGGggggggggGGGgggggggGGgggE=";
const PEERS: [&str; 3] = [
    "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiE=",
    "jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjE=",
    "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkE=",
];

fn missing(program: &str) -> bool {
    let missing = output_of(Command::new(program).arg("--help")).is_err();
    if missing {
        crate::skip::skipped(format!("there is no {program}"));
    }
    missing
}

/// Writes a file and runs `wg COMMAND INTERFACE FILE`.
fn configure(netns: &Netns, what: &str, interface: &Interface, text: &str) {
    let directory = Directory::new(interface.name());
    let file = directory.0.join("conf");
    fs::write(&file, text).unwrap();
    wg(netns, &format!("{what} {} {}", interface.name(), file.display()));
}

#[test]
fn wg_sets_shows_and_replaces_configurations() {
    as_root(|| {
        if missing("wg") {
            return;
        }
        let netns = Netns::new();
        let interface = Interface::new();
        let name = interface.name();
        interface.start(&netns);
        let [first, second, third] = PEERS;
        let whole = format!(
            "[Interface]\nListenPort = 17779\nFwMark = 0x10\nPrivateKey = {PRIVATE}\n\n\
             [Peer]\nPublicKey = {first}\nPresharedKey = {second}\nAllowedIPs = 10.0.0.0/8, fd00::/8\n\
             Endpoint = 127.0.0.1:1234\nPersistentKeepalive = 25\n\n\
             [Peer]\nPublicKey = {second}\nAllowedIPs = 192.0.2.0/24\nEndpoint = [::1]:1235\n",
        );
        let peers = || wg(&netns, &format!("show {name} peers"));
        configure(&netns, "setconf", &interface, &whole);
        let shown = wg(&netns, &format!("showconf {name}"));
        // What is shown sets the same.
        configure(&netns, "setconf", &interface, &shown);
        assert_eq!(wg(&netns, &format!("showconf {name}")), shown);
        for line in whole.lines().filter(|line| !line.starts_with("PrivateKey")) {
            assert!(shown.contains(line), "{line:?} is not in {shown:?}");
        }
        configure(&netns, "addconf", &interface, &format!("[Peer]\nPublicKey = {third}\nAllowedIPs = 10.1.0.0/16\n"));
        assert_eq!(peers().lines().count(), 3);
        configure(&netns, "syncconf", &interface, &whole);
        let synced = peers();
        assert!(synced.contains(first) && synced.contains(second) && !synced.contains(third));
        wg(&netns, &format!("set {name} fwmark off peer {first} remove peer {second} allowed-ips 0.0.0.0/0"));
        assert_eq!(peers(), format!("{second}\n"));
        assert_eq!(wg(&netns, &format!("show {name} allowed-ips")), format!("{second}\t0.0.0.0/0\n"));
        assert_eq!(wg(&netns, &format!("show {name} fwmark")), "off\n");
        assert_eq!(wg(&netns, &format!("show {name} dump")).lines().count(), 2);
        assert!(wg(&netns, "show interfaces").split_whitespace().any(|shown| shown == name));
    });
}

#[test]
fn wg_is_told_why_a_port_cannot_be_used() {
    as_root(|| {
        if missing("wg") {
            return;
        }
        let netns = Netns::new();
        let interface = Interface::new();
        let name = interface.name();
        interface.start(&netns);
        netns.ip(&format!("link set {name} up"));
        let port = || wg(&netns, &format!("show {name} listen-port"));
        eventually("it listens", || port() != "0\n");
        let before = port();
        let _taken = netns.run(|| UdpSocket::bind("0.0.0.0:17780").unwrap());
        let error = fail("set", &run(&netns, "wg", ["set", name, "listen-port", "17780"]));
        assert!(error.contains("Address already in use"), "{error}");
        assert_eq!(port(), before);
    });
}

#[test]
fn wg_quick_brings_it_up_and_down() {
    as_root(|| {
        if missing("wg-quick") {
            return;
        }
        let netns = Netns::new();
        let interface = Interface::new();
        let name = interface.name();
        if run(&netns, "ip", ["link", "add", "wgkernel", "type", "wireguard"]).status.success() {
            crate::skip::skipped("wg-quick prefers this kernel's own WireGuard");
            return;
        }
        let directory = Directory::new(name);
        let file = directory.0.join(format!("{name}.conf"));
        let conf = format!(
            "[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.98.0.1/24, fd98::1/64\nListenPort = 17781\nMTU = 1400\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 10.98.0.2/32, 10.97.0.0/16\nEndpoint = 127.0.0.1:9\n",
            PEERS[0]
        );
        fs::write(&file, conf).unwrap();
        // As a user has it: by name, in the path.
        let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let wg_quick = |what: &str| {
            let mut command = command("wg-quick");
            command.arg(what).arg(&file).env("PATH", &path).env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wg-embed");
            succeed(what, &run_command(&netns, command))
        };
        // Again and again without a pause: the next must not meet what the last one leaves.
        for _ in 0..3 {
            wg_quick("up");
            let daemon = interface.running();
            assert_eq!(wg(&netns, &format!("show {name} peers")), format!("{}\n", PEERS[0]));
            assert!(netns.ip("route show").contains(&format!("10.97.0.0/16 dev {name}")));
            assert!(netns.ip(&format!("link show {name}")).contains("mtu 1400"));
            assert!(wg_quick("strip").contains("ListenPort = 17781"));
            wg_quick("down");
            assert!(!interface.exists(&netns));
            assert!(daemon.wait().success());
        }
        assert!(!interface.socket().exists());
    });
}
