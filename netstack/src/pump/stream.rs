//! Copies between a TCP connection and a pair of stream sockets.
//!
//! A reset must be distinguished from an end. For a Unix stream socket the system reports ECONNRESET only if its other
//! end is closed with unread bytes. So on Linux our end always keeps one unread byte: [`pair()`] writes the first one,
//! and [`Side::read`] only peeks at the last byte. An end without a reset removes it ([`Side::finish`]).
//!
//! In the same way a connection that is not received from a listener's descriptor is reset: [`marked_pair`].

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use mio::event;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown, sockopt};

use super::pair::{self, Socket};
use crate::copy::Side;

/// Whether a byte is kept unread.
const KEEPS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Our end of a pair.
pub(super) struct Ours {
    socket: Socket,
    /// The number of bytes to read.
    waiting: usize,
    /// Whether the program reads the end after the bytes that were written.
    ended: bool,
}

impl Ours {
    /// Makes the program's writes fail, and discards what it has written, except for `kept` bytes.
    fn discard(&self, kept: usize) {
        let _ = shutdown(&self.socket, Shutdown::Read);
        let waiting = rustix::io::ioctl_fionread(&self.socket).unwrap_or(0);
        let mut left = usize::try_from(waiting).unwrap_or(usize::MAX).saturating_sub(kept);
        let mut discarded = [0; 4096];
        while left > 0 {
            let part = left.min(discarded.len());
            match recv(&self.socket, &mut discarded[..part], RecvFlags::DONTWAIT) {
                Ok((length @ 1.., _)) => left -= length,
                _ => return,
            }
        }
    }
}

/// Creates a pair: our end, and the program's.
pub(super) fn pair() -> io::Result<(Ours, OwnedFd)> {
    let (socket, app) = pair::pair()?;
    if KEEPS {
        send(&app, &[0], SendFlags::empty())?;
    }
    Ok((Ours { socket: Socket(socket), waiting: 0, ended: false }, app))
}

/// Creates a pair as [`pair()`] does; if the program's end is closed before [`unmark`], that is a reset.
pub(super) fn marked_pair() -> io::Result<(Ours, OwnedFd)> {
    let (ours, app) = pair()?;
    if KEEPS {
        send(&ours.socket, &[0], SendFlags::empty())?;
    }
    Ok((ours, app))
}

/// Makes a program's end of [`marked_pair`] one of [`pair()`].
pub(super) fn unmark(app: BorrowedFd<'_>) -> io::Result<()> {
    if KEEPS {
        recv(app, &mut [0; 1][..], RecvFlags::DONTWAIT)?;
    }
    Ok(())
}

impl Side for Ours {
    const MAY_STOP_READING: bool = true;

    fn peek(&mut self, ended: bool) -> io::Result<bool> {
        if !KEEPS {
            return Ok(true);
        }
        // The system counts the kept byte as readable.
        let waiting = rustix::io::ioctl_fionread(&self.socket).unwrap_or(0);
        self.waiting = usize::try_from(waiting).unwrap_or(usize::MAX).saturating_sub(1);
        if self.waiting == 0 && !ended { Err(ErrorKind::WouldBlock.into()) } else { Ok(self.waiting > 0) }
    }

    fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if !KEEPS {
            return Ok(rustix::io::readv(&self.socket, parts)?);
        }
        let [first, second] = parts else { return Err(ErrorKind::InvalidInput.into()) };
        let most = self.waiting.min(first.len() + second.len());
        if most == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        // The kept byte, and all but the last of the new ones.
        let one = first.len().min(most - 1);
        let two = most - 1 - one;
        let mut kept = [0];
        let mut parts =
            [IoSliceMut::new(&mut kept), IoSliceMut::new(&mut first[..one]), IoSliceMut::new(&mut second[..two])];
        let Some(taken) = rustix::io::readv(&self.socket, &mut parts)?.checked_sub(1) else { return Ok(0) };
        let last = if taken < first.len() { &mut first[taken..=taken] } else { &mut second[taken - one..=taken - one] };
        match recv(&self.socket, last, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((1.., _)) => Ok(taken + 1),
            _ => Err(ErrorKind::ConnectionReset.into()),
        }
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), pair::NO_SIGNAL)?)
    }

    fn shutdown(&mut self) {
        self.ended = true;
        // It may already be closed.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    fn refuse_input(&mut self) -> bool {
        self.discard(usize::from(KEEPS));
        true
    }

    fn take_error(&mut self) -> Option<io::Error> {
        sockopt::socket_error(&self.socket).ok()?.err().map(io::Error::from)
    }

    fn finish(&self) {
        if KEEPS {
            let _ = recv(&self.socket, &mut [0; 1][..], RecvFlags::DONTWAIT);
        }
    }

    fn reset_on_close(&self) {
        if self.ended {
            // Reading returns the end, and only writing fails, as for the kernel's sockets.
            self.discard(0);
        }
    }
}

impl Ours {
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn source(&mut self) -> &mut dyn event::Source {
        &mut self.socket
    }
}
