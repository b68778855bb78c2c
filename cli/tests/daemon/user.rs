//! `--user`: the daemon drops its privileges, and goes on with everything that a tunnel does.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, UdpSocket},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{MetadataExt, PermissionsExt, chown},
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use wg_embed::key::PrivateKey;

use crate::{
    harness::{
        BINARY, Daemon, Directory, Interface, NOBODY, TIMEOUT, answers, command, fail, hand_over, mode, run,
        run_command, succeed, wait_until,
    },
    netns::{Netns, as_root, in_time::end_of},
};

/// CAP_NET_BIND_SERVICE and CAP_NET_ADMIN.
const KEPT: &str = "0000000000001400";
const NONE: &str = "0000000000000000";

/// A line of a status file of /proc, with single spaces.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The process of this user among those that run for the interface.
fn process_of(interface: &Interface, uid: u32) -> Option<i32> {
    let is_theirs = |id: &i32| fs::metadata(format!("/proc/{id}/task/{id}/status")).is_ok() && owner(*id) == uid;
    interface.processes().into_iter().find(is_theirs)
}

fn owner(id: i32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    field(&status, "Uid").split(' ').next().and_then(|uid| uid.parse().ok()).unwrap_or(0)
}

/// A daemon that has become another user, and the process of the caller in the foreground.
struct Dropped {
    daemon: Daemon,
    child: Option<Child>,
}

impl Dropped {
    fn start(netns: &Netns, interface: &Interface, user: &str, uid: u32, foreground: bool) -> Self {
        let child = if foreground {
            let mut start = Command::new(BINARY);
            start.args(["-f", interface.name(), "--user", user]).stderr(Stdio::piped()).env("LOG_LEVEL", "silent");
            Some(netns.run(move || start.spawn().unwrap()))
        } else {
            succeed("start", &interface.daemon(netns, &["--user", user]));
            None
        };
        wait_until("it answers", || answers(interface));
        let daemon = Daemon(process_of(interface, uid).unwrap());
        Self { daemon, child }
    }

    /// Each thread has the user, the groups and the capabilities, and none can have more again.
    fn check(&self, uid: u32, gid: u32) {
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{}/task", self.daemon.0)).unwrap().flatten().collect();
        assert!(tasks.len() > 2, "{}", tasks.len());
        for task in tasks {
            // A thread of a connection may have ended.
            let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
            let expected = [
                ("Uid", [uid; 4].map(|id| id.to_string()).join(" ")),
                ("Gid", [gid; 4].map(|id| id.to_string()).join(" ")),
                ("Groups", gid.to_string()),
                ("CapInh", NONE.into()),
                ("CapPrm", KEPT.into()),
                ("CapEff", KEPT.into()),
                ("CapBnd", NONE.into()),
                ("CapAmb", NONE.into()),
                ("NoNewPrivs", "1".into()),
            ];
            for (name, value) in expected {
                assert_eq!(field(&status, name), value, "{name} of {status}");
            }
        }
    }

    fn await_end(self, well: bool) {
        match self.child {
            Some(child) => {
                let output = end_of(child);
                assert_eq!(output.status.success(), well, "{}", output.status);
                assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            }
            None => assert_eq!(self.daemon.wait().success(), well),
        }
    }
}

