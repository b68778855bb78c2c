//! UDP sockets by address and port.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, RwLock},
};

use wg_embed::sync::{read, write};

use super::mailbox::Mailbox;
use crate::{
    UdpPort, UdpSocket,
    stack::{closed, packet::is_host, shared::Shared},
};

/// The first of the automatically assigned ports, which extend to the last port.
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = u16::MAX - FIRST_PORT + 1;

/// A socket: its address, and datagrams that wait in it.
#[derive(Clone)]
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// All sockets.
#[derive(Default)]
pub(crate) struct Sockets(RwLock<Table>);

/// The address of a socket, and of its peer if it is connected.
type Place = (SocketAddr, Option<SocketAddr>);

#[derive(Default)]
struct Table {
    /// `None` for a port that is reserved without a socket: its datagrams are intercepted.
    places: HashMap<Place, Option<Arc<Mailbox>>>,
    /// The number of sockets of each port.
    ports: HashMap<u16, usize>,
}

impl Table {
    /// Returns whether a socket has the same place. One address and all addresses are distinguishable, and so are one
    /// peer and all peers.
    fn conflicts(&self, (local, peer): Place) -> bool {
        if !local.ip().is_unspecified() {
            return self.places.contains_key(&(local, peer));
        }
        unspecified(local.port()).iter().any(|local| self.places.contains_key(&(*local, peer)))
    }

    fn remove(&mut self, place: Place) -> Option<Arc<Mailbox>> {
        let mailbox = self.places.remove(&place)?;
        if let Some(count) = self.ports.get_mut(&place.0.port()) {
            *count -= 1;
            if *count == 0 {
                self.ports.remove(&place.0.port());
            }
        }
        mailbox
    }

    /// Takes a place; port 0 is replaced by a free one.
    fn insert(
        &mut self,
        shared: &Shared,
        (local, peer): Place,
        mailbox: Option<Arc<Mailbox>>,
    ) -> io::Result<SocketAddr> {
        let port = match local.port() {
            0 => {
                let mut random = [0; 2];
                shared.options.random.fill(&mut random);
                let first = u16::from_ne_bytes(random) % PORTS;
                let mut ports = (0..PORTS).map(|step| FIRST_PORT + (first + step) % PORTS);
                ports.find(|port| !self.ports.contains_key(port)).ok_or(io::ErrorKind::AddrInUse)?
            }
            port => port,
        };
        let local = SocketAddr::new(local.ip(), port);
        if self.conflicts((local, peer)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.places.insert((local, peer), mailbox);
        *self.ports.entry(port).or_default() += 1;
        Ok(local)
    }
}

/// Returns the unspecified addresses of one family, and of both.
const fn unspecified(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)]
}

impl Sockets {
    /// Returns the socket for a datagram to this own address: one that is connected to its sender, else one of the
    /// address, else one of all addresses.
    pub(super) fn find(&self, local: SocketAddr, from: SocketAddr) -> Option<Arc<Mailbox>> {
        let table = read(&self.0);
        if !table.ports.contains_key(&local.port()) {
            return None;
        }
        let [v4, both] = unspecified(local.port());
        let place = |place: Place| table.places.get(&place);
        place((local, Some(from)))
            .or_else(|| place((local, None)))
            .or_else(|| place((v4, None)).filter(|_| local.is_ipv4()))
            .or_else(|| place((both, None)))
            .and_then(Option::clone)
    }

    /// Returns the socket that is connected so.
    pub(super) fn connected(&self, local: SocketAddr, peer: SocketAddr) -> Option<Arc<Mailbox>> {
        read(&self.0).places.get(&(local, Some(peer))).and_then(Option::clone)
    }

    pub(super) fn remove(&self, socket: &Socket) {
        let mut table = write(&self.0);
        let place = (socket.local, socket.peer);
        // After a change of addresses another one may have its place.
        let is_it = |mailbox: &Option<Arc<Mailbox>>| {
            mailbox.as_ref().is_some_and(|mailbox| Arc::ptr_eq(mailbox, &socket.mailbox))
        };
        if table.places.get(&place).is_some_and(is_it) {
            table.remove(place);
        }
    }

    /// Releases a port that was reserved without a socket.
    pub(crate) fn give_back(&self, local: SocketAddr) {
        let mut table = write(&self.0);
        if table.places.get(&(local, None)).is_some_and(Option::is_none) {
            table.remove((local, None));
        }
    }

    /// Removes the sockets for which `gone` returns true.
    pub(super) fn remove_where(&self, gone: impl Fn(SocketAddr) -> bool) -> Vec<Arc<Mailbox>> {
        let mut table = write(&self.0);
        let is_gone = |(place, mailbox): &(&Place, &Option<_>)| mailbox.is_some() && gone(place.0);
        let places: Vec<_> = table.places.iter().filter(is_gone).map(|(place, _)| *place).collect();
        places.into_iter().filter_map(|place| table.remove(place)).collect()
    }

    /// Adds a socket; port 0 is replaced by a free one.
    fn insert(&self, shared: &Shared, local: SocketAddr, peer: Option<SocketAddr>) -> io::Result<Socket> {
        let mailbox = Arc::new(Mailbox::default());
        let local = write(&self.0).insert(shared, (local, peer), Some(mailbox.clone()))?;
        Ok(Socket { local, peer, mailbox })
    }
}

/// See [`Netstack::reserve_udp`](crate::Netstack::reserve_udp).
pub(crate) fn reserve(shared: &Arc<Shared>, at: SocketAddr) -> io::Result<UdpPort> {
    let local = SocketAddr::new(at.ip().to_canonical(), at.port());
    if shared.is_closed() {
        return Err(closed());
    }
    if !local.ip().is_unspecified() && !shared.is_own(local.ip()) {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let local = write(&shared.udp.sockets.0).insert(shared, (local, None), None)?;
    Ok(UdpPort::new(shared.clone(), local))
}

/// See [`Netstack::bind_udp`](crate::Netstack::bind_udp).
pub(crate) fn bind(shared: &Arc<Shared>, at: SocketAddr, to: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (mut local, peer) = (canonical(at), to.map(canonical));
    if shared.is_closed() {
        return Err(closed());
    }
    if let Some(peer) = peer {
        // The unspecified IPv6 address stands for both families; otherwise there is one family.
        let fits = peer.is_ipv4() == local.is_ipv4() || local.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if peer.port() == 0 || !is_host(peer.ip()) || !fits {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket cannot be connected to this address and port",
            ));
        }
        if local.ip().is_unspecified() {
            let own = shared.source_for(peer.ip());
            let own = own.ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of the family"))?;
            local.set_ip(own);
        }
    }
    if !local.ip().is_unspecified() && !shared.is_own(local.ip()) {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let socket = shared.udp.sockets.insert(shared, SocketAddr::new(local.ip(), local.port()), peer)?;
    if shared.is_closed() {
        // It may have been added to the table after all sockets were ended.
        shared.udp.sockets.remove(&socket);
        return Err(closed());
    }
    Ok(UdpSocket::new(shared.clone(), socket))
}
