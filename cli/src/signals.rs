//! Signals, received from a queue instead of in a handler.
#![allow(unsafe_code)]

use std::{io, mem, ptr};

/// Signals that end the daemon. They are blocked, and wait until they are received.
#[derive(Clone, Copy)]
pub(crate) struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks SIGINT and SIGTERM, and SIGHUP unless it is ignored, as under nohup(1). They are also blocked in threads
    /// that are started later, which are therefore never interrupted.
    pub(crate) fn block() -> io::Result<Self> {
        let mut set = mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset(3) fills the set it is given.
        check(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
        // SAFETY: it was just filled.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            if signal == libc::SIGHUP && is_ignored(signal)? {
                continue;
            }
            // SAFETY: the set lives.
            check(unsafe { libc::sigaddset(&raw mut set, signal) })?;
        }
        // SAFETY: the set lives; the old one is not requested.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
            0 => Ok(Self(set)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Waits for the next signal, and returns its name.
    pub(crate) fn wait(&self) -> io::Result<&'static str> {
        let mut signal = 0;
        // SAFETY: both pointers are to values that live.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(match signal {
                libc::SIGINT => "SIGINT",
                libc::SIGHUP => "SIGHUP",
                _ => "SIGTERM",
            }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    let mut action = mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: sigaction(2) without a new action writes the current one.
    check(unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: it was just written.
    let action = unsafe { action.assume_init() };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