fn set(socket: &Path, text: &str) {
    let mut client = UnixStream::connect(socket).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.set_write_timeout(Some(TIMEOUT)).unwrap();
    client.write_all(format!("set=1\n{text}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    assert_eq!(answer, "errno=0\n", "{text}");
}

/// Sends from one end until something arrives at the other.
fn passes(from: &Netns, to: &Netns, address: Ipv4Addr) {
    let receiver = to.run(move || UdpSocket::bind((address, 0)).unwrap());
    let port = receiver.local_addr().unwrap().port();
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let sender = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    wait_until("a packet passes", || {
        let _ = sender.send_to(b"x", (address, port));
        receiver.recv(&mut [0; 8]).is_ok()
    });
}

/// The inodes of the sockets on a port.
fn sockets(netns: &Netns, port: u16) -> Vec<String> {
    let text = netns.proc_net("udp") + &netns.proc_net("udp6");
    let on_port = text.lines().filter(|line| line.contains(&format!(":{port:04X} ")));
    on_port.filter_map(|line| line.split_whitespace().nth(9)).map(str::to_owned).collect()
}

#[test]
fn a_tunnel_works_without_the_rights_of_root() {
    as_root(|| {
        for foreground in [false, true] {
            let (home, far) = (Netns::new(), Netns::new());
            home.ip(&format!("link add v0 type veth peer name v1 netns {}", far.tid()));
            home.ip("address add 192.0.2.1/24 dev v0");
            far.ip("address add 192.0.2.2/24 dev v1");
            home.ip("link set v0 up");
            far.ip("link set v1 up");
            let (ours, theirs) = (Interface::new(), Interface::new());
            let dropped = Dropped::start(&home, &ours, "nobody", NOBODY, foreground);
            dropped.check(NOBODY, NOBODY);
            theirs.start(&far);
            let (a, b) = (PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32]));
            let peer = |key: &PrivateKey, endpoint: &str| {
                let key = key.public_key().to_hex();
                format!("public_key={}\nendpoint={endpoint}\nreplace_allowed_ips=true\nallowed_ip=10.9.0.0/24\n", *key)
            };
            set(
                &theirs.socket(),
                &format!("private_key={}\nlisten_port=17790\n{}", *b.to_hex(), peer(&a, "192.0.2.1:500")),
            );
            // A port that is root's, and a mark.
            let text = format!("private_key={}\nlisten_port=500\nfwmark=7\n", *a.to_hex());
            set(&ours.socket(), &(text + &peer(&b, "192.0.2.2:17790")));
            home.ip(&format!("address add 10.9.0.1/24 dev {}", ours.name()));
            far.ip(&format!("address add 10.9.0.2/24 dev {}", theirs.name()));
            home.ip(&format!("link set {} mtu 1300 up", ours.name()));
            far.ip(&format!("link set {} up", theirs.name()));
            let both_ways = || {
                passes(&home, &far, [10, 9, 0, 2].into());
                passes(&far, &home, [10, 9, 0, 1].into());
            };
            both_ways();
            for port in [501, 17791, 502] {
                set(&ours.socket(), &format!("listen_port={port}\nfwmark={port}\n"));
                assert!(!sockets(&home, port).is_empty(), "{port}");
                both_ways();
            }
            // Down and up; then the sockets are lost, and renewed on the same port.
            home.ip(&format!("link set {} down", ours.name()));
            wait_until("the port is closed", || sockets(&home, 502).is_empty());
            home.ip(&format!("link set {} up", ours.name()));
            wait_until("the port is open", || sockets(&home, 502).len() == 2);
            both_ways();
            let before = sockets(&home, 502);
            let killed = run(&home, "ss", ["-K", "-u", "-a", "-H", "sport", "=", ":502"]);
            if killed.stdout.is_empty() {
                crate::skip::skipped("this kernel, or its ss(8), destroys no sockets: not all of this test");
            } else {
                wait_until("the sockets are renewed", || {
                    let now = sockets(&home, 502);
                    now.len() == 2 && now.iter().all(|socket| !before.contains(socket))
                });
                both_ways();
            }
            dropped.check(NOBODY, NOBODY);
            dropped.daemon.signal(libc::SIGTERM);
            dropped.await_end(true);
            assert!(!ours.socket().exists() && !ours.exists(&home) && ours.processes().is_empty());
        }
    });
}

#[test]
fn the_user_and_root_may_connect_and_nothing_is_left_however_it_ends() {
    as_root(|| {
        for foreground in [false, true] {
            for end in ["signal", "interface", "socket", "kill"] {
                let netns = Netns::new();
                let interface = Interface::new();
                let dropped = Dropped::start(&netns, &interface, "nobody", NOBODY, foreground);
                assert_eq!(mode(&interface.socket()), 0o600);
                assert_eq!(fs::symlink_metadata(interface.socket()).unwrap().uid(), NOBODY);
                UnixStream::connect(interface.socket()).unwrap();
                for (uid, may) in [(NOBODY, true), (NOBODY - 1, false)] {
                    let path = interface.socket();
                    let connects = move || {
                        // SAFETY: setresuid(2) takes numbers. Called like this it concerns this thread only.
                        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, 0);
                        UnixStream::connect(path).is_ok()
                    };
                    assert_eq!(thread::spawn(connects).join().unwrap(), may, "{uid}");
                }
                match end {
                    "signal" => dropped.daemon.signal(libc::SIGTERM),
                    "interface" => drop(netns.ip(&format!("link del {}", interface.name()))),
                    "socket" => fs::remove_file(interface.socket()).unwrap(),
                    _ => dropped.daemon.signal(libc::SIGKILL),
                }
                dropped.await_end(end != "kill");
                interface.await_end(&netns);
            }
        }
    });
}

