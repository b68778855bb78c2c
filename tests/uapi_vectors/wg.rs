//! The real wg(8) as a client of ours.

use std::{
    fs,
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
};

use super::{in_time::output_of, ours::Ours};
use wg_embed::uapi::{Options, serve};

/// A device behind a socket where wg(8) finds it.
pub(crate) struct Served {
    name: String,
    socket: PathBuf,
}

impl Served {
    /// Starts it, or says why that cannot be done here.
    pub(crate) fn start() -> Result<Self, String> {
        Command::new("wg").arg("--version").output().map_err(|e| format!("no wg: {e}"))?;
        let run = Path::new("/var/run/wireguard");
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(run);
        made.map_err(|e| format!("cannot make {}: {e}", run.display()))?;
        let name = format!("wgm{}", std::process::id());
        let socket = run.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).map_err(|e| format!("cannot make {}: {e}", socket.display()))?;
        std::thread::spawn(move || {
            let ours = Ours::default();
            let options = Options { zones: Some(|zone| zone == "lo"), ..Options::default() };
            for stream in listener.incoming() {
                // wg looks whether anybody answers before it says anything.
                let _ = serve(&mut stream.unwrap(), &ours, &options);
            }
        });
        Ok(Self { name, socket })
    }

    /// What `wg VERB NAME ARGUMENTS` prints, or complains of.
    pub(crate) fn wg(&self, verb: &str, arguments: &str) -> Result<String, String> {
        let mut command = Command::new("wg");
        command.arg(verb).arg(&self.name).args(arguments.split_whitespace());
        let output = output_of(&mut command).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}
