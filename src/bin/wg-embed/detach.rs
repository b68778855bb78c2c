//! Going to the background, so that the caller learns how the start went.
//!
//! The process forks twice before it has a thread; the caller's process waits at a pipe until the daemon reports that
//! it is ready, or why it could not start, or is dead.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    fs::{self, OpenOptions},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

/// What the daemon writes when it is ready. Anything else is the reason why it is not.
const READY: &[u8] = b"\0ready";

/// Which of the two processes this one is now.
pub(crate) enum Side {
    /// The one that was started: the daemon reported this.
    Caller(Result<(), String>),
    /// The daemon.
    Daemon(Report),
}

/// The daemon's word to its caller.
pub(crate) struct Report(PipeWriter);

/// Splits off a daemon: in a session of its own, without a terminal, and with no descriptors but stdio and `keep`.
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
            // Whoever leads a session could get a terminal by opening one. The next child does not.
            match fork() {
                Ok(None) => {}
                other => {
                    if let Err(error) = other {
                        Report(writer).failed(&cannot(&error));
                    }
                    // SAFETY: _exit(2) takes a number; what the caller's process has buffered stays unwritten here.
                    unsafe { libc::_exit(0) }
                }
            }
            close_others(keep, &writer);
            Ok(Side::Daemon(Report(writer)))
        }
    }
}

/// The text for an error of [`detach`].
pub(crate) fn cannot(error: &io::Error) -> String {
    format!("cannot go to the background: {error}")
}

impl Report {
    /// Lets go of the caller's directory and stdio, and tells the caller that all is well.
    ///
    /// # Errors
    /// If that is not possible, or the caller did not wait for it.
    pub(crate) fn ready(self) -> io::Result<()> {
        std::env::set_current_dir("/")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        for standard in 0..=2 {
            // SAFETY: dup2(2) takes numbers. Rust's own stdio expects nothing of what is behind them.
            if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.send(READY)
    }

    /// Tells the caller why the daemon does not start.
    pub(crate) fn failed(self, reason: &str) {
        // A caller who did not wait does not want to know.
        let _ = self.send(reason.as_bytes());
    }

    fn send(mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
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

/// Forks, and returns the child's id to the parent.
fn fork() -> io::Result<Option<c_int>> {
    // SAFETY: there is one thread, so the child finds no lock held by another that does not exist there.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        id if id > 0 => Ok(Some(id)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn wait_for(child: c_int) {
    // SAFETY: waitpid(2) takes numbers, and no status is asked for. What is not collected, init collects.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

/// Closes what the caller left open by accident: a lock or a pipe would stay taken for as long as we live.
fn close_others(keep: &[BorrowedFd<'_>], writer: &PipeWriter) {
    let Ok(entries) = fs::read_dir("/dev/fd") else {
        return;
    };
    let open: Vec<RawFd> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    let ours = |fd: RawFd| fd <= 2 || fd == writer.as_raw_fd() || keep.iter().any(|kept| kept.as_raw_fd() == fd);
    for fd in open.into_iter().filter(|fd| !ours(*fd)) {
        // SAFETY: nothing in this process owns it: what we opened is kept. The listing itself is closed already, and
        // closing a number that is not open does nothing.
        unsafe { libc::close(fd) };
    }
}
