//! A timer for a poll on the clock of [`SystemClock`](crate::time::SystemClock), which counts sleep.

use crate::{bind::driver::Timer, error::check};
use mio::{Interest, Poll, Token, Waker, unix::SourceFd};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::Arc,
    time::Duration,
};

/// A timerfd.
///
/// The poll is edge-triggered, and each expiry is an edge. So the timer is never read: setting it again also clears it.
pub(in crate::bind) struct BootTimer(OwnedFd);

impl Timer for BootTimer {
    /// Fails on kernels before 3.15, and in sandboxes without timerfd.
    fn new(poll: &Poll, token: Token, _: &Arc<Waker>) -> io::Result<Self> {
        // Not CLOCK_BOOTTIME_ALARM, which would wake the machine.
        // SAFETY: only numbers are passed.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new, so it is open and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self(fd))
    }

    fn set(&self, after: Option<Duration>) -> io::Result<()> {
        // Zero stops it.
        let after = after.unwrap_or_default();
        let setting = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                // If it has 32 bits, 68 years are practically never.
                tv_sec: after.as_secs().min(i32::MAX as u64) as _,
                tv_nsec: after.subsec_nanos() as _,
            },
        };
        // SAFETY: `setting` lives through the call, and the old setting is not requested.
        check(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const setting, ptr::null_mut()) }).map(drop)
    }
}
