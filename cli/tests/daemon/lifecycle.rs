//! How it begins and ends.

use std::{
    fs,
    net::UdpSocket,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    harness::{BINARY, Interface, command, fail, mode, run, run_command, succeed, wg},
    netns::{Netns, as_root, eventually, in_time::end_of},
};

#[test]
fn it_is_ready_when_its_caller_gets_control_back() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        for _ in 0..20 {
            let script =
                format!("{BINARY} {0} && wg show {0} && ip link set {0} up && ip link del {0}", interface.name());
            let shown = succeed("round", &run(&netns, "sh", ["-c", &script]));
            assert_eq!(shown, format!("interface: {}\n", interface.name()));
        }
        eventually("the last one ends", || interface.processes().is_empty());
        assert!(!interface.socket().exists());
    });
}

#[test]
fn it_can_be_moved_to_another_namespace_at_once() {
    as_root(|| {
        let home = Netns::new();
        let away = Netns::new();
        for _ in 0..5 {
            let interface = Interface::new();
            let name = interface.name();
            let script = format!("{BINARY} {name} && ip link set {name} netns {} && wg show {name}", away.tid());
            succeed("move", &run(&home, "sh", ["-c", &script]));
            assert!(interface.exists(&away) && !interface.exists(&home));
            let daemon = interface.running();
            away.ip(&format!("link del {name}"));
            assert!(daemon.wait().success());
            assert!(!interface.socket().exists());
        }
        // A namespace takes the interfaces that it holds along.
        let interface = Interface::new();
        let daemon = interface.start(&home);
        home.ip(&format!("link set {} netns {}", interface.name(), away.tid()));
        drop(away);
        assert!(daemon.wait().success());
        assert!(!interface.socket().exists());
    });
}

/// A tunnel between two interfaces, whose sockets stay where they were born while the interfaces move away.
#[test]
fn packets_pass_between_interfaces_in_other_namespaces() {
    as_root(|| {
        let home = Netns::new();
        let sides = [("10.99.0.1", Netns::new(), Interface::new()), ("10.99.0.2", Netns::new(), Interface::new())];
        let keys = sides.each_ref().map(|_| {
            let private = wg(&home, "genkey");
            let script = format!("echo {} | wg pubkey", private.trim());
            (private, succeed("pubkey", &run(&home, "sh", ["-c", &script])).trim().to_owned())
        });
        for ((address, netns, interface), (private, _)) in sides.iter().zip(&keys) {
            let name = interface.name();
            interface.start(&home);
            home.ip(&format!("link set {name} netns {}", netns.tid()));
            let script = format!("echo {} | wg set {name} private-key /dev/stdin", private.trim());
            succeed("private key", &run(&home, "sh", ["-c", &script]));
            netns.ip(&format!("addr add {address}/24 dev {name}"));
            netns.ip(&format!("link set {name} up"));
        }
        let port =
            |interface: &Interface| wg(&home, &format!("show {} listen-port", interface.name())).trim().to_owned();
        eventually("both listen", || sides.iter().all(|(_, _, interface)| port(interface) != "0"));
        for (i, (_, _, interface)) in sides.iter().enumerate() {
            let (address, _, other) = &sides[1 - i];
            let (name, key, port) = (interface.name(), &keys[1 - i].1, port(other));
            wg(&home, &format!("set {name} peer {key} endpoint 127.0.0.1:{port} allowed-ips {address}/32"));
        }
        let (there, here) = (&sides[1].1, &sides[0].1);
        let pass = |text: &'static str, tries: u32| {
            let receiver = there.run(|| UdpSocket::bind("10.99.0.2:999").unwrap());
            receiver.set_read_timeout(Some(Duration::from_secs(10) / tries)).unwrap();
            let mut buffer = [0; 100];
            let received = (0..tries).find_map(|_| {
                here.run(move || {
                    UdpSocket::bind("10.99.0.1:0").unwrap().send_to(text.as_bytes(), "10.99.0.2:999").unwrap()
                });
                receiver.recv_from(&mut buffer).ok()
            });
            assert_eq!(received.map(|(len, _)| &buffer[..len]), Some(text.as_bytes()));
        };
        // What is sent before there is a session waits for it.
        pass("once", 1);
        let name = sides[1].2.name();
        let before = port(&sides[1].2);
        there.ip(&format!("link set {name} down"));
        there.ip(&format!("link set {name} up"));
        // The configuration has stayed, its sessions have not.
        assert_eq!(port(&sides[1].2), before);
        let handshakes = || wg(&home, &format!("show {name} latest-handshakes"));
        eventually("it answers again", || {
            here.run(|| UdpSocket::bind("10.99.0.1:0").unwrap().send_to(b"again", "10.99.0.2:998").unwrap());
            there.run(|| UdpSocket::bind("10.99.0.2:0").unwrap().send_to(b"again", "10.99.0.1:998").unwrap());
            !handshakes().trim().ends_with("\t0")
        });
        // The sender uses its old session until it has heard from the new one.
        pass("again", 50);
    });
}

