//! The same file, given to wg-quick(8) and to us.

use std::fs;

use wg_embed_settings::{down, up};

use crate::compare::{Place, beside_wg_quick};

/// Gives a file of these keys for the interface, and of these peers, to both.
#[track_caller]
fn compare(set_up: &[&str], interface_keys: &str, peers: &[&str]) {
    beside_wg_quick(set_up, interface_keys, peers, our_up, our_down);
}

fn our_up(place: &Place) {
    let conf = fs::read_to_string(&place.file).unwrap().parse().unwrap();
    let (name, options) = (place.name.clone(), place.folder.options(&place.folder.file("bin/wg-embed")));
    place.network.netns.run(move || up(&name, &conf, &options).unwrap());
}

fn our_down(place: &Place) {
    let (name, options) = (place.name.clone(), place.folder.options(&place.folder.file("bin/wg-embed")));
    place.network.netns.run(move || down(&name, &options).unwrap());
    assert!(fs::read_dir(place.folder.file("run")).unwrap().next().is_none());
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
