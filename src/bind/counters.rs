//! Counters of the sockets of a bind.

use super::socket_error::{UNKNOWN, ends, is_too_large};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counters since the bind was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// GSO sends that the system refused and that were repeated as single datagrams.
    pub gso_refused: u64,
    /// Sockets on which GSO was disabled because the system or the path does not support it.
    pub gso_disabled: u64,
    /// Datagrams that were dropped because the socket's buffer was full.
    pub send_full: u64,
    /// Datagrams that were too large for their slot, and lost.
    pub truncated: u64,
    /// Errors that were skipped while receiving.
    pub recv_errors: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) gso_refused: AtomicU64,
    pub(super) gso_disabled: AtomicU64,
    pub(super) send_full: AtomicU64,
    pub(super) truncated: AtomicU64,
    pub(super) recv_errors: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> UdpStats {
        UdpStats {
            gso_refused: self.gso_refused.load(Relaxed),
            gso_disabled: self.gso_disabled.load(Relaxed),
            send_full: self.send_full.load(Relaxed),
            truncated: self.truncated.load(Relaxed),
            recv_errors: self.recv_errors.load(Relaxed),
        }
    }

    /// Counts an error of receiving.
    pub(super) fn count(&self, code: i32) {
        let counter = if is_too_large(code) { &self.truncated } else { &self.recv_errors };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts an error that occurred after datagrams had been received, which are returned instead. An error that ends
    /// a socket is left for the next call, for which the system reports it again.
    pub(super) fn passed_over(&self, err: &io::Error) {
        let code = err.raw_os_error().unwrap_or(UNKNOWN);
        if err.kind() != io::ErrorKind::WouldBlock && !ends(code) {
            self.count(code);
        }
    }
}
