//! Notifies the service manager of the daemon's state, as sd_notify(3) does.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    time::Duration,
};

/// How long a slow manager may delay the daemon.
const PATIENCE: Duration = Duration::from_secs(5);

/// The manager's socket, `NOTIFY_SOCKET`; `None` without a manager.
pub(crate) struct Notify(Option<OsString>);

impl Notify {
    pub(crate) fn from_environment() -> Self {
        Self(env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()))
    }

    /// Reports that the interface can be used.
    pub(crate) fn ready(&self, interface: &str) {
        // In the background this is another process than the one that was started.
        let id = std::process::id();
        self.tell(&format!("MAINPID={id}\nREADY=1\nSTATUS=Serving {interface}\n"));
    }

    pub(crate) fn stopping(&self, reason: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS=Stopping: {}\n", reason.replace(char::is_control, " ")));
    }

    /// Sends a message. The daemon works without its manager: a failure is only logged.
    fn tell(&self, text: &str) {
        if let Some(address) = &self.0
            && let Err(error) = send(address.as_bytes(), text.as_bytes())
        {
            tracing::warn!(%error, ?address, "cannot reach the service manager");
        }
    }
}

fn send(address: &[u8], text: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match address {
        [b'@', name @ ..] => connect_abstract(&socket, name)?,
        [b'/', ..] => socket.connect(std::ffi::OsStr::from_bytes(address))?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
    socket.send(text).map(drop)
}

#[cfg(target_os = "linux")]
fn connect_abstract(socket: &UnixDatagram, name: &[u8]) -> io::Result<()> {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};

    socket.connect_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &UnixDatagram, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
