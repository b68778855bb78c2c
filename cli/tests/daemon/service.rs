//! Under a service manager, and without privileges.

use std::{
    ffi::OsString,
    fs,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, chown},
            net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    harness::{
        BINARY, Directory, Interface, NOBODY, TIMEOUT, answers, command, fail, hand_over, run_command, succeed,
        wait_until,
    },
    in_time::{end_of, output_of},
    netns::{Netns, as_root},
};

fn receive(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1000];
    let len = manager.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

#[test]
fn a_service_manager_is_told_of_the_start_and_the_end() {
    as_root(|| {
        for (foreground, in_files) in [(false, false), (false, true), (true, false), (true, true)] {
            let netns = Netns::new();
            let interface = Interface::new();
            let directory = Directory::new(interface.name());
            let (manager, address): (_, OsString) = if in_files {
                let path = directory.0.join("notify");
                (UnixDatagram::bind(&path).unwrap(), path.into())
            } else {
                let name = format!("test-{}", interface.name());
                let address = SocketAddr::from_abstract_name(&name).unwrap();
                // These names belong to the network namespace.
                (netns.run(move || UnixDatagram::bind_addr(&address).unwrap()), format!("@{name}").into())
            };
            manager.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut start = Command::new(BINARY);
            start.args(foreground.then_some("-f")).arg(interface.name()).env("NOTIFY_SOCKET", address);
            let child = netns.run(move || start.spawn().unwrap());
            let ready = receive(&manager);
            wait_until("the caller has ended", || interface.processes().len() == 1);
            let daemon = interface.running();
            let name = interface.name();
            assert_eq!(ready, format!("MAINPID={}\nREADY=1\nSTATUS=Serving {name}\n", daemon.0));
            UnixStream::connect(interface.socket()).unwrap();
            daemon.signal(libc::SIGTERM);
            assert_eq!(receive(&manager), "STOPPING=1\nSTATUS=Stopping: SIGTERM\n");
            assert!(end_of(child).status.success());
            if !foreground {
                assert!(daemon.wait().success());
            }
        }
    });
}

#[test]
fn a_service_manager_that_cannot_be_reached_does_not_matter() {
    as_root(|| {
        for address in ["/nonexistent/notify", "@nobody-listens-here", "vsock:2:1", "x"] {
            let netns = Netns::new();
            let interface = Interface::new();
            let mut start = command(BINARY);
            start.arg(interface.name()).env("NOTIFY_SOCKET", address);
            succeed(address, &run_command(&netns, start));
            interface.running().stop();
        }
    });
}

#[test]
fn a_service_managers_socket_is_served_and_its_file_stays() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let directory = Directory::new(interface.name());
        let path = directory.0.join("control");
        let listener = UnixListener::bind(&path).unwrap();
        for round in 0..3 {
            // The last is for another process.
            let script =
                format!("exec 3<&70; LISTEN_PID={} exec {BINARY} -f {}", ["$$", "$$", "1"][round], interface.name());
            let mut start = Command::new("bash");
            start.args(["-c", &script]).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "wg.socket").stdin(Stdio::null());
            hand_over(&mut start, listener.as_raw_fd(), 70);
            let child = netns.run(move || start.spawn().unwrap());
            let socket = if round < 2 { path.clone() } else { interface.socket() };
            // It may connect before the daemon is there: it is served then.
            wait_until("it is ready", || UnixStream::connect(&socket).is_ok() && interface.exists(&netns));
            assert_eq!(interface.socket().exists(), round == 2);
            wait_until("it runs", || interface.processes().len() == 1);
            interface.running().signal(libc::SIGTERM);
            assert!(end_of(child).status.success());
            assert!(path.exists());
        }
    });
}

