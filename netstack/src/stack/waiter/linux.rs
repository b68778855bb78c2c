//! A poll over a waker and a timer.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::Mutex,
    time::Duration,
};

use mio::{Events, Interest, Poll, Registry, Token, Waker, unix::SourceFd};
use wg_embed::{sync::lock, time::Instant};

const WAKER: Token = Token(0);
const TIMER: Token = Token(1);

pub(super) struct Waiter {
    poll: Mutex<(Poll, Events)>,
    waker: Waker,
    timer: Timer,
    /// The poll itself, for others to wait for.
    fd: RawFd,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let timer = Timer::new()?;
        // An edge for each expiry: the timer is never read.
        poll.registry().register(&mut SourceFd(&timer.fd.as_raw_fd()), TIMER, Interest::READABLE)?;
        let fd = poll.as_raw_fd();
        Ok(Self { poll: Mutex::new((poll, Events::with_capacity(4))), waker, timer, fd })
    }

    pub(super) fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::error!(%err, "cannot wake the thread that reads packets");
        }
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        // The lock is held while waiting: only one thread waits, and no other takes it.
        let mut guard = lock(&self.poll);
        let (poll, events) = &mut *guard;
        match poll.poll(events, timeout) {
            Err(err) if err.kind() != io::ErrorKind::Interrupted => Err(err),
            _ => Ok(()),
        }
    }

    pub(super) fn set_deadline(&self, next: impl FnOnce() -> Option<Instant>, now: impl FnOnce() -> Instant) {
        self.timer.set(next, now);
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<bool> {
        registry.register(&mut SourceFd(&self.fd), token, Interest::READABLE).map(|()| true)
    }

    pub(super) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd))
    }
}

/// A timer of the kernel's.
struct Timer {
    fd: OwnedFd,
    /// What it is set to.
    armed: Mutex<Option<Instant>>,
}

#[allow(unsafe_code)]
impl Timer {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, armed: Mutex::new(None) })
    }

    /// `next` is asked under the lock, so that the latest answer is the one that is set.
    fn set(&self, next: impl FnOnce() -> Option<Instant>, now: impl FnOnce() -> Instant) {
        let mut armed = lock(&self.armed);
        let next = next();
        if *armed == next {
            return;
        }
        *armed = next;
        // From now on, whatever the clock is; 0 would stop it.
        let time = next.map_or(Duration::ZERO, |at| at.since(now()).max(Duration::from_nanos(1)));
        let value = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: `spec` is a live itimerspec; the old value is not asked for.
        if unsafe { libc::timerfd_settime(self.fd.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) } < 0 {
            tracing::error!(err = %io::Error::last_os_error(), "cannot set a timer");
        }
    }
}
