//! A process that removes a file when the daemon has ended, however that ends, for a daemon that may not do it itself.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
};

use crate::{descriptors, detach, privileges};

/// What the other process writes for each step that went well: when it is prepared, and when the file is removed.
/// Anything else is the reason why a step failed, and is its last word.
const DONE: u8 = 0;

/// The other process. It waits until this end of its stream is shut down.
pub(crate) struct Remover {
    stream: UnixStream,
    child: c_int,
}

impl Remover {
    /// Starts a process that calls `remove` at the end. It keeps no descriptor of this one.
    ///
    /// To be called before a thread is started. Signals that are blocked stay so there.
    ///
    /// # Errors
    /// If it cannot be started, or prepare itself.
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
                // SAFETY: _exit(2) takes a number. All that this process has a copy of stays as it is.
                unsafe { libc::_exit(outcome.is_err().into()) }
            }
        }
    }

    /// Has the file removed.
    ///
    /// # Errors
    /// What the other process met with, or if it has ended before.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let outcome = self.listen();
        self.reap();
        outcome
    }

    /// Waits for the outcome of a step.
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

    /// Waits for the end of the process, which is near. Where SIGCHLD is ignored there is nothing to wait for.
    fn reap(self) {
        let Self { stream, child } = self;
        drop(stream);
        // SAFETY: waitpid(2) takes numbers, and no status is asked for.
        while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// Tells the daemon how a step went. Returns an error if it went wrong, or if there is no daemon to be told.
fn report(mut stream: &UnixStream, outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Ok(()) => stream.write_all(&[DONE]),
        Err(error) => stream.write_all(error.to_string().as_bytes()).and(Err(error)),
    }
}

/// Keeps nothing that belongs to the caller, and no right but that to remove a file.
fn prepare(stream: &UnixStream) -> io::Result<()> {
    let cannot = |what: &'static str| move |error| io::Error::other(format!("cannot {what}: {error}"));
    descriptors::close_all_but(&[stream.as_fd()]);
    // A signal to the group of a terminal is for the daemon.
    // SAFETY: setsid(2) takes nothing. A child just forked leads no process group, so it cannot fail.
    unsafe { libc::setsid() };
    descriptors::release_stdio().map_err(cannot("release standard input and output"))?;
    privileges::gain_nothing().map_err(cannot("give up gaining privileges"))?;
    privileges::keep(&privileges::TO_REMOVE_A_FILE).map_err(cannot("give up capabilities"))
}
