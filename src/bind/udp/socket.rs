//! One socket: how it is made, and which driver it has.

use super::{BUFFER, Counters, SocketHook};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use crate::bind::fallback as native;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::bind::linux as native;
use crate::bind::{Family, RecvBatch, fallback, outgoing::Outgoing};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

pub(super) use native::interface_index;

/// How datagrams pass a socket.
#[derive(Debug)]
enum Driver {
    Native(native::Driver),
    Portable(fallback::Driver),
}

/// A socket that is bound.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) io: mio::net::UdpSocket,
    pub(super) family: Family,
    driver: Driver,
}

/// A socket that is not bound yet, shown to the hook and marked. `None` if the host does not have the family.
pub(super) fn prepare(family: Family, mark: u32, hook: Option<&SocketHook>) -> io::Result<Option<socket2::Socket>> {
    let domain = match family {
        Family::V4 => socket2::Domain::IPV4,
        Family::V6 => socket2::Domain::IPV6,
    };
    let made = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP));
    let Some(socket) = unless_missing(made)? else {
        return Ok(None);
    };
    if let Some(hook) = hook {
        #[cfg(not(windows))]
        hook(std::os::fd::AsFd::as_fd(&socket), family)?;
        #[cfg(windows)]
        hook(std::os::windows::io::AsSocket::as_socket(&socket), family)?;
    }
    socket.set_nonblocking(true)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    if mark != 0 {
        native::set_mark(&socket2::SockRef::from(&socket), mark)?;
    }
    enlarge(BUFFER, |size| socket.set_recv_buffer_size(size));
    enlarge(BUFFER, |size| socket.set_send_buffer_size(size));
    Ok(Some(socket))
}

/// Whether another socket that wants the same may be bound to this one's port.
pub(super) fn share_port<'a>(socket: impl Into<socket2::SockRef<'a>>, share: bool) {
    let socket = socket.into();
    // The BSDs have SO_REUSEADDR as well, but there it does not let two sockets have the very same address.
    #[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
    let done = socket.set_reuse_port(share);
    #[cfg(not(all(unix, not(any(target_os = "linux", target_os = "android")))))]
    let done = socket.set_reuse_address(share);
    if let Err(err) = done {
        tracing::debug!(%err, share, "cannot change the sharing of a port");
    }
}

impl Socket {
    /// Binds a prepared socket.
    pub(super) fn bind(
        socket: socket2::Socket,
        family: Family,
        port: u16,
        offload: bool,
        portable: bool,
    ) -> io::Result<Self> {
        let address: SocketAddr = match family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Family::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
        };
        let address = address.into();
        let driver = if portable {
            Driver::Portable(fallback::Driver::bind(&socket, &address, family, offload)?)
        } else {
            Driver::Native(native::Driver::bind(&socket, &address, family, offload)?)
        };
        let io = mio::net::UdpSocket::from_std(socket.into());
        Ok(Self { io, family, driver })
    }

    pub(super) fn send(&self, outgoing: &mut Outgoing<'_>, counters: &Counters) {
        match &self.driver {
            Driver::Native(driver) => driver.send(&self.io, outgoing, counters),
            Driver::Portable(driver) => driver.send(&self.io, outgoing, counters),
        }
    }

    pub(super) fn recv(&self, batch: &mut RecvBatch, counters: &Counters) -> io::Result<()> {
        match &self.driver {
            Driver::Native(driver) => driver.recv(&self.io, batch, counters),
            Driver::Portable(driver) => driver.recv(&self.io, batch, counters),
        }
    }

    pub(super) fn share_port(&self, share: bool) {
        share_port(&self.io, share);
    }

    pub(super) fn set_mark(&self, mark: u32) -> io::Result<()> {
        native::set_mark(&socket2::SockRef::from(&self.io), mark)
    }
}

/// Asks for `size` bytes, and for less if that is refused (some systems cap it instead).
fn enlarge(mut size: usize, set: impl Fn(usize) -> io::Result<()>) {
    while set(size).is_err() && size > 1 << 16 {
        size /= 2;
    }
}

/// `None` if an attempt failed because the host does not have the address family.
pub(super) fn unless_missing<T>(attempt: io::Result<T>) -> io::Result<Option<T>> {
    #[cfg(not(windows))]
    const NO_FAMILY: i32 = libc::EAFNOSUPPORT;
    #[cfg(windows)]
    const NO_FAMILY: i32 = 10047;
    match attempt {
        Err(err) if err.raw_os_error() == Some(NO_FAMILY) || err.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        attempt => attempt.map(Some),
    }
}
