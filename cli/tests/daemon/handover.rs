//! Descriptors that the caller opened: `WG_TUN_FD` and `WG_UAPI_FD`.

use std::{
    fs::{self, OpenOptions},
    os::{fd::AsRawFd, unix::net::UnixListener},
    process::Command,
};

use crate::{
    harness::{BINARY, Interface, command, fail, hand_over, run_command, succeed, wg},
    netns::{Netns, as_root, eventually},
};

const TUN: i32 = 70;
const UAPI: i32 = 71;

fn starting(interface: &str) -> Command {
    let mut start = command(BINARY);
    start.arg(interface);
    start
}

#[test]
fn a_tun_is_taken_with_its_name_and_its_state() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let name = interface.name();
        let fd = netns.tun(interface.name(), libc::IFF_TUN);
        let mut start = starting("another");
        hand_over(&mut start, fd.as_raw_fd(), TUN);
        start.env("WG_TUN_FD", TUN.to_string());
        succeed("start", &run_command(&netns, start));
        drop(fd);
        // It is the socket that has the interface's name; the process has the other.
        wg(&netns, &format!("set {name} listen-port 17778"));
        let is_open = || {
            let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/udp").unwrap());
            text.lines().any(|line| line.contains(&format!(":{:04X} ", 17_778)))
        };
        assert!(!is_open());
        netns.ip(&format!("link set {name} up"));
        eventually("the port opens", is_open);
        netns.ip(&format!("link set {name} down"));
        eventually("the port closes", || !is_open());
        netns.ip(&format!("link del {name}"));
        eventually("the daemon ends", || !interface.socket().exists());
    });
}

#[test]
fn a_listening_socket_is_taken_with_its_file() {
    as_root(|| {
        for both in [false, true] {
            let netns = Netns::new();
            let interface = Interface::new();
            fs::create_dir_all("/var/run/wireguard").unwrap();
            let listener = UnixListener::bind(interface.socket()).unwrap();
            let mut start = starting(interface.name());
            hand_over(&mut start, listener.as_raw_fd(), UAPI);
            start.env("WG_UAPI_FD", UAPI.to_string());
            let tun = both.then(|| netns.tun(interface.name(), libc::IFF_TUN));
            if let Some(tun) = &tun {
                hand_over(&mut start, tun.as_raw_fd(), TUN);
                start.env("WG_TUN_FD", TUN.to_string());
            }
            succeed("start", &run_command(&netns, start));
            drop((listener, tun));
            wg(&netns, &format!("show {}", interface.name()));
            let daemon = interface.running();
            // None of them is handed on by accident.
            for fd in [TUN, UAPI] {
                let Ok(text) = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", daemon.0)) else { continue };
                let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
                assert_ne!(u32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC as u32, 0, "{fd}");
            }
            fs::remove_file(interface.socket()).unwrap();
            assert!(daemon.wait().success());
            assert!(!interface.exists(&netns));
        }
    });
}

#[test]
fn what_is_neither_is_refused() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let null = OpenOptions::new().read(true).open("/dev/null").unwrap();
        for (variable, complaint) in [("WG_TUN_FD", "WG_TUN_FD: "), ("WG_UAPI_FD", "the inherited control socket")] {
            let mut start = starting(interface.name());
            hand_over(&mut start, null.as_raw_fd(), TUN);
            start.env(variable, TUN.to_string());
            let error = fail(variable, &run_command(&netns, start));
            assert!(error.contains(complaint), "{error}");
        }
        let mut start = starting(interface.name());
        hand_over(&mut start, null.as_raw_fd(), TUN);
        start.env("WG_TUN_FD", TUN.to_string()).env("WG_UAPI_FD", TUN.to_string());
        let error = fail("one for both", &run_command(&netns, start));
        assert!(error.contains("are the same descriptor"), "{error}");
        assert!(!interface.exists(&netns) && !interface.socket().exists());
    });
}
