//! A descriptor that a program polls, and does not read from.

use std::{net::Shutdown, sync::Arc};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    net::{recv, send},
};
use socket2::SockRef;

use super::pair;

/// The library's end of such a descriptor. There is a byte for the program's end while something waits.
#[derive(Clone, Debug)]
pub struct Signal(Arc<OwnedFd>);

impl Signal {
    /// Creates a signal of the first end of a [`pair`](super::pair()).
    #[must_use]
    pub fn new(ours: OwnedFd) -> Self {
        Self(Arc::new(ours))
    }

    /// Returns the descriptor, for [`Pump::watch`](super::Pump::watch).
    #[must_use]
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        self.0.clone()
    }

    /// Makes the program's end readable.
    pub fn raise(&self) {
        raise(self.0.as_fd());
    }

    /// Makes the program's end no longer readable. Only one thread at a time may call it. On Windows the byte of a call
    /// of [`raise`](Self::raise) just before may arrive after it.
    pub fn lower(app: BorrowedFd<'_>) {
        let waits = || rustix::io::ioctl_fionread(app).is_ok_and(|length| length > 0);
        while waits() && recv(app, &mut [0; 16][..], pair::NO_WAIT).is_ok_and(|(_, length)| length > 0) {}
    }

    /// Returns whether the program has closed its end, or shut it down.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::empty())];
        poll(&mut fds, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Shows the end to the program, also if there are duplicates of the descriptor.
    pub fn close(&self) {
        // An error means that the program has closed its end.
        let _ = SockRef::from(&*self.0).shutdown(Shutdown::Both);
    }
}

/// Sends a byte. If there is no room for it, earlier bytes are still there to be read. An error of a program that has
/// closed its end is ignored: the pump is notified of the close.
pub(super) fn raise(ours: BorrowedFd<'_>) {
    let _ = send(ours, &[1], pair::NO_SIGNAL);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Waits for `what`: over loopback it may take a moment.
    fn until(what: impl Fn() -> bool) {
        for _ in 0..30_000 {
            if what() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it does not happen");
    }

    fn is_readable(app: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(app, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() > 0
    }

    fn new() -> (Signal, OwnedFd) {
        let (ours, app) = pair::pair().unwrap();
        (Signal::new(ours), app)
    }

    #[test]
    fn it_is_readable_between_raise_and_lower() {
        let (signal, app) = new();
        assert!(!is_readable(&app) && !signal.is_gone());
        for _ in 0..3 {
            signal.raise();
            super::super::wait(app.as_fd(), None).unwrap();
            assert!(is_readable(&app));
            Signal::lower(app.as_fd());
            assert!(!is_readable(&app));
        }
    }

    #[test]
    fn each_end_sees_the_others() {
        let (signal, app) = new();
        let other = signal.clone();
        signal.close();
        until(|| is_readable(&app));
        drop((other, app));
        let (signal, app) = new();
        signal.raise();
        drop(app);
        until(|| signal.is_gone());
        let (signal, app) = new();
        SockRef::from(&app).shutdown(Shutdown::Both).unwrap();
        until(|| signal.is_gone());
    }
}
