//! A socket: its creation, and the choice of its driver.

use super::{SocketHook, health::Health, pair::Egress};
use crate::bind::{
    Family, RecvBatch,
    counters::Counters,
    driver::{BUFFER, Drive, DriverOptions, SetUp},
    interface,
    outgoing::Outgoing,
    system,
};
use mio::net::UdpSocket;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

/// Options of sockets, including their driver.
#[derive(Clone, Copy, Debug)]
pub(in crate::bind) struct SocketOptions {
    pub(in crate::bind) driver: DriverOptions,
    /// Whether datagrams leave by the interface of the routes, instead of that of an endpoint.
    pub(in crate::bind) any_interface: bool,
    /// The driver.
    pub(in crate::bind) set_up: SetUp,
    /// The only address to bind to, and therefore the only family; `None` for all addresses of both.
    pub(in crate::bind) local: Option<IpAddr>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { driver: DriverOptions::default(), any_interface: true, set_up: system::set_up, local: None }
    }
}

impl SocketOptions {
    /// Returns the same options with the portable driver, for every system.
    pub(in crate::bind) fn portable(self) -> Self {
        Self { set_up: system::set_up_portable, ..self }
    }

    /// Returns the families of the sockets.
    pub(super) fn families(&self) -> &'static [Family] {
        match self.local {
            None => &[Family::V4, Family::V6],
            Some(IpAddr::V4(_)) => &[Family::V4],
            Some(IpAddr::V6(_)) => &[Family::V6],
        }
    }
}

/// A bound socket.
pub(super) struct Socket {
    pub(super) io: UdpSocket,
    pub(super) family: Family,
    driver: Box<dyn Drive>,
    /// The interface that it is bound to, or 0.
    interface: AtomicU32,
    /// See [`SocketOptions::any_interface`].
    any_interface: bool,
    /// Whether all datagrams are dropped.
    blackhole: AtomicBool,
    health: Health,
    /// Whether datagrams may wait, or a loss is to be reported. Set by an event of the poll; cleared by a call that
    /// finds the socket empty: a datagram that arrives during it or later is an event.
    ready: AtomicBool,
}

/// Creates a socket without an address, passes it to the hook, prepares it and binds it to its interface. If it were
/// bound to the interface only afterwards, it could not have a port that others use on other interfaces. Returns `None`
/// if the host does not have the family.
pub(super) fn make(
    family: Family,
    mark: u32,
    interface: u32,
    hook: Option<&SocketHook>,
) -> io::Result<Option<socket2::Socket>> {
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
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    #[cfg(windows)]
    crate::bind::windows::refuse_sharing(&socket);
    prepare(&socket, mark)?;
    if interface != 0 {
        interface::bind(&socket2::SockRef::from(&socket), family, interface)?;
    }
    Ok(Some(socket))
}

/// Sets the options that every socket needs.
pub(super) fn prepare(socket: &socket2::Socket, mark: u32) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    #[cfg(windows)]
    crate::bind::windows::ignore_unreachable(socket);
    if mark != 0 {
        system::set_mark(&socket2::SockRef::from(socket), mark)?;
    }
    enlarge(BUFFER, |size| socket.set_recv_buffer_size(size));
    enlarge(BUFFER, |size| socket.set_send_buffer_size(size));
    Ok(())
}

impl Socket {
    /// Sets up a prepared socket, which is already bound to the interface of its `egress`, and binds it to `port` if
    /// there is one.
    pub(super) fn set_up(
        socket: socket2::Socket,
        family: Family,
        port: Option<u16>,
        egress: Egress,
        options: SocketOptions,
    ) -> io::Result<Self> {
        let unspecified = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = port.map(|port| SocketAddr::new(options.local.unwrap_or(unspecified), port).into());
        let driver = (options.set_up)(&socket, address.as_ref(), family, options.driver)?;
        let io = UdpSocket::from_std(socket.into());
        let (interface, blackhole) = (AtomicU32::new(egress.interface), AtomicBool::new(egress.blackhole));
        let any_interface = options.any_interface;
        // What arrives before it is registered, or has its place, may be no event.
        let (health, ready) = (Health::default(), AtomicBool::new(true));
        Ok(Self { io, family, driver, interface, any_interface, blackhole, health, ready })
    }

