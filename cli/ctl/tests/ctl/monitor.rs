//! `monitor`: lines for pipes, a screen for terminals, which are left as they were.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::{Child, Stdio},
    ptr,
};

use crate::{
    harness::{BINARY, Directory, PEERS, Tunnel, command, fail, hex, succeed},
    in_time::{end_of, in_time},
};

fn state(handshake: u64, rx: u64) -> String {
    format!(
        "listen_port=7\npublic_key={}\nendpoint=192.0.2.1:5\nlast_handshake_time_sec={handshake}\nrx_bytes={rx}\n",
        hex(PEERS[0])
    )
}

#[test]
fn lines_have_what_changes() {
    let directory = Directory::new();
    let tunnel = Tunnel::start(&directory, "wg0", &state(5, 0));
    let mut child = command(BINARY)
        .args(["--socket-dir", directory.path().to_str().unwrap(), "monitor", "--interval", "0.05"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.contains(" wg0 1 peers, received 0 B/s"), "{first}");
    tunnel.become_(&state(9, 1 << 20));
    in_time("the handshake is shown", move || {
        assert!(lines.any(|line| line.ends_with("handshake") && line.contains("event: iiii")));
    });
    signal(&child, libc::SIGTERM);
    end_of(child);
}

#[test]
fn looks_are_lines_of_json() {
    let directory = Directory::new();
    let _tunnel = Tunnel::start(&directory, "wg0", &state(5, 0));
    let text = succeed(&directory.ctl(&["monitor", "wg0", "--json", "--interval", "0.05", "--count", "3"]));
    let looks: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 3);
    assert_eq!(looks[2]["tunnel"]["peers"][0]["public_key"], PEERS[0]);
    assert!(looks[2]["error"].is_null() && looks[2]["rx_bytes_per_second"] == 0);
}

#[test]
fn which_tunnel_must_be_clear() {
    let directory = Directory::new();
    assert!(fail(3, &directory.ctl(&["monitor"])).contains("there is no tunnel to watch"));
    let _tunnels = ["a", "b"].map(|name| Tunnel::start(&directory, name, ""));
    assert!(fail(2, &directory.ctl(&["monitor"])).contains("There are: a, b"));
    fail(2, &directory.ctl(&["monitor", "a", "--interval", "0"]));
}

fn signal(child: &Child, number: i32) {
    let id = i32::try_from(child.id()).unwrap();
    // SAFETY: kill(2) takes numbers; this is a process of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(id, number) }, 0);
}

/// A terminal of 100 columns and 30 lines: its two ends.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both descriptors and the size live; the name and the mode may be null.
    let result =
        unsafe { libc::openpty(&raw mut ours, &raw mut theirs, ptr::null_mut(), ptr::null(), &raw const size) };
    assert_eq!(result, 0);
    // SAFETY: the descriptor is ours alone.
    let ours = unsafe { File::from_raw_fd(ours) };
    // SAFETY: the descriptor is ours alone.
    (ours, unsafe { OwnedFd::from_raw_fd(theirs) })
}

/// Its modes, as numbers that can be compared.
fn modes(terminal: &OwnedFd) -> [u32; 4] {
    // SAFETY: numbers, for which zeros are a value.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the structure lives.
    assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes) }, 0);
    [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag]
}

fn on_a_terminal(end: impl FnOnce(&Child, &mut File) + Send + 'static) {
    let directory = Directory::new();
    let _tunnel = Tunnel::start(&directory, "wg0", &state(5, 0));
    let (mut ours, theirs) = terminal();
    let before = modes(&theirs);
    let end_of_line = || Stdio::from(theirs.try_clone().unwrap());
    let mut monitor = command(BINARY);
    monitor.args(["--socket-dir", directory.path().to_str().unwrap(), "monitor", "wg0", "--interval", "0.05"]);
    monitor.env("TERM", "xterm").stdin(end_of_line()).stdout(end_of_line()).stderr(end_of_line());
    let child = monitor.spawn().unwrap();
    drop(monitor);
    // Our end stays open: without it the other one has no modes.
    let _ours = ours.try_clone().unwrap();
    let written = in_time("the screen comes and goes", move || {
        let mut written = Vec::new();
        let mut piece = [0; 4096];
        let mut until = |ours: &mut File, what: &str| {
            while !String::from_utf8_lossy(&written).contains(what) {
                let n = ours.read(&mut piece).unwrap();
                assert!(n > 0);
                written.extend_from_slice(&piece[..n]);
            }
        };
        until(&mut ours, "\u{1b}[?1049h");
        until(&mut ours, "192.0.2.1:5");
        end(&child, &mut ours);
        until(&mut ours, "\u{1b}[?1049l");
        assert!(end_of(child).status.success());
        String::from_utf8_lossy(&written).into_owned()
    });
    assert!(written.contains("events"), "{written}");
    assert_eq!(modes(&theirs), before);
}

#[test]
fn a_key_ends_the_screen() {
    on_a_terminal(|_, terminal| terminal.write_all(b"q").unwrap());
}

#[test]
fn a_signal_ends_the_screen() {
    on_a_terminal(|child, _| signal(child, libc::SIGTERM));
}
