//! The control socket of Windows: a named pipe.
//!
//! A pipe has several instances, each for one client. One instance always waits for the next client; when the client
//! has connected, another instance is created before the client is served, so that the name is never free for another
//! process.

mod instance;

use std::{
    io,
    os::windows::io::AsHandle,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use self::instance::Instance;
use crate::{
    error::{Error, ErrorKind, Result},
    sync::event::{Event, wait_any},
};

/// The directory in which wg(8) expects pipes. Only administrators can create pipes there.
pub const DIRECTORY: &str = r"\\.\pipe\ProtectedPrefix\Administrators\WireGuard";

/// The prefix of the path of a pipe on this machine.
const PIPES: &str = r"\\.\pipe\";

/// The maximum length of a pipe's path, in UTF-16 units.
const LONGEST: usize = 256;

/// The interval between two attempts to get a name that another process has.
const PAUSE: Duration = Duration::from_millis(50);

/// A listening pipe. Dropping it ends the pipe, except for clients that are connected.
///
/// It belongs to LocalSystem and is for LocalSystem and administrators only, as wg(8) requires: it must be created by
/// LocalSystem, or by a process with the privilege to restore files. Other machines cannot connect.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    instance: Instance,
}

impl Listener {
    /// Listens on the pipe `NAME` in `directory`, which begins with `\\.\pipe\`. If another process has the name, it
    /// gets `patience` to end.
    ///
    /// # Errors
    /// `Exists` if another process has the name, or the system refuses it to this one (which looks the same);
    /// `Permission` if this process may not give the pipe to LocalSystem; `Invalid` if the name is invalid; otherwise
    /// errors of the system.
    pub fn claim(directory: &Path, name: &str, patience: Duration) -> Result<Self> {
        if name.is_empty() || name.contains(['/', '\\', '\0']) {
            return Err(Error::invalid(format!("{name:?} cannot be the name of a control pipe")));
        }
        Self::claim_private(&directory.join(name), patience)
    }

    /// Listens on the pipe with this path, like [`claim`](Self::claim).
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_private(path: &Path, patience: Duration) -> Result<Self> {
        check(path)?;
        let start = Instant::now();
        loop {
            match Instance::first(path) {
                Ok(instance) => return Ok(Self { path: path.into(), instance }),
                Err(error) if instance::is_taken(&error) && start.elapsed() < patience => thread::sleep(PAUSE),
                Err(error) => return Err(refused(path, error)),
            }
        }
    }

    /// Listens on the pipe with this path, like [`claim`](Self::claim), without waiting for another process.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_path(path: &Path) -> Result<Self> {
        Self::claim_private(path, Duration::ZERO)
    }

    /// Returns the pipe's path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

fn check(path: &Path) -> Result<()> {
    let text = path.to_str().unwrap_or_default();
    let is_pipe = text.get(..PIPES.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PIPES));
    if !is_pipe || text.len() == PIPES.len() || text.contains('\0') {
        return Err(Error::invalid(format!("{} is not the path of a pipe, which begins with {PIPES}", path.display())));
    }
    if text.encode_utf16().count() > LONGEST {
        return Err(Error::invalid(format!("the pipe's path {} is longer than {LONGEST} characters", path.display())));
    }
    Ok(())
}

fn refused(path: &Path, error: io::Error) -> Error {
    let shown = path.display();
    if instance::is_taken(&error) {
        let text = format!("{shown} is in use by another process, or this process may not create it");
        return Error::new(ErrorKind::Exists, text);
    }
    if instance::is_owner_refused(&error) {
        let text = format!("cannot give {shown} to LocalSystem, as wg(8) requires: run this as LocalSystem");
        return Error::new(ErrorKind::Permission, text);
    }
    Error::io(format!("cannot listen on {shown}"), error)
}

/// Ends the wait of an [`Incoming`].
pub(super) struct Wake(Arc<Event>);

impl Wake {
    pub(super) fn wake(&self) -> io::Result<()> {
        self.0.set()
    }
}

/// Clients that connect.
pub(super) struct Incoming {
    path: PathBuf,
    /// The instance for the next client.
    instance: Instance,
    /// Whether the client has connected.
    connected: bool,
    wake: Arc<Event>,
    /// Whether the last client got an instance without a failure.
    accepted: bool,
}

impl Incoming {
    pub(super) fn new(listener: Listener) -> io::Result<(Self, Wake)> {
        let wake = Arc::new(Event::once()?);
        let Listener { path, instance } = listener;
        Ok((Self { path, instance, connected: false, wake: wake.clone(), accepted: true }, Wake(wake)))
    }

    /// Waits for a client, for a wake-up, or until the time limit. Call it when [`accept`](Self::accept) would block,
    /// or no client can be accepted now.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.connected {
            return wait_any(&[self.wake.as_handle()], timeout).map(drop);
        }
        self.connected = self.instance.connect(&self.wake, timeout)?;
        Ok(())
    }

    /// Accepts a client; `WouldBlock` if none waits.
    pub(super) fn accept(&mut self) -> io::Result<ClientStream> {
        if !self.connected {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let accepted = Instance::another(&self.path).and_then(|next| Ok((next, Event::lasting()?)));
        self.accepted = accepted.is_ok();
        let (next, ended) = accepted?;
        self.connected = false;
        let instance = std::mem::replace(&mut self.instance, next);
        Ok(ClientStream { instance, ended, idle: None })
    }

    /// Returns whether a client waits to be accepted.
    pub(super) const fn client_waits(&self) -> bool {
        self.connected
    }

    /// A pipe cannot be removed by others.
    #[allow(clippy::unused_self, reason = "a socket's file can")]
    pub(super) const fn is_gone(&self) -> bool {
        false
    }

    /// Returns whether the last client could be accepted. There are no spare handles: Windows does not run out of them.
    pub(super) const fn has_spare(&self) -> bool {
        self.accepted
    }

    #[allow(clippy::unused_self, reason = "elsewhere there is one")]
    pub(super) const fn use_spare(&mut self) -> bool {
        false
    }

    #[allow(clippy::unused_self, reason = "elsewhere there is one")]
    pub(super) const fn renew_spare(&mut self) {}
}

/// A connection to a client.
pub(super) struct ClientStream {
    instance: Instance,
    /// Set when the connection has ended.
    ended: Event,
    /// The time limit for waits for the client.
    idle: Option<Duration>,
}

impl ClientStream {
    /// Makes reads and writes fail if the client does nothing for this long.
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub(super) const fn set_idle(&mut self, idle: Duration) -> io::Result<()> {
        self.idle = Some(idle);
        Ok(())
    }

    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.instance.read(into, &self.ended, self.idle)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.instance.write(bytes, &self.ended, self.idle)
    }

    /// Ends current and later reads and writes. The client can still read what was written.
    pub(super) fn shut_down(&self) {
        if let Err(error) = self.ended.set() {
            tracing::error!(%error, "cannot end a control connection");
        }
    }

    /// Returns whether the client has closed the connection.
    pub(super) fn has_hung_up(&self) -> bool {
        self.instance.has_hung_up()
    }
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests;