    /// Sends as much as possible. Returns whether the socket was found to be lost.
    pub(super) fn send(&self, outgoing: &mut Outgoing<'_>, counters: &Counters) -> bool {
        if self.blackhole.load(Relaxed) {
            // Not as unreachable, since other addresses of a peer would then be tried at once. A black hole is set by
            // the app for a moment, and is independent of routes; its datagrams must not leave by the other family
            // instead.
            outgoing.abandon();
            return false;
        }
        if self.any_interface || self.interface.load(Relaxed) != 0 {
            outgoing.through_any_interface();
        }
        self.driver.send(&self.io, outgoing, counters);
        outgoing.end().is_some_and(|code| self.health.refused_to_send(code))
    }

    /// Receives available datagrams into the free slots. Errors of single datagrams are skipped, a bounded number at a
    /// time: returns true if there may be more, although none were received.
    ///
    /// # Errors
    /// If the socket is lost, now or since an earlier call.
    pub(super) fn recv(&self, batch: &mut RecvBatch, counters: &Counters) -> io::Result<bool> {
        // Cleared before, so that an event that another thread reports during the call is not lost.
        self.ready.store(false, Relaxed);
        let mut is_empty = false;
        let received = self.health.receive(counters, || {
            let received = self.driver.recv(&self.io, batch, counters);
            is_empty = received.as_ref().map_or_else(|err| err.kind() == io::ErrorKind::WouldBlock, |empty| *empty);
            received.map(drop)
        });
        let is_ready = if received.is_err() { self.health.has_untold_loss() } else { !is_empty };
        if is_ready {
            self.set_ready();
        }
        received
    }

    /// Reports an event of the poll.
    pub(super) fn set_ready(&self) {
        self.ready.store(true, Relaxed);
    }

    /// Returns whether datagrams may wait, or a loss is to be reported.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Returns why the socket was lost, once.
    pub(super) fn take_loss(&self) -> Option<io::Error> {
        self.health.take_loss().inspect(|_| self.ready.store(false, Relaxed))
    }

    /// Returns whether several datagrams can be sent as one message.
    pub(super) fn joins(&self) -> bool {
        self.driver.joins()
    }

    pub(super) fn set_egress(&self, egress: Egress) -> io::Result<()> {
        if self.interface.load(Relaxed) != egress.interface {
            interface::bind(&socket2::SockRef::from(&self.io), self.family, egress.interface)?;
            self.interface.store(egress.interface, Relaxed);
        }
        self.blackhole.store(egress.blackhole, Relaxed);
        Ok(())
    }

    /// Lets an unbound socket share the port. Returns false if the system does not restrict this to sockets of one
    /// user.
    pub(super) fn share_port_with(&self, bare: &socket2::Socket) -> bool {
        system::share_port(&socket2::SockRef::from(&self.io), bare).unwrap_or_else(|err| {
            tracing::debug!(%err, "cannot share a port");
            false
        })
    }

    /// Makes the port exclusive to this socket again.
    pub(super) fn stop_sharing_port(&self) {
        if let Err(err) = system::stop_sharing_port(&socket2::SockRef::from(&self.io)) {
            tracing::debug!(%err, "cannot end the sharing of a port");
        }
    }

    pub(super) fn set_mark(&self, mark: u32) -> io::Result<()> {
        system::set_mark(&socket2::SockRef::from(&self.io), mark)
    }
}

/// Requests `size` bytes, and fewer if that is refused (some systems cap it instead).
fn enlarge(mut size: usize, set: impl Fn(usize) -> io::Result<()>) {
    while set(size).is_err() && size > 1 << 16 {
        size /= 2;
    }
}

/// Returns `None` if an attempt failed because the host does not have the address family.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::{Arc, Weak};

    /// Finds its socket empty, while another thread is told of the next datagram.
    struct Late(Weak<Socket>);

    impl Drive for Late {
        fn send(&self, _: &UdpSocket, _: &mut Outgoing<'_>, _: &Counters) {}

        fn recv(&self, _: &UdpSocket, _: &mut RecvBatch, _: &Counters) -> io::Result<bool> {
            self.0.upgrade().unwrap().set_ready();
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn joins(&self) -> bool {
            false
        }
    }

    #[test]
    fn an_event_during_a_call_is_not_lost() {
        let socket = Arc::new_cyclic(|socket| Socket {
            io: UdpSocket::bind(([127, 0, 0, 1], 0).into()).unwrap(),
            family: Family::V4,
            driver: Box::new(Late(socket.clone())),
            interface: AtomicU32::new(0),
            any_interface: false,
            blackhole: AtomicBool::new(false),
            health: Health::default(),
            ready: AtomicBool::new(false),
        });
        assert!(!socket.recv(&mut RecvBatch::new(1, 2048), &Counters::default()).unwrap());
        assert!(socket.is_ready());
    }
}
