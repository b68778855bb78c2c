//! What wg(8) and wg-quick(8) make of a file: `wg-quick strip`, and `wg setconf` to a socket of ours.

use std::{
    fs,
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{Receiver, Sender, channel},
};

use super::in_time::{LIMIT, output_of};
use wg_embed::{
    Error,
    config::{
        PeerEndpoint, Update,
        snapshot::{InterfaceSnapshot, Snapshot},
        wgquick::{Conf, InterfaceSettings},
    },
    uapi::{Backend, Options, serve},
};

/// Passes on what it is told.
struct Recorder(Sender<Update>);

impl Backend for Recorder {
    fn apply(&self, update: Update) -> Result<(), Error> {
        self.0.send(update).map_err(|_| Error::invalid("the test is over"))
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(InterfaceSnapshot::default(), std::iter::empty())
    }
}

pub(crate) struct Judge {
    name: String,
    socket: PathBuf,
    /// `wg-quick` wants a file to be named after an interface.
    dir: PathBuf,
    updates: Receiver<Update>,
}

#[derive(Debug)]
pub(crate) struct Verdict {
    /// In the bytes of the file's comments.
    stripped: Vec<u8>,
    update: Update,
}

impl Judge {
    pub(crate) fn start() -> Result<Self, String> {
        for tool in ["wg", "wg-quick"] {
            if Command::new(tool).arg("--help").output().is_err() {
                return Err(format!("{tool} is not installed"));
            }
        }
        let run = Path::new("/var/run/wireguard");
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(run);
        made.map_err(|e| format!("cannot make {}: {e}", run.display()))?;
        let name = format!("wgc{}", std::process::id());
        let socket = run.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).map_err(|e| format!("cannot make {}: {e}", socket.display()))?;
        let (sender, updates) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // wg looks whether anybody answers before it says anything.
                let _ = serve(&mut stream.unwrap(), &Recorder(sender.clone()), &Options::default());
            }
        });
        let dir = std::env::temp_dir().join(&name);
        fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
        Ok(Self { name, socket, dir, updates })
    }

    pub(crate) fn read(&self, file: &Path) -> Result<Verdict, String> {
        let [whole, stripped] = ["whole.conf", "stripped.conf"].map(|name| self.dir.join(name));
        fs::copy(file, &whole).unwrap();
        let text = run(Command::new("wg-quick").arg("strip").arg(&whole))?;
        fs::write(&stripped, &text).unwrap();
        run(Command::new("wg").arg("setconf").arg(&self.name).arg(&stripped))?;
        Ok(Verdict { stripped: text, update: self.updates.recv_timeout(LIMIT).unwrap() })
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = output_of(command).unwrap();
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

impl Verdict {
    pub(crate) fn assert_same(&self, ours: &Conf, place: &str) {
        let stripped = Conf::from_bytes(&self.stripped).unwrap();
        assert_eq!(stripped.interface, InterfaceSettings::default(), "{place}");
        assert_eq!(stripped.update, ours.update, "{place}");
        // wg has resolved the names.
        let (mut theirs, mut ours) = (self.update.clone(), ours.update.clone());
        for (theirs, ours) in theirs.peers.iter_mut().zip(&mut ours.peers) {
            if matches!(ours.endpoint, Some(PeerEndpoint::Host(_))) {
                assert!(matches!(theirs.endpoint, Some(PeerEndpoint::Address(_))), "{place}");
                (theirs.endpoint, ours.endpoint) = (None, None);
            }
        }
        assert_eq!(theirs, ours, "{place}");
    }
}
