//! The driver of a UDP socket that has nothing but the calls of every socket: one datagram at a time, without
//! segmentation offload, ECN, and the addresses of our own that datagrams came to.
//!
//! For socket providers that do not have what `fallback.rs` asks for, like Wine and what puts itself in front of
//! Windows's own.

use super::{
    Endpoint, Family, RecvBatch, RecvMeta,
    counters::Counters,
    driver::Drive,
    outgoing::{Outgoing, Refusal},
};
use mio::net::UdpSocket;
use std::{io, net::SocketAddr, sync::Once, thread, time::Duration};

/// The number of datagrams that are received in one call.
const BATCH: usize = 16;

/// The interval at which a full socket is tried again.
pub(super) const NAP: Duration = Duration::from_micros(500);

/// A driver without a state of its socket.
pub(super) struct Driver;

impl Driver {
    /// The driver, for a socket that another one could not be had for.
    pub(super) fn instead(family: Family, err: &io::Error) -> Self {
        static LOG: Once = Once::new();
        LOG.call_once(|| {
            tracing::warn!(%err, %family, "the sockets of this system have no ECN, and pass one datagram at a time");
        });
        Self
    }
}

impl Drive for Driver {
    fn send(&self, socket: &UdpSocket, outgoing: &mut Outgoing<'_>, _: &Counters) {
        while let Some(message) = outgoing.messages(1).next() {
            match socket.send_to(message.contents, message.to) {
                Ok(_) => outgoing.took(1, 1),
                Err(err) => {
                    outgoing.note_error(&err);
                    let left = outgoing.refused(1, judge(&err));
                    if !left.is_zero() {
                        thread::sleep(left.min(NAP));
                    }
                }
            }
        }
    }

    fn recv(&self, socket: &UdpSocket, batch: &mut RecvBatch, counters: &Counters) -> io::Result<bool> {
        receive(batch, counters, |slot| socket.recv_from(slot))
    }

    fn joins(&self) -> bool {
        false
    }
}

/// Fills slots by calls of `next`, which receives one datagram. Returns whether there is no more.
fn receive(
    batch: &mut RecvBatch,
    counters: &Counters,
    mut next: impl FnMut(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
) -> io::Result<bool> {
    for received in 0..BATCH {
        let Some(slot) = batch.free_slots().next() else { break };
        match next(slot) {
            Ok((len, from)) => {
                let from = Endpoint::new(from);
                batch.push(RecvMeta { from, len, segment_size: len.max(1), tos: 0 });
            }
            Err(err) if received == 0 => return Err(err),
            // Most are reported once: the fate of a datagram that was sent earlier.
            Err(err) => {
                counters.passed_over(&err);
                return Ok(err.kind() == io::ErrorKind::WouldBlock);
            }
        }
    }
    Ok(false)
}

/// Returns the meaning of an error of sending for its message.
pub(super) fn judge(err: &io::Error) -> Refusal {
    match err.raw_os_error() {
        _ if err.kind() == io::ErrorKind::WouldBlock => Refusal::Full,
        Some(NO_BUFFERS) => Refusal::Full,
        Some(errno) if ARGUMENT.contains(&errno) => Refusal::Argument,
        Some(errno) if SOURCE.contains(&errno) => Refusal::Source,
        Some(NO_ROUTE) => Refusal::Route,
        _ => Refusal::Other,
    }
}

#[cfg(not(windows))]
const NO_BUFFERS: i32 = libc::ENOBUFS;
#[cfg(not(windows))]
const ARGUMENT: [i32; 3] = [libc::EINVAL, libc::EMSGSIZE, libc::EIO];
#[cfg(not(windows))]
const SOURCE: [i32; 2] = [libc::EADDRNOTAVAIL, libc::ENETUNREACH];
#[cfg(not(windows))]
const NO_ROUTE: i32 = libc::EHOSTUNREACH;
/// Of winsock2.h: `WSAENOBUFS`.
#[cfg(windows)]
const NO_BUFFERS: i32 = 10055;
/// Of winsock2.h: `WSAEINVAL`, `WSAEMSGSIZE`, `WSAEOPNOTSUPP`.
#[cfg(windows)]
const ARGUMENT: [i32; 3] = [10022, 10040, 10045];
/// Of winsock2.h: `WSAEADDRNOTAVAIL`, `WSAENETUNREACH`.
#[cfg(windows)]
const SOURCE: [i32; 2] = [10049, 10051];
/// Of winsock2.h: `WSAEHOSTUNREACH`.
#[cfg(windows)]
const NO_ROUTE: i32 = 10065;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    /// The fate of a datagram, one that is too large where that is an error, and the end of a socket.
    #[cfg(not(windows))]
    const CODES: (i32, Option<i32>, i32) = (libc::ECONNREFUSED, None, libc::EBADF);
    #[cfg(windows)]
    const CODES: (i32, Option<i32>, i32) = (10054, Some(10040), 10038);

    /// What receiving makes of `datagrams` and the `err` behind them: how many arrive, the error, and what is counted.
    fn received(datagrams: usize, err: impl Fn() -> io::Error) -> (usize, Option<io::ErrorKind>, [u64; 2]) {
        let (mut batch, counters, mut left) = (RecvBatch::new(2 * BATCH, 8), Counters::default(), datagrams);
        let result = receive(&mut batch, &counters, |slot| {
            left = left.checked_sub(1).ok_or_else(&err)?;
            slot[0] = 7;
            Ok((1, SocketAddr::from(([127, 0, 0, 1], 9))))
        });
        let counted = [&counters.recv_errors, &counters.truncated].map(|counter| counter.load(Relaxed));
        (batch.len(), result.err().map(|err| err.kind()), counted)
    }

    #[test]
    fn an_error_behind_datagrams_is_counted() {
        let fate = || io::Error::from_raw_os_error(CODES.0);
        for datagrams in 1..BATCH {
            assert_eq!(received(datagrams, fate), (datagrams, None, [1, 0]));
        }
        assert_eq!(received(BATCH, fate), (BATCH, None, [0, 0]), "it was not met yet");
        if let Some(too_large) = CODES.1 {
            assert_eq!(received(1, || io::Error::from_raw_os_error(too_large)), (1, None, [0, 1]));
        }
    }

    #[test]
    fn the_caller_counts_what_comes_first_and_what_comes_again() {
        let fate = || io::Error::from_raw_os_error(CODES.0);
        assert_eq!(received(0, fate), (0, Some(fate().kind()), [0, 0]));
        assert_eq!(received(3, || io::Error::from_raw_os_error(CODES.2)), (3, None, [0, 0]));
        assert_eq!(received(3, || io::ErrorKind::WouldBlock.into()), (3, None, [0, 0]), "there is no more");
    }
}
