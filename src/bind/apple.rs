//! Apple's system functions that mio does not have.
#![allow(unsafe_code)]

use super::driver::Timer;
use mio::{Poll, Registry, Token, Waker};
use std::{io, os::fd::AsRawFd, ptr, sync::Arc, time::Duration};

/// A timer of the poll's own kqueue. Unlike the time limit of a poll, it continues while the machine sleeps.
pub(in crate::bind) struct BootTimer {
    /// A second descriptor of the kqueue.
    registry: Registry,
    token: Token,
}

impl Timer for BootTimer {
    fn new(poll: &Poll, token: Token, _: &Arc<Waker>) -> io::Result<Self> {
        Ok(Self { registry: poll.registry().try_clone()?, token })
    }

    fn set(&self, after: Option<Duration>) -> io::Result<()> {
        let change = libc::kevent {
            ident: self.token.0,
            filter: libc::EVFILT_TIMER,
            flags: if after.is_some() { libc::EV_ADD | libc::EV_ONESHOT } else { libc::EV_DELETE },
            fflags: libc::NOTE_NSECONDS | libc::NOTE_MACH_CONTINUOUS_TIME,
            data: after.map_or(0, |after| after.as_nanos().try_into().unwrap_or(isize::MAX)),
            // The field from which mio takes the token.
            udata: ptr::without_provenance_mut(self.token.0),
        };
        let no_limit = ptr::null();
        // SAFETY: `change` is one live change, and there is room for no event, so none is written.
        let done =
            unsafe { libc::kevent(self.registry.as_raw_fd(), &raw const change, 1, ptr::null_mut(), 0, no_limit) };
        match done {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // It has already expired.
                err if after.is_none() && err.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                err => Err(err),
            },
        }
    }
}
