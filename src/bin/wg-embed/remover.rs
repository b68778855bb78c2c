//! A process that removes a file when the daemon has ended, however that ends, for a daemon that may not do it itself.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    io::{self, PipeReader, PipeWriter, Read},
    os::fd::AsFd,
};

use crate::{descriptors, detach, privileges};

/// The other process. It waits until its pipe is closed.
pub(crate) struct Remover {
    pipe: PipeWriter,
    child: c_int,
}

impl Remover {
    /// Starts a process that calls `remove` at the end. It keeps no descriptor of this one.
    ///
    /// To be called before a thread is started. Signals that are blocked stay so there.
    pub(crate) fn start(remove: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        let (reader, pipe) = io::pipe()?;
        match detach::fork()? {
            Some(child) => Ok(Self { pipe, child }),
            None => {
                let code = match wait(reader).and_then(|()| remove()) {
                    Ok(()) => 0,
                    Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
                };
                // SAFETY: _exit(2) takes a number. All that this process has a copy of stays as it is.
                unsafe { libc::_exit(code) }
            }
        }
    }

    /// Has the file removed.
    ///
    /// # Errors
    /// What the other process met with, or if it was killed.
    pub(crate) fn remove(self) -> io::Result<()> {
        let Self { pipe, child } = self;
        drop(pipe);
        let mut status = 0;
        // SAFETY: waitpid(2) writes to the status, which lives.
        while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // The caller had SIGCHLD ignored: children are not waited for, and this one has ended.
                Some(libc::ECHILD) => return Ok(()),
                _ => return Err(error),
            }
        }
        match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
            (true, 0) => Ok(()),
            (true, code) => Err(io::Error::from_raw_os_error(code)),
            (false, _) => Err(io::Error::other("the process that was to do it was killed")),
        }
    }
}

/// Waits for the end of the daemon, with nothing that belongs to the caller.
fn wait(mut reader: PipeReader) -> io::Result<()> {
    descriptors::close_all_but(&[reader.as_fd()]);
    // A signal to the group of a terminal is for the daemon.
    // SAFETY: setsid(2) takes nothing. A child just forked leads no process group, so it cannot fail.
    unsafe { libc::setsid() };
    descriptors::release_stdio()?;
    privileges::gain_nothing()?;
    privileges::keep(&privileges::TO_REMOVE_A_FILE)?;
    reader.read_to_end(&mut Vec::new()).map(drop)
}
