//! The same file, given to wg-quick(8) and to us.

use std::{fs, process::Command};

use wg_embed_settings::{down, up};

use crate::{
    harness::{Folder, Network, daemon, interface, run},
    netns::{as_root, in_time::output_of},
};

const KEYS: [&str; 3] = [
    "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiE=",
    "jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjE=",
    "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkE=",
];

/// Gives a file of these keys for the interface, and of these peers, to both.
#[track_caller]
fn compare(set_up: &[&str], interface_keys: &str, peers: &[&str]) {
    as_root(|| {
        let Some(daemon) = daemon() else { return };
        if output_of(Command::new("wg-quick").arg("--help")).is_err() {
            return crate::skip::skipped("there is no wg-quick");
        }
        let network = Network::new();
        if network.netns.try_ip("link add wgkernel type wireguard") {
            return crate::skip::skipped("wg-quick prefers this kernel's own WireGuard");
        }
        set_up.iter().for_each(|line| drop(network.netns.ip(line)));
        let folder = Folder::new();
        folder.logging("resolvconf");
        std::os::unix::fs::symlink(&daemon, folder.file("bin").join("wg-embed")).unwrap();
        let name = interface();
        let peers: String =
            KEYS.iter().zip(peers).map(|(key, keys)| format!("[Peer]\nPublicKey = {key}\n{keys}\n")).collect();
        let text = format!(
            "[Interface]\nPrivateKey = gGggGGgggGGggggggGGggggggggGGGgggggggGGgggE=\n{interface_keys}\n{peers}"
        );
        let file = folder.file(&format!("{name}.conf"));
        fs::write(&file, &text).unwrap();
        let before = network.settings();
        let wg_quick = |what| {
            let output = run(&network.netns, folder.path(), "wg-quick", &[what, file.to_str().unwrap()]);
            assert!(output.status.success(), "wg-quick {what}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let shown = || network.netns.command("wg", &format!("showconf {name}"));
        wg_quick("up");
        network.settle();
        let (expected, expected_shown, expected_up) = (network.settings(), shown(), folder.log());
        wg_quick("down");
        let expected_down = folder.log();
        // wg-quick leaves it as it is.
        network.netns.run(|| fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "0").unwrap());
        network.becomes(&before, "after wg-quick");

        let options = folder.options(&daemon);
        let conf = text.parse().unwrap();
        let (up_name, up_options) = (name.clone(), options.clone());
        network.netns.run(move || up(&up_name, &conf, &up_options).unwrap());
        network.becomes(&expected, "up");
        let without_port =
            |shown: String| shown.lines().filter(|l| !l.starts_with("ListenPort")).map(str::to_owned).collect();
        let [is, should]: [Vec<_>; 2] = [shown(), expected_shown].map(without_port);
        assert_eq!(is, should);
        assert_eq!(folder.log(), expected_up);
        let down_name = name.clone();
        network.netns.run(move || down(&down_name, &options).unwrap());
        network.becomes(&before, "down");
        assert_eq!(folder.log(), expected_down);
        assert!(fs::read_dir(folder.file("run")).unwrap().next().is_none());
    });
}

#[test]
fn ipv4() {
    compare(&[], "Address = 10.0.0.2/24", &["AllowedIPs = 10.0.0.0/24, 10.1.0.0/16\nEndpoint = 203.0.113.1:51820"]);
}

#[test]
fn ipv6() {
    compare(&[], "Address = fd00::2/64", &["AllowedIPs = fd00::7/128, fd01::/16\nEndpoint = [2001:db8:1::1]:51820"]);
}

#[test]
fn several_peers_and_addresses() {
    compare(
        &[],
        "Address = 10.0.0.2/24, 10.0.0.3/24, 10.7.0.1/32\nAddress = fd00::2/128\nListenPort = 17790\nMTU = 1280",
        &[
            "AllowedIPs = 10.0.0.9/32, 10.0.0.0/8, 10.7.0.1/32",
            "AllowedIPs = 10.1.0.0/16, fd00::2/128, fd00::/16",
            "PersistentKeepalive = 25",
        ],
    );
}

#[test]
fn a_default_route() {
    compare(&[], "Address = 10.0.0.2/32", &["AllowedIPs = 0.0.0.0/0\nEndpoint = 203.0.113.1:51820"]);
}

#[test]
fn default_routes_of_both_families_and_a_mark() {
    compare(
        &[],
        "Address = 10.0.0.2/24, 10.0.1.2/32, fd00::2/64\nFwMark = 0x11",
        &["AllowedIPs = 0.0.0.0/0, ::/0, 10.9.0.0/16", "AllowedIPs = fd09::/16"],
    );
}

#[test]
fn a_default_route_where_tables_and_priorities_are_taken() {
    compare(
        &[
            "route add 10.6.0.0/16 dev eth0 table 51820",
            "-6 route add fd06::/16 dev eth0 table 51821",
            "rule add from 10.0.0.0/8 table 77 priority 500",
            "-6 rule add from fd00::/8 table 77",
        ],
        "Address = 10.0.0.2/32, fd00::2/128",
        &["AllowedIPs = 0.0.0.0/0, ::/0"],
    );
}

#[test]
fn no_routes() {
    compare(&[], "Address = 10.0.0.2/24, fd00::2/64\nTable = off", &["AllowedIPs = 0.0.0.0/0, ::/0, 10.1.0.0/16"]);
}

#[test]
fn a_table_of_its_own() {
    let peers = ["AllowedIPs = 0.0.0.0/0, ::/0, 10.1.0.0/16", "AllowedIPs = 10.0.0.0/24"];
    compare(&[], "Address = 10.0.0.2/24, fd00::2/64\nTable = 1234", &peers);
    compare(&[], "Address = 10.0.0.2/24, fd00::2/64\nTable = 200", &peers);
    compare(&["route del default"], "Address = 10.0.0.2/24\nTable = main", &["AllowedIPs = 0.0.0.0/0, 10.1.0.0/16"]);
}

#[test]
fn dns() {
    compare(
        &[],
        "Address = 10.0.0.2/24\nMTU = 1400\nDNS = 10.0.0.53, corp.example fd00::53\nDNS = other.example",
        &["AllowedIPs = 10.0.0.0/24"],
    );
}

#[test]
fn the_mtu_is_that_of_a_way_to_an_endpoint() {
    let addresses = "Address = 10.0.0.2/24";
    let near = "AllowedIPs = 10.0.0.0/25\nEndpoint = 198.51.100.1:51820";
    compare(&[], addresses, &[near]);
    compare(&[], addresses, &[near, "Endpoint = 203.0.113.1:51820", "Endpoint = 127.0.0.1:51820"]);
    compare(&["route del default"], addresses, &["Endpoint = 203.0.113.1:51820"]);
    compare(&["route change default via 192.0.2.1 mtu 1350"], addresses, &[]);
}