#[test]
fn the_port_is_open_while_the_link_is_up() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let name = interface.name();
        interface.start(&netns);
        let is_open = || {
            let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/udp").unwrap());
            text.lines().any(|line| line.contains(&format!(":{:04X} ", 17_777)))
        };
        wg(&netns, &format!("set {name} listen-port 17777"));
        assert!(!is_open());
        for _ in 0..3 {
            netns.ip(&format!("link set {name} up"));
            eventually("it opens", is_open);
            netns.ip(&format!("link set {name} down"));
            eventually("it closes", || !is_open());
        }
        assert_eq!(wg(&netns, &format!("show {name} listen-port")), "17777\n");
    });
}

#[test]
fn a_second_one_is_refused() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let name = interface.name();
        let daemon = interface.start(&netns);
        for options in [&[][..], &["-f"]] {
            let error = fail("second", &interface.daemon(&netns, options));
            assert_eq!(error, format!("wg-embed: interface {name} is in use\n"));
        }
        // Where the name is free, the socket is not.
        let elsewhere = Netns::new();
        let error = fail("elsewhere", &interface.daemon(&elsewhere, &[]));
        assert!(error.contains(".sock is in use: another process listens on it"), "{error}");
        assert!(!interface.exists(&elsewhere));
        wg(&netns, &format!("show {name}"));
        assert_eq!(interface.running().0, daemon.0);
        assert_eq!(fail("lo", &run(&netns, BINARY, ["lo"])), "wg-embed: an interface lo already exists\n");
    });
}

#[test]
fn a_stale_socket_is_taken_over_and_another_file_is_not() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        // It leaves the socket behind.
        let first = interface.start(&netns);
        first.signal(libc::SIGKILL);
        first.wait();
        assert!(interface.socket().exists());
        let second = interface.start(&netns);
        wg(&netns, &format!("show {}", interface.name()));
        second.stop();
        fs::write(interface.socket(), "precious").unwrap();
        let error = fail("a file", &interface.daemon(&netns, &[]));
        assert!(error.contains("is not a socket; it was left alone"), "{error}");
        assert_eq!(fs::read(interface.socket()).unwrap(), b"precious");
        assert!(!interface.exists(&netns));
    });
}

#[test]
fn a_daemon_has_let_go_of_its_caller() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let mut start = command(BINARY);
        start.arg(interface.name()).current_dir("/tmp").stdin(Stdio::piped());
        let (forgotten, _other) = UnixStream::pair().unwrap();
        crate::harness::hand_over(&mut start, std::os::fd::AsRawFd::as_raw_fd(&forgotten), 99);
        // Its end is the end of everybody who has our pipes as stdout and stderr.
        succeed("start", &run_command(&netns, start));
        let daemon = interface.running();
        let proc = |file: &str| fs::read_link(format!("/proc/{}/{file}", daemon.0)).unwrap();
        assert_eq!(proc("cwd"), Path::new("/"));
        for standard in 0..=2 {
            assert_eq!(proc(&format!("fd/{standard}")), Path::new("/dev/null"));
        }
        assert!(!Path::new(&format!("/proc/{}/fd/99", daemon.0)).exists());
        // A session of its own, which it does not lead: it cannot get a terminal.
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.0)).unwrap();
        let fields: Vec<i64> =
            stat.rsplit_once(')').unwrap().1.split(' ').skip(2).map_while(|f| f.parse().ok()).collect();
        let (session, terminal) = (fields[2], fields[3]);
        // SAFETY: getsid(2) takes a number.
        assert_ne!(session, i64::from(unsafe { libc::getsid(0) }));
        assert_ne!(session, i64::from(daemon.0));
        assert_eq!(terminal, 0);
        assert_eq!(mode(&interface.socket()), 0o600);
        assert_eq!(mode(Path::new("/var/run/wireguard")) & 0o022, 0);
    });
}