/// A device that cannot be opened is enough for that.
#[test]
fn a_remover_that_cannot_prepare_itself_is_a_reason_not_to_start() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let hide = "mount --bind /dev/null /dev/null && mount -o remount,bind,nodev /dev/null";
        let run = format!("{hide} && exec {BINARY} -f --user nobody {}", interface.name());
        let mut start = command("unshare");
        start.args(["--mount", "sh", "-c", &run]);
        let error = fail("no /dev/null", &run_command(&netns, start));
        let reason = "cannot start the process that removes the control socket: \
                      cannot release standard input and output: Permission denied (os error 13)";
        assert_eq!(error, format!("wg-embed: --user nobody: {reason}\n"));
        interface.await_end(&netns);
    });
}

#[test]
fn a_remover_that_was_killed_is_told_at_the_end() {
    as_root(|| {
        for ignores_children in [false, true] {
            let netns = Netns::new();
            let interface = Interface::new();
            let mut start = command(BINARY);
            start.args(["-f", "--user", "nobody", interface.name()]).stderr(Stdio::piped());
            let prepare = move || {
                let action = if ignores_children { libc::SIG_IGN } else { libc::SIG_DFL };
                // SAFETY: neither is a function of this program, and signal(2) may be called between fork and exec.
                unsafe { libc::signal(libc::SIGCHLD, action) };
                Ok(())
            };
            // SAFETY: as above.
            unsafe { start.pre_exec(prepare) };
            let child = netns.run(move || start.spawn().unwrap());
            wait_until("it answers", || answers(&interface));
            let daemon = Daemon(process_of(&interface, NOBODY).unwrap());
            let remover = process_of(&interface, 0).unwrap();
            Daemon(remover).signal(libc::SIGKILL);
            daemon.signal(libc::SIGTERM);
            let output = end_of(child);
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(log.contains("cannot remove the socket"), "{log}");
            assert!(log.contains("the process that was to do it has ended"), "{log}");
            assert!(interface.socket().exists());
        }
    });
}

#[test]
fn numbers_name_a_user_and_a_group() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let dropped = Dropped::start(&netns, &interface, "12345:23456", 12_345, false);
        dropped.check(12_345, 23_456);
        dropped.daemon.signal(libc::SIGTERM);
        dropped.await_end(true);
        interface.await_end(&netns);
    });
}

#[test]
fn the_file_of_an_inherited_socket_is_removed_and_that_of_a_manager_stays() {
    as_root(|| {
        for manager in [false, true] {
            let netns = Netns::new();
            let interface = Interface::new();
            let directory = Directory::new(interface.name());
            fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755)).unwrap();
            let path = directory.0.join("control");
            let listener = UnixListener::bind(&path).unwrap();
            let variable = if manager { "LISTEN_FDS=1 LISTEN_PID=$$" } else { "WG_UAPI_FD=3" };
            let script = format!("exec 3<&70; {variable} exec {BINARY} -f --user nobody {}", interface.name());
            let mut start = Command::new("bash");
            start.args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::null());
            hand_over(&mut start, listener.as_raw_fd(), 70);
            let child = netns.run(move || start.spawn().unwrap());
            drop(listener);
            wait_until("it is ready", || process_of(&interface, NOBODY).is_some());
            let daemon = Daemon(process_of(&interface, NOBODY).unwrap());
            UnixStream::connect(&path).unwrap();
            assert_eq!(fs::symlink_metadata(&path).unwrap().uid(), if manager { 0 } else { NOBODY });
            daemon.signal(libc::SIGTERM);
            assert!(end_of(child).status.success());
            assert_eq!(path.exists(), manager);
            interface.await_end(&netns);
        }
    });
}

