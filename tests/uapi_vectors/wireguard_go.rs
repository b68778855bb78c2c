//! A real wireguard-go, in a network namespace of its own.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::Target;

/// How long anything may take that should be done at once.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct WireguardGo {
    child: Child,
    socket: PathBuf,
}

impl WireguardGo {
    /// Starts it and brings its interface up, or says why that cannot be done here. Moves the calling thread to a new
    /// network namespace.
    pub(crate) fn start() -> Result<Self, String> {
        let program = find().ok_or("no wireguard-go: neither in WIREGUARD_GO nor on PATH")?;
        if !Path::new("/dev/net/tun").exists() {
            return Err("there is no /dev/net/tun".into());
        }
        // SAFETY: unshare(2) takes no pointer; it changes which namespace this thread's new sockets belong to.
        #[allow(unsafe_code)]
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(format!("no network namespace: {}", io::Error::last_os_error()));
        }
        let name = format!("wgv{}", std::process::id());
        let child = Command::new(&program)
            .args(["-f", &name])
            .env("LOG_LEVEL", "silent")
            .env("WG_PROCESS_FOREGROUND", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", program.display()))?;
        let socket = PathBuf::from(format!("/var/run/wireguard/{name}.sock"));
        let mut target = Self { child, socket };
        target.wait("no socket", |t| UnixStream::connect(&t.socket).is_ok())?;
        let up = Command::new("ip").args(["link", "set", &name, "up"]).status();
        if !up.is_ok_and(|status| status.success()) {
            return Err("`ip link set up` failed".into());
        }
        // It binds its port when it sees that the interface is up.
        target.wait("it did not come up", |t| t.exchange(b"get=1\n\n").starts_with(b"listen_port="))?;
        Ok(target)
    }

    fn wait(&mut self, otherwise: &str, mut done: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            if Instant::now() > end {
                return Err(format!("wireguard-go: {otherwise}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

impl Target for WireguardGo {
    fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // It may answer and close before it has read everything.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(e) if e.kind() != io::ErrorKind::ConnectionReset => panic!("no answer: {e}"),
            _ => answer,
        }
    }
}

fn find() -> Option<PathBuf> {
    if let Some(path) = env::var_os("WIREGUARD_GO") {
        return Some(path.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join("wireguard-go")).find(|file| file.is_file())
}
