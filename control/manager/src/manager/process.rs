//! A tunnel in a process of its own, which is passed the ends of two pipes.

use super::{Error, Host, Manager, Options};
use crate::speaker::{OpenError, Transport};
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fmt, io,
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// What the process reads from.
const READ: i32 = 3;
/// What it writes to.
const WRITE: i32 = 4;
/// A TUN of the manager.
const TUN: i32 = 5;

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
    pub const TUN: i32 = TUN;

    /// Runs `PROGRAM vpn-daemon run --rpc-read-fd 3 --rpc-write-fd 4` and exchanges headers with it. It is passed
    /// `tun`, if there is one, as [`TUN`](Self::TUN). `prepare` may add arguments, set the environment and where its
    /// output goes.
    ///
    /// # Errors
    /// See [`ProcessError`]; then no process is left.
    pub fn start(
        program: impl AsRef<OsStr>,
        tun: Option<OwnedFd>,
        prepare: impl FnOnce(&mut Command),
        options: Options,
        host: Arc<dyn Host>,
    ) -> Result<Self, ProcessError> {
        let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (read, write) = io::pipe()?;
            Ok((read.into(), write.into()))
        };
        let (their_read, our_write) = pipe().map_err(ProcessError::Start)?;
        let (our_read, their_write) = pipe().map_err(ProcessError::Start)?;
        let transport = Transport::from_descriptors(our_read, our_write).map_err(ProcessError::Start)?;
        let mut command = Command::new(program);
        let [read, write] = [READ, WRITE].map(|number| number.to_string());
        command.args(["vpn-daemon", "run", "--rpc-read-fd", &read, "--rpc-write-fd", &write]);
        prepare(&mut command);
        let mut passed = vec![
            FdMapping { parent_fd: their_read, child_fd: READ },
            FdMapping { parent_fd: their_write, child_fd: WRITE },
        ];
        passed.extend(tun.map(|tun| FdMapping { parent_fd: tun, child_fd: TUN }));
        command.fd_mappings(passed).map_err(|e| ProcessError::Start(io::Error::other(e)))?;
        let child = Running { child: command.spawn().map_err(ProcessError::Start)?, grace: GRACE };
        // It has our copies of the other ends: with them the stream would not end with the process.
        drop(command);
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

    /// Stops the tunnel, and ends its process: it is asked to, and killed if it has not ended 5 seconds later.
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
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if !self.ends_within(PATIENCE) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
