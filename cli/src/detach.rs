//! Moves the daemon to the background, and reports to the caller whether it has started.
//!
//! The process forks twice before it has a thread; the caller's process waits at a pipe until the daemon reports that
//! it is ready, or why it could not start, or has died.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    io::{self, PipeReader, PipeWriter, Read, Write},
    mem,
    os::fd::{AsFd, BorrowedFd},
};

use crate::descriptors;

/// The message of a daemon that is ready. Any other message is the reason why it is not.
const READY: &[u8] = b"\0ready";

/// The process that this one is after the fork.
pub(crate) enum Side {
    /// The original process, with the daemon's report.
    Caller(Result<(), String>),
    /// The daemon.
    Daemon(Report),
}

/// The daemon's report to its caller: that it is ready, or why it is not. `None` once it has reported that it is ready.
pub(crate) struct Report(Option<PipeWriter>);

/// Forks a daemon: in a session of its own, without a terminal, and without descriptors except stdio and `keep`.
///
/// To be called before a thread is started.
pub(crate) fn detach(keep: &[BorrowedFd<'_>]) -> io::Result<Side> {
    let (reader, writer) = io::pipe()?;
    match fork()? {
        Some(child) => {
            drop(writer);
            let report = listen(reader)?;
            wait_for(child);
            Ok(Side::Caller(report))
        }
        None => {
            drop(reader);
            // SAFETY: setsid(2) takes nothing. A child just forked leads no process group, so it cannot fail.
            unsafe { libc::setsid() };
            // A session leader could get a terminal by opening one. The next child cannot.
            match fork() {
                Ok(None) => {}
                other => {
                    if let Err(error) = other {
                        Report(Some(writer)).failed(&cannot(&error));
                    }
                    // SAFETY: _exit(2) takes a number; buffered output of the caller's process is not written here.
                    unsafe { libc::_exit(0) }
                }
            }
            // A lock or a pipe of the caller would be held for as long as the daemon lives.
            descriptors::close_all_but(&[keep, &[writer.as_fd()]].concat());
            Ok(Side::Daemon(Report(Some(writer))))
        }
    }
}

/// Returns the text for an error of [`detach`].
pub(crate) fn cannot(error: &io::Error) -> String {
    format!("cannot run in the background: {error}")
}

impl Report {
    /// Releases the caller's directory and stdio, and reports to the caller that the daemon is ready.
    ///
    /// # Errors
    /// If that is not possible, or the caller did not wait for it. The report can still be [`failed`](Self::failed).
    pub(crate) fn ready(&mut self) -> io::Result<()> {
        descriptors::release_stdio()?;
        if let Some(pipe) = &mut self.0 {
            pipe.write_all(READY)?;
        }
        self.0 = None;
        Ok(())
    }

    /// Reports to the caller why the daemon does not start, unless it was already reported to be ready.
    pub(crate) fn failed(self, reason: &str) {
        let Some(mut pipe) = self.0 else {
            return;
        };
        // A caller that did not wait needs no report.
        let _ = pipe.write_all(reason.as_bytes());
        // The caller reads until the pipe is closed. The pipe is closed by the end of this process, so that nothing is
        // left then.
        mem::forget(pipe);
    }
}

fn listen(mut reader: PipeReader) -> io::Result<Result<(), String>> {
    let mut report = Vec::new();
    reader.read_to_end(&mut report)?;
    Ok(match &*report {
        READY => Ok(()),
        [] => Err("the daemon died before it was ready".into()),
        reason => Err(String::from_utf8_lossy(reason).into_owned()),
    })
}

/// Forks, and returns the child's id to the parent. To be called before a thread is started.
pub(crate) fn fork() -> io::Result<Option<c_int>> {
    // SAFETY: there is one thread, so the child finds no lock held by another that does not exist there.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        id if id > 0 => Ok(Some(id)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn wait_for(child: c_int) {
    // SAFETY: waitpid(2) takes numbers, and no status is requested. If it fails, init reaps the process.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}
