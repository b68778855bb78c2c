//! A daemon that has too few descriptors names the reason, to its caller as well, and leaves nothing behind.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, ExitStatus, Stdio},
};

use crate::{
    harness::{BINARY, Interface, answers, wait_until},
    netns::{Netns, as_root, in_time::end_of},
};

/// What a process is given: so many descriptors, and so many that are open already.
fn limit(command: &mut Command, limit: u64, open: u64) {
    let limits = libc::rlimit { rlim_cur: limit as libc::rlim_t, rlim_max: limit as libc::rlim_t };
    let prepare = move || {
        for _ in 0..open {
            // SAFETY: dup(2) takes a number, and this is between fork and exec.
            if unsafe { libc::dup(0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: the limits live.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: it only calls dup(2) and setrlimit(2).
    unsafe { command.pre_exec(prepare) };
}

/// Starts one, and returns how it went: `None` if it is there, or what it complained of.
fn start(netns: &Netns, interface: &Interface, foreground: bool, prepare: impl Fn(&mut Command)) -> Option<String> {
    let mut command = Command::new(BINARY);
    command.args(foreground.then_some("-f")).arg(interface.name()).env_remove("LOG_LEVEL");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // Not a pipe, whose other end would have to be read.
    let said = tempfile(interface);
    command.stderr(said.try_clone().unwrap());
    prepare(&mut command);
    let mut child = netns.run(move || command.spawn().unwrap());
    let mut status: Option<ExitStatus> = None;
    wait_until("it ends or is ready", || {
        status = child.try_wait().unwrap();
        status.is_some() || foreground && answers(interface)
    });
    match status {
        Some(status) if !status.success() => {
            let mut text = String::new();
            File::open(format!("/proc/self/fd/{}", said.as_raw_fd())).unwrap().read_to_string(&mut text).unwrap();
            Some(text)
        }
        _ => {
            let daemon = interface.running();
            daemon.signal(libc::SIGTERM);
            if foreground {
                assert!(end_of(child).status.success());
            } else {
                assert!(daemon.wait().success());
            }
            None
        }
    }
}

fn tempfile(interface: &Interface) -> File {
    let path = std::env::temp_dir().join(interface.name());
    let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// Gives more and more until it starts, and expects a reason for each failure.
fn grows_until_it_starts(foreground: bool, first: u64, prepare: impl Fn(&mut Command, u64)) {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        for number in first.. {
            assert!(number < first + 60, "it does not start with {number} descriptors");
            let Some(error) = start(&netns, &interface, foreground, |command| prepare(command, number)) else {
                break;
            };
            // The number stands in the dynamic loader's messages as well.
            assert!(error.contains("rror 24"), "{number}: {error}");
            assert_eq!(error.matches("wg-embed: ").count(), 1, "{number}: {error}");
            assert_eq!(interface.processes(), [0; 0], "{number}");
            assert!(!interface.socket().exists() && !interface.exists(&netns), "{number}");
        }
    });
}

#[test]
fn each_limit_is_enough_or_named_as_the_reason() {
    for foreground in [false, true] {
        grows_until_it_starts(foreground, 3, |command, number| limit(command, number, 0));
    }
}

#[test]
fn so_are_descriptors_that_are_open_already() {
    // In the foreground they stay open; in the background the caller needs some of its own.
    for foreground in [false, true] {
        grows_until_it_starts(foreground, 3, |command, number| limit(command, 60, 60 - number));
    }
}

#[test]
fn descriptors_of_the_caller_do_not_count_in_the_background() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let enough_for_the_caller = |command: &mut Command| limit(command, 60, 60 - 6);
        assert_eq!(start(&netns, &interface, false, enough_for_the_caller), None);
    });
}

#[test]
fn a_client_is_served_when_descriptors_have_run_out() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let daemon = interface.start(&netns);
        let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.0)).unwrap().flatten();
        let highest = open.filter_map(|e| e.file_name().to_str()?.parse::<u64>().ok()).max().unwrap();
        let limits = libc::rlimit { rlim_cur: highest + 1, rlim_max: highest + 1 };
        // SAFETY: the new limits live, and the old ones are not asked for.
        let result = unsafe { libc::prlimit(daemon.0, libc::RLIMIT_NOFILE, &raw const limits, std::ptr::null_mut()) };
        assert_eq!(result, 0);
        // Those that stay make room, one after the other.
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = UnixStream::connect(interface.socket()).unwrap();
            client.set_read_timeout(Some(crate::harness::TIMEOUT)).unwrap();
            client.write_all(b"get=1\n\n").unwrap();
            client.read_exact(&mut [0; 9]).unwrap();
            clients.push(client);
        }
        assert!(answers(&interface));
        daemon.stop();
    });
}

/// A daemon whose user has no inotify instance left, or no watch: limits of user namespaces are as good as those of
/// users.
#[test]
fn without_inotify_the_socket_is_looked_at() {
    as_root(|| {
        for limit in ["max_inotify_instances", "max_inotify_watches"] {
            let interface = Interface::new();
            let (name, limit) = (interface.name(), format!("/proc/sys/user/{limit}"));
            let script = format!("echo 0 > {limit} && exec {BINARY} -f {name}");
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--net", "sh", "-c", &script]).stderr(Stdio::piped());
            command.env_remove("LOG_LEVEL");
            let mut child = command.spawn().unwrap();
            let mut unsupported = false;
            wait_until("it is ready", || {
                unsupported = child.try_wait().unwrap().is_some();
                unsupported || answers(&interface)
            });
            if !unsupported {
                std::fs::remove_file(interface.socket()).unwrap();
            }
            let output = end_of(child);
            let said = String::from_utf8_lossy(&output.stderr);
            if unsupported && !said.contains("wg-embed: ") {
                return crate::skip::skipped(format!("no user namespaces: {said}"));
            }
            assert!(output.status.success(), "{said}");
            assert!(said.contains("cannot watch the control socket"), "{said}");
        }
    });
}
