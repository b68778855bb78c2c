//! A tunnel in another process, which is connected by two pipes.

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

/// The time for a tunnel that was not stopped to restore its changes after the end of the stream.
const GRACE: Duration = Duration::from_secs(2);
/// The time after which a process that was requested to end is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The process of a tunnel, and its manager. Dropping it ends both.
pub struct Process {
    /// Dropped before the process, which ends the stream.
    manager: Manager,
    child: Running,
}

/// The reason why there is no process.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProcessError {
    /// The process could not be started.
    Start(io::Error),
    /// The exchange of headers has failed.
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
    /// The descriptor of the manager's TUN in the process, for
    /// [`StartRequest::tunnel_file_descriptor`](crate::messages::StartRequest::tunnel_file_descriptor).
    #[cfg(unix)]
    pub const TUN: i32 = system::TUN;

    /// Runs the program of a tunnel, and exchanges headers with it. On Unix the command is `PROGRAM vpn-daemon run
    /// --rpc-read-fd 3 --rpc-write-fd 4`, and `tun`, if given, is passed as descriptor `TUN`; on Windows it is `PROGRAM
    /// vpn-daemon run`, with the numbers of two pipes in `CODER_VPN_DAEMON_RPC_READ_HANDLE` and
    /// `CODER_VPN_DAEMON_RPC_WRITE_HANDLE`. `prepare` may add arguments, set the environment and redirect the output.
    ///
    /// # Errors
    /// See [`ProcessError`]; no process is left in that case.
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

    /// Returns the manager of the process.
    #[must_use]
    pub const fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.child.id()
    }

    /// Stops the tunnel, and ends its process: with SIGTERM, and after another 5 seconds by killing it. On Windows it
    /// is killed at once.
    ///
    /// # Errors
    /// See [`Error`]. The process has ended in any case.
    pub fn stop(mut self) -> Result<(), Error> {
        self.manager.stop()?;
        self.child.grace = Duration::ZERO;
        Ok(())
    }
}

/// A process that is ended when this is dropped.
struct Running {
    child: Child,
    /// The time for it to end by itself.
    grace: Duration,
}

impl Running {
    /// Waits until it has ended. Returns false after the time limit.
    fn ends_within(&mut self, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            // Waiting fails only if the process was waited for before.
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
        // Some tunnels keep running after their end.
        system::terminate(&self.child);
        if cfg!(windows) || !self.ends_within(PATIENCE) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
