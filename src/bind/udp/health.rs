//! Decides by the errors of a socket whether it is still usable.
//!
//! Most errors of receiving concern a datagram that was sent earlier: an ICMP message has arrived. They do not concern
//! the socket, however many there are. A few mean that the socket no longer exists, as does any error that is repeated
//! endlessly.

use crate::bind::{
    counters::Counters,
    socket_error::{UNKNOWN, ends, is_too_large},
};
use std::{
    io,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed},
};

/// The number of errors that are skipped at a time, since the thread has other work.
const ROUND: usize = 64;

/// The number of errors in a row, without a datagram or an empty queue in between, that is considered endless.
const ENDLESS: u32 = 4096;

/// The state of a socket.
#[derive(Default)]
pub(super) struct Health {
    /// Errors since the last datagram or empty queue.
    in_a_row: AtomicU32,
    /// The error by which the socket was lost, or 0.
    loss: AtomicI32,
    /// Whether the loss was reported.
    reported: AtomicBool,
}

impl Health {
    /// Calls `receive` until it returns a datagram or finds the queue empty, but not for longer than a round: true
    /// then.
    ///
    /// # Errors
    /// If the socket is lost, now or since an earlier call.
    pub(super) fn receive(&self, counters: &Counters, mut receive: impl FnMut() -> io::Result<()>) -> io::Result<bool> {
        if let Some(loss) = self.loss() {
            return Err(loss);
        }
        for _ in 0..ROUND {
            match receive() {
                Err(err) if err.kind() != io::ErrorKind::WouldBlock => {
                    let code = err.raw_os_error().unwrap_or(UNKNOWN);
                    counters.count(code);
                    if is_too_large(code) {
                        continue;
                    }
                    if ends(code) || self.in_a_row.fetch_add(1, Relaxed) >= ENDLESS {
                        self.lose(code);
                        return Err(err);
                    }
                }
                _ => {
                    if self.in_a_row.load(Relaxed) != 0 {
                        self.in_a_row.store(0, Relaxed);
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reports that the system has refused to send with this error, which [`ends`] a socket. Returns whether this is
    /// new.
    pub(super) fn refused_to_send(&self, code: i32) -> bool {
        self.lose(code)
    }

    /// Returns why the socket was lost; `None` if it was not, or if that was already reported.
    pub(super) fn take_loss(&self) -> Option<io::Error> {
        self.loss().filter(|_| !self.reported.swap(true, Relaxed))
    }

    /// Returns whether the socket was lost and that was not yet reported.
    pub(super) fn has_untold_loss(&self) -> bool {
        self.loss.load(Relaxed) != 0 && !self.reported.load(Relaxed)
    }

    fn loss(&self) -> Option<io::Error> {
        match self.loss.load(Relaxed) {
            0 => None,
            code => Some(io::Error::from_raw_os_error(code)),
        }
    }

    fn lose(&self, code: i32) -> bool {
        self.loss.compare_exchange(0, code, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The fate of a datagram, and the end of a socket.
    #[cfg(not(windows))]
    const CODES: (i32, i32) = (libc::ECONNREFUSED, libc::EBADF);
    #[cfg(windows)]
    const CODES: (i32, i32) = (10054, 10038);

    fn fails(code: i32) -> impl FnMut() -> io::Result<()> {
        move || Err(io::Error::from_raw_os_error(code))
    }

    fn nothing() -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    #[test]
    fn any_number_of_datagrams_may_fail_but_not_in_one_go() {
        let (health, counters) = (Health::default(), Counters::default());
        for _ in 0..100 {
            for _ in 0..10 {
                assert!(health.receive(&counters, fails(CODES.0)).unwrap());
            }
            let mut errors = 20;
            let last = || {
                if errors == 0 {
                    nothing()
                } else {
                    errors -= 1;
                    fails(CODES.0)()
                }
            };
            assert!(!health.receive(&counters, last).unwrap());
        }
        assert_eq!(counters.read().recv_errors, 100 * (10 * ROUND as u64 + 20));
        assert!(health.take_loss().is_none());
    }

    #[test]
    fn an_error_without_end_is_a_loss() {
        let (health, counters) = (Health::default(), Counters::default());
        let rounds = (0..).take_while(|_| health.receive(&counters, fails(CODES.0)).is_ok()).count();
        assert_eq!(rounds, ENDLESS as usize / ROUND);
        assert_eq!(health.take_loss().unwrap().raw_os_error(), Some(CODES.0));
    }

    #[test]
    fn a_loss_stays_and_is_reported_once() {
        let (health, counters) = (Health::default(), Counters::default());
        health.receive(&counters, fails(CODES.1)).unwrap_err();
        for _ in 0..2 {
            let err = health.receive(&counters, || panic!("what is lost is left alone")).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(CODES.1));
        }
        assert!(health.take_loss().is_some() && health.take_loss().is_none());
        assert!(!health.refused_to_send(CODES.1), "known already");

        let health = Health::default();
        assert!(health.refused_to_send(CODES.1));
        health.receive(&counters, nothing).unwrap_err();
        assert!(health.take_loss().is_some());
    }
}