/// As sd_listen_fds(3) has it.
#[test]
fn what_a_service_manager_does_not_give_is_not_taken_and_what_it_cannot_give_is_named() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let start = |variables: &str, options: &str| {
            let mut start = command("bash");
            // The fourth descriptor may be open in a child of the tests.
            let script = format!("exec 4>&-; {variables} exec {BINARY} {options} {}", interface.name());
            start.args(["-c", &script]);
            run_command(&netns, start)
        };
        for variables in ["LISTEN_PID=$$", "LISTEN_FDS=1", "LISTEN_PID=1 LISTEN_FDS=x", "LISTEN_PID=$$ LISTEN_FDS=0"] {
            succeed(variables, &start(variables, ""));
            let daemon = interface.running();
            assert!(answers(&interface), "{variables}");
            daemon.stop();
        }
        for (variables, complaint) in [
            ("LISTEN_PID= LISTEN_FDS=1", "LISTEN_PID=: not the number of a process"),
            ("LISTEN_PID=x", "LISTEN_PID=x: not the number of a process"),
            ("LISTEN_PID=$$ LISTEN_FDS=", "LISTEN_FDS=: not a number of descriptors"),
            ("LISTEN_PID=$$ LISTEN_FDS=-1", "LISTEN_FDS=-1: not a number of descriptors"),
            ("LISTEN_PID=$$ LISTEN_FDS=$'\\xff'", "LISTEN_FDS=\u{fffd}: not a number of descriptors"),
            (
                "LISTEN_PID=$$ LISTEN_FDS=2147483644 LISTEN_FDNAMES=uapi",
                "descriptor 4: Bad file descriptor (os error 9)",
            ),
        ] {
            for options in ["", "-f"] {
                let error = fail(variables, &start(&format!("exec 3</dev/null; {variables}"), options));
                assert!(error.starts_with("wg-embed: LISTEN_") && error.contains(complaint), "{error}");
                assert_eq!(error.lines().count(), 1, "{error}");
                interface.await_end(&netns);
            }
        }
    });
}

#[test]
fn without_privileges_the_socket_goes_to_a_directory_of_ones_own() {
    as_root(|| {
        for by_variable in [false, true] {
            let netns = Netns::new();
            let interface = Interface::new();
            let directory = Directory::new(interface.name());
            chown(&directory.0, Some(NOBODY), Some(NOBODY)).unwrap();
            let tun = netns.tun(interface.name(), libc::IFF_TUN);
            let prepare = || {
                let mut start = command(BINARY);
                start.arg(interface.name()).uid(NOBODY).gid(NOBODY).env("WG_TUN_FD", "70").current_dir(&directory.0);
                hand_over(&mut start, tun.as_raw_fd(), 70);
                start
            };
            let mut start = prepare();
            let output = run_command(&netns, start);
            if output.status.code() == Some(126) {
                return crate::skip::skipped(format!("others may not execute {BINARY}"));
            }
            let error = fail("where wg(8) looks", &output);
            assert!(error.contains("/var/run/wireguard") && error.contains("ermission denied"), "{error}");
            start = prepare();
            // A relative directory is that of the start.
            if by_variable {
                start.env("WG_EMBED_SOCKET_DIR", "made");
            } else {
                start.args(["--socket-dir", "made"]);
            }
            succeed("start", &run_command(&netns, start));
            let socket = directory.0.join(format!("made/{}.sock", interface.name()));
            assert_eq!(fs::symlink_metadata(&socket).unwrap().uid(), NOBODY);
            UnixStream::connect(&socket).unwrap();
            interface.running().stop();
            assert!(!socket.exists());
        }
    });
}

/// Runs a checker, if it is there, which must have nothing to say.
fn check(mut checker: Command) {
    let Ok(output) = output_of(&mut checker) else {
        return crate::skip::skipped(format!("there is no {}", checker.get_program().display()));
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_manual_page_is_well_formed_and_names_what_the_help_does() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/wg-embed.8");
    let mut groff = Command::new("groff");
    groff.args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page);
    check(groff);
    let text = fs::read_to_string(page).unwrap().replace('\\', "");
    let help = succeed("help", &output_of(Command::new(BINARY).arg("--help")).unwrap());
    let words = help.split(|c: char| c.is_whitespace() || "=|[],".contains(c));
    for word in words.filter(|word| word.starts_with("--") || word.contains('_') && !word.contains('(')) {
        assert!(text.contains(word), "{word} is not in the manual page");
    }
}

#[test]
fn the_unit_is_one() {
    let directory = Directory::new("unit");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/wg-embed@.service");
    // The verifier looks for the program.
    let text = fs::read_to_string(unit).unwrap().replace("/usr/bin/wg-embed", BINARY);
    fs::write(directory.0.join("wg-embed@.service"), text).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(directory.0.join("wg-embed@wg0.service"));
    check(verify);
}
