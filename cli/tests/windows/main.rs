//! The daemon on Windows, with the stand-in for wintun.dll (`tests/windows/wintun.c`), whose path is in
//! `WG_EMBED_TEST_WINTUN`.
#![cfg(windows)]
#![allow(unsafe_code, clippy::panic, clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub, reason = "a part of it is used")]
#[path = "../../../tests/windows/pipe.rs"]
mod pipe;
#[path = "../../../tests/common/skip.rs"]
mod skip;
mod vpn;

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    os::windows::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use pipe::{ask, belongs_to_the_system, open};
use skip::skipped;
use wg_embed::{
    bind::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options, Tunnel},
    ipc,
    key::PrivateKey,
    tun::mem::MemTun,
};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};

const BINARY: &str = env!("CARGO_BIN_EXE_wg-embed");

/// Only bounds a hang.
const LIMIT: Duration = Duration::from_secs(300);

/// So that an event of the console reaches the daemon only.
const NEW_GROUP: u32 = 0x200;

/// A directory with the daemon and the stand-in.
struct Installed(PathBuf);

impl Installed {
    /// `None`, said why, without the stand-in.
    fn new(name: &str) -> Option<Self> {
        let Some(dll) = std::env::var_os("WG_EMBED_TEST_WINTUN") else {
            skipped("WG_EMBED_TEST_WINTUN does not name the stand-in for wintun.dll");
            return None;
        };
        let directory = std::env::temp_dir().join(format!("wg-embed-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::copy(BINARY, directory.join("wg-embed.exe")).unwrap();
        fs::copy(dll, directory.join("wintun.dll")).unwrap();
        Some(Self(directory))
    }

    fn daemon(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.0.join("wg-embed.exe"));
        command.args(arguments).env("LOG_LEVEL", "verbose").env("FAKE_WINTUN_ECHO", "1").creation_flags(NEW_GROUP);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A daemon that runs until this is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(BINARY).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn what_there_is_not_on_windows_is_refused() {
    for (arguments, environment, complaint) in [
        (&["wg0"][..], &[][..], "use --foreground"),
        (&["-f", "--user", "nobody", "wg0"], &[], "--user"),
        (&["-f", "wg0"], &[("WG_TUN_FD", "3")], "WG_TUN_FD"),
        (&["-f", "wg0"], &[("WG_UAPI_FD", "3")], "WG_UAPI_FD"),
        (&["-f", "wg0"], &[("WG_EMBED_MEMORY", "1")], "WG_EMBED_MEMORY"),
        (&["-f", "wg0"], &[("WG_EMBED_WORKERS", "9")], "WG_EMBED_WORKERS"),
        (&["-f", "a\\b"], &[], "cannot be the name"),
        (&["-f", "--socket-dir", "C:\\", "wg0"], &[], "not the path of a pipe"),
        (&["-f"], &[], "an interface name is missing"),
    ] {
        let output = run(arguments, environment);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(complaint), "{arguments:?}: {text}");
    }
}

#[test]
fn help_and_version_are_there() {
    let help = run(&["--help"], &[]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("wintun.dll"));
    assert!(run(&["--version"], &[]).status.success());
}

#[test]
fn a_missing_dll_is_named_with_its_path() {
    let Some(installed) = Installed::new("missing") else { return };
    fs::remove_file(installed.0.join("wintun.dll")).unwrap();
    let output = installed.daemon(&["-f", "wg-embed-missing"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let path = installed.0.join("wintun.dll");
    // Perhaps this process may not make such a pipe.
    assert!(!output.status.success());
    assert!(text.contains(&path.display().to_string()) || text.contains("LocalSystem"), "{text}");
}

#[test]
fn a_daemon_is_configured_passes_packets_and_ends() {
    let Some(installed) = Installed::new("daemon") else { return };
    let name = format!("wg-embed-{}", std::process::id());
    let path = Path::new(ipc::DIRECTORY).join(&name);
    let second = format!(r"\\.\pipe\wg-embed-wireproto-{}", std::process::id());
    let daemon = installed.daemon(&["-f", "--wireproto-socket", &second, &name]).spawn().unwrap();
    let mut daemon = Daemon(daemon);
    let Some(client) = open_or_explain(&path, &mut daemon.0) else { return };
    assert!(belongs_to_the_system(&client));
    drop(open(Path::new(&second)));

    let ours = PrivateKey::generate().unwrap();
    let theirs = PrivateKey::generate().unwrap();
    let request = format!(
        "set=1\nprivate_key={}\npublic_key={}\nallowed_ip=10.0.0.1/32\n\n",
        theirs.to_hex().as_str(),
        ours.public_key().to_hex().as_str()
    );
    assert_eq!(ask(&client, &request).unwrap(), "errno=0\n\n");
    let port = shown(&client, "listen_port").parse().unwrap();

    let (tun, windows) = MemTun::new("test", 1420);
    let tunnel = Tunnel::start(Arc::new(tun), Arc::new(UdpBind::new().unwrap()), Options::default()).unwrap();
    let mut peer = PeerUpdate::new(theirs.public_key());
    peer.endpoint = Some(SocketAddr::from(([127, 0, 0, 1], port)).into());
    peer.allowed_ips.push(AllowedIpUpdate::new([10, 0, 0, 2].into(), 32, false).unwrap());
    let update = Update { private_key: Some(Some(ours)), peers: vec![peer], ..Update::default() };
    tunnel.device().apply(update).unwrap();

    let mut packet = vec![7; 100];
    (packet[0], packet[2], packet[3]) = (0x45, 0, 100);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    assert!(windows.inject(&packet));
    packet[12..20].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    assert_eq!(windows.wait_written(LIMIT), [packet], "the stand-in sends it back");

    assert_ne!(shown(&client, "last_handshake_time_sec"), "0");
    assert_ne!(shown(&client, "rx_bytes"), "0");
    interrupt(daemon, &path);
}

/// The value of a key, once there is one.
fn shown(client: &fs::File, key: &str) -> String {
    let begun = Instant::now();
    loop {
        let answer = ask(client, "get=1\n\n").unwrap();
        if let Some(value) = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')) {
            return value.into();
        }
        assert!(begun.elapsed() < LIMIT, "{key} is not in\n{answer}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Opens the daemon's pipe; `None`, said why, if the daemon may not make it.
fn open_or_explain(path: &Path, daemon: &mut Child) -> Option<fs::File> {
    let begun = Instant::now();
    loop {
        if let Ok(pipe) = fs::OpenOptions::new().read(true).write(true).open(path) {
            return Some(pipe);
        }
        if daemon.try_wait().unwrap().is_some() {
            let mut text = String::new();
            daemon.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(text.contains("LocalSystem"), "{text}");
            skipped(text.trim_end());
            return None;
        }
        assert!(begun.elapsed() < LIMIT, "{} does not come", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ctrl-C cannot be sent to one group of processes, but Ctrl-Break can, which is treated alike. Under Wine neither can:
/// there `tests/windows/ctrl_c.py` types it on a terminal.
fn interrupt(mut daemon: Daemon, path: &Path) {
    // SAFETY: both are numbers.
    if unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, daemon.0.id()) } == 0 {
        return skipped(format!("the end by Ctrl-C: {}", std::io::Error::last_os_error()));
    }
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = daemon.0.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < LIMIT, "the daemon goes on");
        thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    daemon.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(status.success() && text.contains("interrupted"), "{status}: {text}");
    assert!(fs::OpenOptions::new().read(true).open(path).is_err());
}
