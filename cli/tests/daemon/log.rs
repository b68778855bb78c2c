//! A log whose reader has stopped delays nothing.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
};

use crate::{
    harness::{BINARY, Interface, TIMEOUT, command, run, wait_until, wg},
    netns::{
        Netns, as_root,
        in_time::{end_of, in_time},
    },
};

/// Writes until a pipe is full. Returns how many bytes it took.
fn fill(pipe: &impl AsRawFd) -> usize {
    let fd = pipe.as_raw_fd();
    // SAFETY: fcntl(2) takes numbers.
    let set = |flags: i32| assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }, 0);
    set(libc::O_NONBLOCK);
    let mut filled = 0;
    // SAFETY: one byte lives.
    while unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) } == 1 {
        filled += 1;
    }
    set(0);
    filled
}

#[test]
fn a_reader_that_has_stopped_delays_nothing() {
    as_root(|| {
        for resumes in [false, true] {
            let netns = Netns::new();
            let interface = Interface::new();
            let name = interface.name();
            let (mut reader, writer) = io::pipe().unwrap();
            let mut text = String::new();
            let filled = fill(&writer);
            let mut command = Command::new(BINARY);
            command.args(["-f", name]).env("LOG_LEVEL", "debug").stdin(Stdio::null());
            command.stderr(OwnedFd::from(writer));
            let child = netns.run(move || command.spawn().unwrap());
            wait_until("it is ready", || run(&netns, "wg", ["show", name]).status.success());
            // Each is a line of the log; far more than there is room for.
            for _ in 0..1000 {
                let refused = run_set(&interface);
                assert!(refused.starts_with("errno=-"), "{refused}");
            }
            wg(&netns, &format!("show {name}"));
            if resumes {
                let mut skipped = vec![0; filled];
                (reader, text) = in_time("the notice comes", move || {
                    reader.read_exact(&mut skipped).unwrap();
                    // It is told without another event.
                    let mut buffer = [0; 4096];
                    while !text.contains("lines of the log were dropped") {
                        let len = reader.read(&mut buffer).unwrap();
                        assert_ne!(len, 0, "{text}");
                        text.push_str(&String::from_utf8_lossy(&buffer[..len]));
                    }
                    (reader, text)
                });
            }
            interface.running().signal(libc::SIGTERM);
            assert!(end_of(child).status.success());
            if resumes {
                text += &in_time("the log ends", move || io::read_to_string(reader).unwrap());
                assert!(text.ends_with("\n") && text.contains("shutting down"), "{text}");
                assert!(text.contains("starting version="), "{text}");
            }
            assert!(!interface.socket().exists() && !interface.exists(&netns));
        }
    });
}

/// Sends a `set` with a value that is long and wrong, and returns the answer.
fn run_set(interface: &Interface) -> String {
    use std::{io::Write, os::unix::net::UnixStream};

    let mut client = UnixStream::connect(interface.socket()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.set_write_timeout(Some(TIMEOUT)).unwrap();
    write!(client, "set=1\n{}=1\n\n", "x".repeat(500)).unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_closed_stderr_is_no_obstacle() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(BINARY);
        command.args(["-f", interface.name()]).env("LOG_LEVEL", "debug").stderr(OwnedFd::from(writer));
        let child = netns.run(move || command.spawn().unwrap());
        wait_until("it is ready", || run(&netns, "wg", ["show", interface.name()]).status.success());
        interface.running().signal(libc::SIGTERM);
        assert!(end_of(child).status.success());
    });
}

#[test]
fn a_text_that_cannot_be_printed_is_a_failure() {
    for option in ["--help", "--version"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = end_of(command(BINARY).arg(option).stdout(full).spawn().unwrap());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
    }
}
