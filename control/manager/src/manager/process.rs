//! A tunnel in a process of its own, which is passed the ends of two pipes.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

use super::{Error, Host, Manager, Options};
use crate::speaker::OpenError;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::{
    ffi::OsStr,
    fmt, io,
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// A tunnel that was not stopped has that long to undo what it did, when the stream has ended.
const GRACE: Duration = Duration::from_secs(2);
/// A process that has been asked to end is killed after that long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A tunnel's process, and its manager. Dropping it ends both.
pub struct Process {
    /// Before the process: with it ends the stream.
    manager: Manager,
    child: Running,
}

/// Why there is no process.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProcessError {
    /// It could not be started.
    Start(io::Error),
    /// It does not speak the protocol.
    Open(OpenError),
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(e) => write!(f, "start the tunnel's process: {e}"),
            Self::Open(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ProcessError {}

impl Process {
    /// The number that the process has a TUN of the manager under, for
    /// [`StartRequest::tunnel_file_descriptor`](crate::messages::StartRequest::tunnel_file_descriptor).
    #[cfg(unix)]
    pub const TUN: i32 = system::TUN;

    /// Runs a tunnel's program and exchanges headers with it: on Unix
    /// `PROGRAM vpn-daemon run --rpc-read-fd 3 --rpc-write-fd 4`, which is passed `tun`, if there is one, as `TUN`; on
    /// Windows `PROGRAM vpn-daemon run`, with the numbers of two pipes in `CODER_VPN_DAEMON_RPC_READ_HANDLE` and
    /// `CODER_VPN_DAEMON_RPC_WRITE_HANDLE`. `prepare` may add arguments, set the environment and where its output goes.
    ///
    /// # Errors
    /// See [`ProcessError`]; then no process is left.
    pub fn start(
        program: impl AsRef<OsStr>,
        #[cfg(unix)] tun: Option<OwnedFd>,
        prepare: impl FnOnce(&mut Command),
        options: Options,
        host: Arc<dyn Host>,
    ) -> Result<Self, ProcessError> {
        let mut command = Command::new(program);
        command.args(["vpn-daemon", "run"]).args(system::arguments());
        prepare(&mut command);
        #[cfg(unix)]
        let spawned = system::spawn(command, tun);
        #[cfg(windows)]
        let spawned = system::spawn(command);
        let (transport, child) = spawned.map_err(ProcessError::Start)?;
        let child = Running { child, grace: GRACE };
        let manager = Manager::open(transport, options, host).map_err(ProcessError::Open)?;
        Ok(Self { manager, child })
    }

    /// Its manager.
    #[must_use]
    pub const fn manager(&self) -> &Manager {
        &self.manager
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.child.id()
    }

    /// Stops the tunnel, and ends its process: it is asked to, and killed if it has not ended 5 seconds later. On
    /// Windows it is killed at once, as it cannot be asked.
    ///
    /// # Errors
    /// See [`Error`]. The process has ended all the same.
    pub fn stop(mut self) -> Result<(), Error> {
        self.manager.stop()?;
        self.child.grace = Duration::ZERO;
        Ok(())
    }
}

/// A process that is ended when this is dropped.
struct Running {
    child: Child,
    /// It may end by itself for that long.
    grace: Duration,
}

impl Running {
    /// Waits until it has ended. Returns whether it has.
    fn ends_within(&mut self, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            // It cannot be waited for only if it has been already.
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if begin.elapsed() >= limit {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ends_within(self.grace) {
            return;
        }
        // Some tunnels go on when all is done.
        system::terminate(&self.child);
        if cfg!(windows) || !self.ends_within(PATIENCE) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
