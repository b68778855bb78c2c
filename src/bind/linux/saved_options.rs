//! The options of an adopted socket, to be restored when it is given back.

use super::{Socket, get_option, retry, set_option};
use libc::{IPPROTO_IP, IPPROTO_IPV6, SOL_SOCKET, SOL_UDP, c_int};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr,
};

/// Since Linux 5.14; some C libraries do not define it.
const SO_BUF_LOCK: c_int = 72;
const IPV6_AUTOFLOWLABEL: c_int = 70;

/// The options that this module tree may change. The locks follow the sizes, which set them.
const OPTIONS: [(c_int, c_int); 18] = [
    (SOL_UDP, libc::UDP_GRO),
    (SOL_UDP, libc::UDP_SEGMENT),
    (IPPROTO_IP, libc::IP_PKTINFO),
    (IPPROTO_IP, libc::IP_RECVTOS),
    (IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (IPPROTO_IP, libc::IP_RECVERR),
    (IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (IPPROTO_IPV6, libc::IPV6_RECVERR),
    (IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (IPPROTO_IPV6, IPV6_AUTOFLOWLABEL),
    (SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (SOL_SOCKET, libc::SO_MARK),
    (SOL_SOCKET, libc::SO_BINDTOIFINDEX),
    (SOL_SOCKET, libc::SO_RCVBUF),
    (SOL_SOCKET, libc::SO_SNDBUF),
    (SOL_SOCKET, SO_BUF_LOCK),
];

/// More datagrams than our receive buffer holds: each counts as at least 512 bytes.
const MOST_WAITING: usize = 2 * super::BUFFER / 512;

/// A duplicate of an adopted socket, and the options that the socket had. Dropping this restores them.
pub(in crate::bind) struct SavedOptions {
    socket: Socket,
    nonblocking: bool,
    /// `None` for options that the socket or the system does not have.
    options: [Option<c_int>; OPTIONS.len()],
}

impl SavedOptions {
    /// Reads the options; to be called before any of them is changed.
    pub(in crate::bind) fn new(socket: &Socket) -> io::Result<Self> {
        let options = OPTIONS.map(|(level, name)| get_option(socket.as_fd(), level, name).ok());
        Ok(Self { socket: socket.try_clone()?, nonblocking: socket.nonblocking()?, options })
    }

    fn restore(&self, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
        let socket = self.socket.as_fd();
        match (level, name) {
            (SOL_UDP, libc::UDP_GRO) => {
                set_option(socket, level, name, value)?;
                drain(socket);
                Ok(())
            }
            // The value read is twice the value set. Going below the system's limit needs no permission, going beyond
            // does.
            (SOL_SOCKET, libc::SO_RCVBUF) => set_option(socket, level, libc::SO_RCVBUFFORCE, value / 2)
                .or_else(|_| set_option(socket, level, name, value / 2)),
            (SOL_SOCKET, libc::SO_SNDBUF) => set_option(socket, level, libc::SO_SNDBUFFORCE, value / 2)
                .or_else(|_| set_option(socket, level, name, value / 2)),
            _ => set_option(socket, level, name, value),
        }
    }
}

impl Drop for SavedOptions {
    fn drop(&mut self) {
        for ((level, name), before) in OPTIONS.into_iter().zip(self.options) {
            let Some(before) = before else { continue };
            if get_option(self.socket.as_fd(), level, name).is_ok_and(|now| now != before)
                && let Err(err) = self.restore(level, name, before)
            {
                tracing::warn!(level, name, %err, "an option of an adopted socket stays changed");
            }
        }
        if let Err(err) = self.socket.set_nonblocking(self.nonblocking) {
            tracing::warn!(%err, "an adopted socket stays non-blocking");
        }
    }
}

/// Drops waiting datagrams: some of them are coalesced, which a program that did not enable GRO does not expect.
fn drain(socket: BorrowedFd<'_>) {
    for _ in 0..MOST_WAITING {
        // SAFETY: no byte is written.
        let received = retry(|| unsafe {
            libc::recv(socket.as_raw_fd(), ptr::null_mut(), 0, libc::MSG_DONTWAIT | libc::MSG_TRUNC) as c_int
        });
        if received.is_err_and(|err| err.kind() == io::ErrorKind::WouldBlock) {
            return;
        }
    }
}
