//! A process that removes a file after the daemon has ended in any way, for a daemon that lacks the permission.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
};

use crate::{descriptors, detach, privileges};

/// The message of the other process for each successful step: when it is prepared, and when the file is removed. Any
/// other message is the error of a failed step, and is its last.
const DONE: u8 = 0;

/// The other process. It waits until this end of its stream is shut down.
pub(crate) struct Remover {
    stream: UnixStream,
    child: c_int,
}

impl Remover {
    /// Starts a process that calls `remove` at the end. It inherits no descriptor of this one.
    ///
    /// To be called before a thread is started. Blocked signals remain blocked in it.
    ///
    /// # Errors
    /// If it cannot be started, or its preparation fails.
    pub(crate) fn start(remove: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        match detach::fork()? {
            Some(child) => {
                drop(theirs);
                let remover = Self { stream, child };
                match remover.listen() {
                    Ok(()) => Ok(remover),
                    Err(error) => {
                        remover.reap();
                        Err(error)
                    }
                }
            }
            None => {
                drop(stream);
                let outcome = report(&theirs, prepare(&theirs))
                    .and_then(|()| (&theirs).read_to_end(&mut Vec::new()))
                    .and_then(|_| report(&theirs, remove()));
                // SAFETY: _exit(2) takes a number. Copies in this process are not destroyed.
                unsafe { libc::_exit(outcome.is_err().into()) }
            }
        }
    }

    /// Removes the file.
    ///
    /// # Errors
    /// The error of the other process, or an error if it has already ended.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let outcome = self.listen();
        self.reap();
        outcome
    }

    /// Waits for the result of a step.
    fn listen(&self) -> io::Result<()> {
        let mut report = [DONE];
        (&self.stream).read_exact(&mut report).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("the process that was to do it has ended"),
            _ => error,
        })?;
        if report == [DONE] {
            return Ok(());
        }
        let mut reason = report.to_vec();
        (&self.stream).read_to_end(&mut reason)?;
        Err(io::Error::other(String::from_utf8_lossy(&reason)))
    }

    /// Waits for the process, which is about to end. If SIGCHLD is ignored, there is nothing to wait for.
    fn reap(self) {
        let Self { stream, child } = self;
        drop(stream);
        // SAFETY: waitpid(2) takes numbers, and no status is requested.
        while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// Reports the result of a step to the daemon. Returns an error if it failed, or if there is no daemon any more.
fn report(mut stream: &UnixStream, outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Ok(()) => stream.write_all(&[DONE]),
        Err(error) => stream.write_all(error.to_string().as_bytes()).and(Err(error)),
    }
}

/// Releases everything that belongs to the caller, and all privileges except that to remove a file.
fn prepare(stream: &UnixStream) -> io::Result<()> {
    let cannot = |what: &'static str| move |error| io::Error::other(format!("cannot {what}: {error}"));
    descriptors::close_all_but(&[stream.as_fd()]);
    // A signal to a terminal's process group is for the daemon.
    // SAFETY: setsid(2) takes nothing. A child just forked leads no process group, so it cannot fail.
    unsafe { libc::setsid() };
    descriptors::release_stdio().map_err(cannot("release standard input and output"))?;
    privileges::gain_nothing().map_err(cannot("give up gaining privileges"))?;
    privileges::keep(&privileges::TO_REMOVE_A_FILE).map_err(cannot("give up capabilities"))
}
