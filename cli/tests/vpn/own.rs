//! `--settings own`: the tunnel configures the system's network by itself.

use std::sync::Arc;

use wg_embed_manager::manager::Process;

use crate::{
    Near,
    far::{Far, Program},
    harness::wait_until,
    host::Host,
    netns::as_root,
    pinged,
};

const INTERFACE: &str = "wgvpn0";

/// Starts a tunnel's process that is to make an interface; its manager configures nothing.
fn process(near: &Near) -> (Process, Arc<Host>) {
    near.process(None, |command| {
        command.env("WG_EMBED_VPN_SETTINGS", "own").env("WG_EMBED_VPN_NETWORK", "interface");
        command.env("WG_EMBED_VPN_INTERFACE", INTERFACE);
    })
}

#[test]
fn addresses_and_routes_follow_the_file_and_stop_leaves_nothing() {
    as_root(|| {
        let near = Near::new("own", false);
        let [first, second] = [1, 2].map(|number| Far::new(number, &near.network.netns, &near.key, &Program::Ours));
        let before = near.network.settings();
        let netns = &near.network.netns;
        near.configure(&[("first", &first)]);
        let (process, host) = process(&near);
        process.manager().start(near.request()).unwrap();
        let shown = netns.ip(&format!("address show dev {INTERFACE}"));
        assert!(shown.contains("mtu 1420") && shown.contains("inet 10.8.0.100/32"), "{shown}");
        pinged(process.manager(), "first");
        netns.command("ping", "-c 1 -w 290 10.8.0.1");
        near.configure(&[("first", &first), ("second", &second)]);
        pinged(process.manager(), "second");
        let routes = || netns.ip(&format!("route show dev {INTERFACE}"));
        wait_until("the route follows", || routes().contains("10.8.0.2"));
        netns.command("ping", "-c 1 -w 290 10.8.0.2");
        near.configure(&[("second", &second)]);
        wait_until("the route is gone", || !routes().contains("10.8.0.1 "));
        assert!(host.routes().is_empty(), "the manager was not asked");
        process.stop().unwrap();
        near.network.becomes(&before, "stopped");
    });
}

#[test]
fn what_is_removed_from_the_file_is_removed_from_the_system() {
    as_root(|| {
        let near = Near::new("removed", false);
        let far = Far::new(1, &near.network.netns, &near.key, &Program::Ours);
        let before = near.network.settings();
        let netns = &near.network.netns;
        near.write(&format!("Address = 10.8.0.100/32, fd08::100/128\nMTU = 1300\n[Peer]\n{}", far.section()));
        let (process, _host) = process(&near);
        process.manager().start(near.request()).unwrap();
        let shown = || netns.ip(&format!("address show dev {INTERFACE}"));
        assert!(shown().contains("inet6 fd08::100/128") && shown().contains("mtu 1300"), "{}", shown());
        // The last IPv6 address, and the MTU.
        near.configure(&[("far", &far)]);
        wait_until("the address is gone", || !shown().contains("fd08::100"));
        assert!(shown().contains("mtu 1420") && shown().contains("inet 10.8.0.100/32"), "{}", shown());
        process.stop().unwrap();
        near.network.becomes(&before, "stopped");
    });
}

#[test]
fn a_default_route_has_the_tunnels_own_packets_marked() {
    as_root(|| {
        let near = Near::new("default", false);
        let far = Far::new(1, &near.network.netns, &near.key, &Program::Ours);
        let before = near.network.settings();
        let netns = &near.network.netns;
        // To a file it is a name, for which no route is excluded; to the system it is 10.77.1.2.
        let everything = far.section_of("0xa4d0102", "0.0.0.0/0");
        let address = "Address = 10.8.0.100/32\n";
        near.configure(&[("far", &far)]);
        let (process, _host) = process(&near);
        process.manager().start(near.request()).unwrap();
        netns.command("ping", "-c 1 -w 290 10.8.0.1");
        let rules = || netns.ip("-4 rule show");
        assert!(!rules().contains("fwmark"), "{}", rules());
        near.write(&format!("{address}[Peer]\n{everything}"));
        wait_until("a mark is needed", || rules().contains("not from all fwmark 0xca6c"));
        netns.command("ping", "-c 1 -w 290 10.8.0.1");
        assert!(netns.ip("route get 198.18.0.1").contains(INTERFACE));
        near.write(&format!("FwMark = 0x11\n{address}[Peer]\n{everything}"));
        wait_until("the file's own mark is taken", || rules().contains("not from all fwmark 0x11"));
        netns.command("ping", "-c 1 -w 290 10.8.0.1");
        // The manager is gone, and nothing else is told.
        drop(process);
        near.network.becomes(&before, "the manager has gone");
    });
}

#[test]
fn settings_that_are_refused_fail_the_start() {
    as_root(|| {
        let near = Near::new("refused", false);
        let far = Far::new(1, &near.network.netns, &near.key, &Program::Ours);
        let before = near.network.settings();
        let (process, _host) = process(&near);
        // There is no IPv6 with such an MTU.
        near.write(&format!("Address = fd00::2/64\nMTU = 1000\n[Peer]\n{}", far.section_of("10.77.1.2", "fd01::/64")));
        let error = process.manager().start(near.request()).unwrap_err().to_string();
        assert!(error.contains("network settings failed: cannot "), "{error}");
        near.network.becomes(&before, "the start has failed");
        near.configure(&[("far", &far)]);
        process.manager().start(near.request()).unwrap();
        near.network.netns.command("ping", "-c 1 -w 290 10.8.0.1");
        process.stop().unwrap();
        near.network.becomes(&before, "stopped");
    });
}
