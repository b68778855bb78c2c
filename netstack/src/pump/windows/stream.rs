//! Copies between a TCP connection and a pair of TCP sockets, which reports resets by itself.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    net::Shutdown,
    time::Duration,
};

use mio::{event, net::TcpStream};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use socket2::{SockRef, TcpKeepalive};

use super::pair::{self};
use crate::copy::Side;

/// The time between two probes of a program's end that writes no more.
const PROBE: Duration = Duration::from_secs(30);

/// Our end of a pair.
pub(super) struct Ours(TcpStream);

/// Creates a pair: our end, and the program's.
pub(super) fn pair() -> io::Result<(Ours, OwnedFd)> {
    let (ours, app) = pair::pair()?;
    Ok((Ours(TcpStream::from_std(ours.into())), app))
}

impl Side for Ours {
    fn peek(&mut self, ended: bool) -> io::Result<bool> {
        // After `WouldBlock` there is an event for new bytes.
        self.0.try_io(|| match rustix::io::ioctl_fionread(&self.0) {
            Ok(0) if !ended => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(true),
        })
    }

    fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let length = self.0.read_vectored(parts)?;
        if length == 0 {
            // A closed socket looks like one that is shut down for writing, until the system forgets it and resets
            // what comes for it.
            let keepalive = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
            if let Err(err) = SockRef::from(&self.0).set_tcp_keepalive(&keepalive) {
                tracing::debug!(%err, "a closed descriptor is not detected");
            }
        }
        Ok(length)
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(parts)
    }

    fn shutdown(&mut self) {
        // It may already be closed.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    fn take_error(&mut self) -> Option<io::Error> {
        // Only a reset fails a connection over loopback.
        Some(io::ErrorKind::ConnectionReset.into())
    }

    fn reset_on_close(&self) {
        if let Err(err) = SockRef::from(&self.0).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%err, "a descriptor is closed without a reset");
        }
    }
}

impl Ours {
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn source(&mut self) -> &mut dyn event::Source {
        &mut self.0
    }
}
