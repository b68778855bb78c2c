//! A poll over a waker and a timer. Another poll gets the two themselves: in a poll within that poll, each wake-up
//! would take a call more.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::Mutex,
    time::Duration,
};

use mio::{Events, Interest, Poll, Registry, Token, unix::SourceFd};
use wg_embed::{poll::Registered, process, sync::lock, time::Instant};

const WAKER: Token = Token(0);
const TIMER: Token = Token(1);

pub(super) struct Waiter {
    poll: Mutex<(Poll, Events)>,
    waker: Waker,
    timer: Timer,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waiter =
            Self { waker: Waker::new()?, timer: Timer::new()?, poll: Mutex::new((poll, Events::with_capacity(4))) };
        let tokens = Registered { packets: WAKER, other: TIMER };
        waiter.register_both(lock(&waiter.poll).0.registry(), tokens)?;
        Ok(waiter)
    }

    pub(super) fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::error!(%err, "cannot wake the thread that reads packets");
        }
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        // The lock is held during the wait: only one thread waits, and no other takes it.
        let mut guard = lock(&self.poll);
        let (poll, events) = &mut *guard;
        match poll.poll(events, timeout) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        if events.iter().any(|event| event.token() == TIMER) {
            self.timer.fired();
        }
        Ok(())
    }

    pub(super) fn set_deadline(&self, next: impl FnOnce() -> Option<Instant>, now: impl FnOnce() -> Instant) {
        self.timer.set(next, now);
    }

    /// Packets are reported by the waker, everything else by the timer.
    pub(super) fn register(&self, registry: &Registry, tokens: Registered<Token>) -> io::Result<bool> {
        self.register_both(registry, tokens).map(|()| true)
    }

    fn register_both(&self, registry: &Registry, tokens: Registered<Token>) -> io::Result<()> {
        let [waker_fd, timer_fd] = self.fds();
        // An edge for each wake-up and each expiry: neither is ever read.
        registry.register(&mut SourceFd(&waker_fd), tokens.packets, Interest::READABLE)?;
        registry.register(&mut SourceFd(&timer_fd), tokens.other, Interest::READABLE).inspect_err(|_| {
            let _ = registry.deregister(&mut SourceFd(&waker_fd));
        })
    }

    pub(super) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        self.fds().iter().try_for_each(|fd| registry.deregister(&mut SourceFd(fd)))
    }

    fn fds(&self) -> [RawFd; 2] {
        [self.waker.0.as_raw_fd(), self.timer.fd.as_raw_fd()]
    }
}

/// Ends waits of polls.
struct Waker(File);

#[allow(unsafe_code)]
impl Waker {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and has no other owner.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    fn wake(&self) -> io::Result<()> {
        // It counts up to 2^64.
        (&self.0).write_all(&1_u64.to_ne_bytes())
    }
}

/// A timer of the kernel.
struct Timer {
    fd: OwnedFd,
    /// The time that it is set to.
    armed: Mutex<Option<Instant>>,
    /// The number of the process that created it: a child of `fork()` shares the timer, and must not set it.
    process: u32,
}

#[allow(unsafe_code)]
impl Timer {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, armed: Mutex::new(None), process: process::number() })
    }

    /// Reports that it has fired, possibly early by the stack's clock, which can be any clock: then the same deadline
    /// is set again.
    fn fired(&self) {
        *lock(&self.armed) = None;
    }

    /// Sets it to the result of `next`, unless it fires earlier anyway. `next` is called under the lock, so that the
    /// latest result is set.
    fn set(&self, next: impl FnOnce() -> Option<Instant>, now: impl FnOnce() -> Instant) {
        let mut armed = lock(&self.armed);
        // A timer that fires too early is set again then: deadlines usually move back, or are removed.
        let Some(next) = next().filter(|next| armed.is_none_or(|armed| *next < armed)) else { return };
        if self.process != process::number() {
            return;
        }
        *armed = Some(next);
        // Relative to now, whatever the clock is; 0 would stop it.
        let time = next.since(now()).max(Duration::from_nanos(1));
        let value = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: `spec` is a live itimerspec; the old value is not requested.
        if unsafe { libc::timerfd_settime(self.fd.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) } < 0 {
            tracing::error!(err = %io::Error::last_os_error(), "cannot set a timer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn a_child_of_fork_does_not_set_the_timer() {
        const NOW: Instant = Instant::from_nanos(1);
        let timer = Timer::new().unwrap();
        timer.set(|| Some(NOW + Duration::from_secs(3600)), || NOW);
        // SAFETY: the child calls nothing but a function without memory of its own or locks of others, and ends.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            timer.set(|| Some(NOW + Duration::from_millis(1)), || NOW);
            timer.set(|| None, || NOW);
            // SAFETY: takes no pointers.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: `status` is live.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let mut spec = libc::itimerspec { it_interval: zero, it_value: zero };
        // SAFETY: `spec` is a live itimerspec.
        assert_eq!(unsafe { libc::timerfd_gettime(timer.fd.as_raw_fd(), &raw mut spec) }, 0);
        assert!(spec.it_value.tv_sec > 3000, "{}", spec.it_value.tv_sec);
    }
}