/// Starts one, does something, and expects that it ends well and that nothing is left.
fn ends_after(foreground: bool, end: impl FnOnce(&Interface, &Netns, i32)) {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let child = foreground.then(|| {
            let mut start = Command::new(BINARY);
            start.args(["-f", interface.name()]).stderr(Stdio::piped()).env("LOG_LEVEL", "silent");
            let child = netns.run(move || start.spawn().unwrap());
            eventually("it is ready", || UnixStream::connect(interface.socket()).is_ok());
            child
        });
        let daemon = if foreground { interface.running() } else { interface.start(&netns) };
        netns.ip(&format!("link set {} up", interface.name()));
        // Somebody is connected, and stays.
        let _client = UnixStream::connect(interface.socket()).unwrap();
        end(&interface, &netns, daemon.0);
        if let Some(child) = child {
            let output = end_of(child);
            assert!(output.status.success(), "{}", output.status);
            assert_eq!(output.stderr, b"");
        } else {
            let status = daemon.wait();
            assert!(status.success(), "{status}");
        }
        assert!(!interface.socket().exists());
        assert!(!interface.exists(&netns));
    });
}

fn signal(id: i32, number: i32) {
    crate::harness::Daemon(id).signal(number);
}

#[test]
fn signals_end_it() {
    // Under nohup(1) it is ignored, and the daemon would rightly do so, too.
    // SAFETY: the default action is not a function.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    for foreground in [false, true] {
        for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            ends_after(foreground, |_, _, id| signal(id, number));
        }
    }
}

#[test]
fn removal_of_the_interface_ends_it() {
    for foreground in [false, true] {
        ends_after(foreground, |interface, netns, _| {
            netns.ip(&format!("link del {}", interface.name()));
        });
    }
}

#[test]
fn removal_of_the_socket_ends_it() {
    for foreground in [false, true] {
        ends_after(foreground, |interface, _, _| fs::remove_file(interface.socket()).unwrap());
    }
}

#[test]
fn a_successor_keeps_its_socket() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let daemon = interface.start(&netns);
        // Whoever removes the socket may use the name at once.
        daemon.signal(libc::SIGSTOP);
        fs::remove_file(interface.socket()).unwrap();
        let _successor = UnixListener::bind(interface.socket()).unwrap();
        daemon.signal(libc::SIGCONT);
        assert!(daemon.wait().success());
        assert!(interface.socket().exists());
    });
}

#[test]
fn nohup_is_respected_and_the_foreground_is_logged() {
    as_root(|| {
        for by_variable in [false, true] {
            let netns = Netns::new();
            let interface = Interface::new();
            let mut start = Command::new("nohup");
            start.arg(BINARY).arg(interface.name()).env("LOG_LEVEL", "verbose");
            start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            if by_variable {
                start.env("WG_PROCESS_FOREGROUND", "1");
            } else {
                start.arg("--foreground");
            }
            let child = netns.run(move || start.spawn().unwrap());
            eventually("it is ready", || UnixStream::connect(interface.socket()).is_ok());
            let daemon = interface.running();
            assert_eq!(daemon.0, i32::try_from(child.id()).unwrap());
            daemon.signal(libc::SIGHUP);
            thread::sleep(Duration::from_millis(100));
            wg(&netns, &format!("show {}", interface.name()));
            daemon.signal(libc::SIGINT);
            let output = end_of(child);
            assert!(output.status.success());
            let log = String::from_utf8(output.stderr).unwrap();
            assert!(log.contains(&format!(" DEBUG {}: starting version=", interface.name())), "{log}");
            assert!(log.contains("shutting down reason=\"SIGINT\""), "{log}");
        }
    });
}

#[test]
fn an_idle_daemon_sleeps() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let daemon = interface.start(&netns);
        netns.ip(&format!("link set {} up", interface.name()));
        let switches = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", daemon.0)).unwrap().flatten();
            let count = |text: String| {
                let line =
                    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
                line.unwrap().trim().parse::<u64>().unwrap()
            };
            tasks.map(|task| count(fs::read_to_string(task.path().join("status")).unwrap())).sum::<u64>()
        };
        // Router solicitations are packets, and may come in between; and it may take a while until all threads have
        // begun.
        eventually("it sleeps", || {
            let before = switches();
            thread::sleep(Duration::from_secs(1));
            switches() - before <= 4
        });
    });
}