#[test]
fn a_user_that_cannot_be_is_named() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        for (user, complaint) in [
            ("", "there is no user \"\""),
            (":nogroup", "there is no user \"\""),
            ("no-such-user", "there is no user \"no-such-user\""),
            ("4294967295", "there is no user \"4294967295\""),
            ("-1", "there is no user \"-1\""),
            ("nobody:", "there is no group \"\""),
            ("nobody:no-such-group", "there is no group \"no-such-group\""),
            ("nobody:4294967295", "there is no group \"4294967295\""),
            ("12345", "add a group"),
            ("root", "root would keep its rights"),
            ("0:1", "root would keep its rights"),
        ] {
            for option in [&[][..], &["-f"]] {
                let user = format!("--user={user}");
                let error = fail(&user, &interface.daemon(&netns, &[option, &[&*user]].concat()));
                assert!(error.starts_with("wg-embed: --user ") && error.contains(complaint), "{error}");
                assert_eq!(error.lines().count(), 1, "{error}");
                assert!(!interface.socket().exists() && !interface.exists(&netns));
            }
        }
    });
}

#[test]
fn each_capability_that_is_missing_is_named() {
    as_root(|| {
        let names = [
            (0, "CAP_CHOWN"),
            (6, "CAP_SETGID"),
            (7, "CAP_SETUID"),
            (8, "CAP_SETPCAP"),
            (10, "CAP_NET_BIND_SERVICE"),
            (12, "CAP_NET_ADMIN"),
        ];
        for option in [&[][..], &["-f"]] {
            let netns = Netns::new();
            let interface = Interface::new();
            for (number, name) in names {
                let mut start = command(BINARY);
                start.args(option).args(["--user", "nobody", interface.name()]);
                // SAFETY: prctl(2) takes numbers, and may be called between fork and exec.
                let lack = move || match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                };
                // SAFETY: as above.
                unsafe { start.pre_exec(lack) };
                let error = fail(name, &run_command(&netns, start));
                assert_eq!(error, format!("wg-embed: --user nobody: cannot change the user without {name}\n"));
                interface.await_end(&netns);
            }
            let mut start = command(BINARY);
            start.args(option).args(["--user", "12345:12345", interface.name()]).uid(NOBODY).gid(NOBODY);
            let output = run_command(&netns, start);
            if output.status.code() == Some(126) {
                return crate::skip::skipped(format!("others may not execute {BINARY}"));
            }
            let error = fail("not root", &output);
            assert!(error.contains(&names.map(|(_, name)| name).join(", ")), "{error}");
        }
    });
}

#[test]
fn a_directory_that_is_closed_to_the_user_is_named() {
    as_root(|| {
        for option in [&[][..], &["-f"]] {
            let netns = Netns::new();
            let interface = Interface::new();
            let directory = Directory::new(interface.name());
            fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o700)).unwrap();
            let mut start = command(BINARY);
            start.args(option).args(["--user", "nobody", interface.name(), "--socket-dir"]).arg(&directory.0);
            let error = fail("closed", &run_command(&netns, start));
            assert!(error.contains("--user nobody: the user cannot reach"), "{error}");
            interface.await_end(&netns);
            assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 0);
        }
    });
}

/// As `User=` and `AmbientCapabilities=` of a unit have it.
#[test]
fn a_user_from_the_start_needs_ambient_capabilities() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let directory = Directory::new(interface.name());
        chown(&directory.0, Some(NOBODY), Some(NOBODY)).unwrap();
        // The device node is not everywhere one that all may open.
        let tun = netns.tun(interface.name(), libc::IFF_TUN);
        let capabilities = "+net_admin,+net_bind_service";
        let mut start = command("setpriv");
        hand_over(&mut start, tun.as_raw_fd(), 70);
        start.env("WG_TUN_FD", "70");
        start.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all,+net_admin,+net_bind_service",
        ]);
        start.args(["--inh-caps", capabilities, "--ambient-caps", capabilities, BINARY, interface.name()]);
        start.arg("--socket-dir").arg(&directory.0);
        let output = run_command(&netns, start);
        if String::from_utf8_lossy(&output.stderr).contains("failed to execute") {
            return crate::skip::skipped(format!("others may not execute {BINARY}"));
        }
        succeed("start", &output);
        drop(tun);
        let daemon = interface.running();
        netns.ip(&format!("link set {} up", interface.name()));
        let socket = directory.0.join(format!("{}.sock", interface.name()));
        set(&socket, "listen_port=500\nfwmark=7\n");
        assert_eq!(sockets(&netns, 500).len(), 2);
        daemon.stop();
        assert!(!socket.exists() && !interface.exists(&netns));
    });
}
