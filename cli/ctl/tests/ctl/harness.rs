//! Tunnels whose state is a text, behind the library's control socket; and programs that end in bounded time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use wg_embed::{
    config::{
        PeerEndpoint, Update,
        snapshot::{InterfaceSnapshot, PeerSnapshot, Snapshot},
    },
    ipc::{Listener, Options, Server},
    uapi::{self, Backend, Limits},
};

use crate::in_time::output_of;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_wg-embedctl");

pub(crate) const PRIVATE: &str = "IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8=";
pub(crate) const PUBLIC: &str = "QKBt8tYvSmhIa88zdoMKVeasQl0ZqlMyfV3r3FUFASQ=";
pub(crate) const PEERS: [&str; 3] = [
    "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiE=",
    "jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjE=",
    "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkE=",
];

/// Base64 as the UAPI's hexadecimal.
pub(crate) fn hex(key: &str) -> String {
    wg_embed::key::PublicKey::from_base64(key).unwrap().to_hex().to_string()
}

/// A command without what the environment of the tests may say to it.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in ["WG_EMBED_SOCKET_DIR", "WG_COLOR_MODE", "WG_HIDE_KEYS", "NO_COLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn ctl(arguments: &[&str]) -> Output {
    output_of(command(BINARY).args(arguments)).unwrap()
}

/// What a command that must succeed has written.
pub(crate) fn succeed(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command that must fail with this code has complained of.
pub(crate) fn fail(code: i32, output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

/// A directory, for sockets and files, that ends with this value.
pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        // The path of a socket is short.
        Self(tempfile::Builder::new().prefix("wgctl").tempdir_in("/tmp").unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs the program with the sockets of this directory.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        output_of(command(BINARY).arg("--socket-dir").arg(self.path()).args(arguments)).unwrap()
    }
}

/// What is known about a tunnel that only has a control socket.
pub(crate) struct Recorder {
    state: Mutex<(InterfaceSnapshot, Vec<PeerSnapshot>)>,
    /// The changes that came, as lines.
    changes: Mutex<Vec<String>>,
}

impl Backend for Recorder {
    fn apply(&self, update: Update) -> wg_embed::error::Result<()> {
        if update.listen_port == Some(1) {
            return Err(wg_embed::Error::new(wg_embed::ErrorKind::AddrInUse, "port 1 is taken"));
        }
        self.changes.lock().unwrap().push(uapi::set_text(&update)?.to_string());
        Ok(())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let (interface, peers) = self.state.lock().unwrap().clone();
        Snapshot::new(interface, peers.into_iter().map(Ok))
    }
}

/// Such a tunnel, until it is dropped.
pub(crate) struct Tunnel {
    recorder: Arc<Recorder>,
    _server: Server,
}

impl Tunnel {
    /// Serves what a text of the UAPI's `get` says.
    pub(crate) fn start(directory: &Directory, name: &str, text: &str) -> Self {
        Self::start_in(directory.path(), name, text)
    }

    pub(crate) fn start_in(directory: &Path, name: &str, text: &str) -> Self {
        let recorder = Arc::new(Recorder { state: Mutex::new(read(text)), changes: Mutex::default() });
        let listener = Listener::claim(directory, name, Duration::from_secs(1)).unwrap();
        let server = Server::start(listener, recorder.clone(), Options::default(), Box::new(drop)).unwrap();
        Self { recorder, _server: server }
    }

    /// What the tunnel is from now on.
    pub(crate) fn become_(&self, text: &str) {
        *self.recorder.state.lock().unwrap() = read(text);
    }

    /// The changes since this was called last.
    pub(crate) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.recorder.changes.lock().unwrap())
    }
}

/// The lines of a `set`, and those that only a `get` has.
fn read(text: &str) -> (InterfaceSnapshot, Vec<PeerSnapshot>) {
    let only_get =
        |line: &&str| line.starts_with("last_handshake") || line.starts_with("tx_") || line.starts_with("rx_");
    let set: Vec<_> = text.lines().filter(|line| !only_get(line)).collect();
    let update = uapi::parse_set(&set.join("\n"), Limits::default()).unwrap();
    let mut interface = InterfaceSnapshot::default();
    interface.private_key = update.private_key.flatten();
    interface.listen_port = update.listen_port.unwrap_or_default();
    interface.fwmark = update.fwmark.unwrap_or_default();
    let mut numbers = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once('=').unwrap();
        match (key, numbers.last_mut()) {
            ("public_key", _) => numbers.push([0; 3]),
            ("last_handshake_time_sec", Some(last)) => last[0] = value.parse().unwrap(),
            ("rx_bytes", Some(last)) => last[1] = value.parse().unwrap(),
            ("tx_bytes", Some(last)) => last[2] = value.parse().unwrap(),
            _ => {}
        }
    }
    let peers = update.peers.into_iter().zip(numbers).map(|(peer, [handshake, rx_bytes, tx_bytes])| {
        let mut state = PeerSnapshot::new(peer.public_key);
        state.preshared_key = peer.preshared_key.map(|key| *key).unwrap_or_default();
        if let Some(PeerEndpoint::Address(endpoint)) = peer.endpoint {
            state.endpoint = Some(endpoint);
        }
        state.last_handshake = Duration::from_secs(handshake);
        (state.tx_bytes, state.rx_bytes) = (tx_bytes, rx_bytes);
        state.persistent_keepalive = peer.persistent_keepalive.unwrap_or_default();
        state.allowed_ips = peer.allowed_ips.iter().map(|change| change.prefix).collect();
        state
    });
    (interface, peers.collect())
}

/// wg(8) looks for sockets in one directory, which belongs to root.
pub(crate) fn beside_wg(test: impl FnOnce(&Path)) {
    let directory = Path::new("/var/run/wireguard");
    // SAFETY: geteuid(2) takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return crate::skip::skipped("wg(8) looks for sockets where only root can make them");
    }
    if output_of(Command::new("wg").arg("--version")).is_err() {
        return crate::skip::skipped("there is no wg(8)");
    }
    test(directory);
}

/// A name that no other test has: sockets are in one directory.
pub(crate) fn unique_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("wgc{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
