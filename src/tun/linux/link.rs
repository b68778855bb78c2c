//! Changes of an interface, by rtnetlink: up, down, MTU, and leaving the network namespace; and the routes to other
//! hosts.

use super::sys;
use crate::{
    netlink::{Asker, Namespace, Request, attributes, message, word32},
    thread::{self, Owner},
};
use socket2::{Domain, Socket, Type};
use std::{
    fmt,
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

/// The state of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) up: bool,
    pub(super) mtu: u16,
}

/// A change reported by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The interface now has this state.
    State(State),
    /// The interface left: it was removed, or moved to another network namespace.
    Left,
    /// Messages were lost: query the state.
    Missed,
}

/// A socket for the messages about one interface, from its network namespace.
///
/// The socket itself is in the namespace of the thread that opened it, even if the interface is in another: a socket
/// keeps its namespace alive, and with it an interface that is no longer used.
pub(super) struct Link {
    socket: OwnedFd,
    /// The id of the interface's namespace in ours; `None` if it is the same.
    namespace: Option<i32>,
    index: i32,
    buffer: Box<[u8]>,
}

impl Link {
    /// Watches an interface in the network namespace of the calling thread.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        // The socket first: it receives all changes from now on.
        let socket = sys::link_socket()?;
        let index = sys::index(&socket, name)?;
        Ok(Self::new(socket, None, index))
    }

    /// Watches the interface of `tun` in its network namespace, and returns its state.
    pub(super) fn open_at(tun: BorrowedFd<'_>, name: &str) -> io::Result<(Self, State)> {
        let elsewhere = sys::namespace(tun).map(File::from).ok().filter(|namespace| !is_ours(namespace));
        let Some(namespace) = elsewhere else {
            // Or an old kernel, or missing permission: the device is most likely in our namespace.
            let link = Self::open(name)?;
            let state = link.ask(name)?;
            return Ok((link, state));
        };
        let socket = sys::link_socket()?;
        sys::listen_to_all_namespaces(&socket)?;
        let id = sys::namespace_id(&namespace)?;
        // Interfaces are queried in the namespace of a socket, and only a thread of our own may enter it.
        let name = name.to_owned();
        let found = Arc::new(OnceLock::new());
        let look = move || {
            sys::enter_namespace(&namespace)?;
            let socket = any_socket()?;
            Ok((sys::index(&socket, &name)?, ask(&socket, &name)?))
        };
        let finds = found.clone();
        let visitor = thread::spawn("wg-netns", Owner::unique(), move || drop(finds.set(look())))?;
        // If it panicked, there is no result.
        let _ = visitor.join();
        let (index, state) = Arc::into_inner(found)
            .and_then(OnceLock::into_inner)
            .unwrap_or_else(|| Err(io::Error::other("the thread that looks at a network namespace panicked")))?;
        Ok((Self::new(socket, Some(id), index), state))
    }

    fn new(socket: OwnedFd, namespace: Option<i32>, index: i32) -> Self {
        Self { socket, namespace, index, buffer: vec![0; 4096].into_boxed_slice() }
    }

    /// Returns whether the interface is in the network namespace of the thread that opened this.
    pub(super) const fn is_here(&self) -> bool {
        self.namespace.is_none()
    }

    /// Queries the state of the interface, which now has this name, and is where it was created.
    pub(super) fn ask(&self, name: &str) -> io::Result<State> {
        ask(&self.socket, name)
    }

    /// Returns the next change of the interface; `None` if there is none now.
    pub(super) fn next(&mut self) -> Option<Change> {
        loop {
            match sys::receive(&self.socket, &mut self.buffer) {
                Ok(received) if received.sender == 0 => match self.buffer.get(..received.len) {
                    None => return Some(Change::Missed),
                    Some(text) if received.namespace == self.namespace => {
                        if let Some(change) = last_change(text, self.index) {
                            return Some(change);
                        }
                    }
                    // From a namespace where another interface has the same index.
                    Some(_) => (),
                },
                // Not from the kernel.
                Ok(_) => (),
                Err(err) => match err.raw_os_error() {
                    Some(libc::EINTR) => (),
                    Some(libc::ENOBUFS) => return Some(Change::Missed),
                    Some(libc::EAGAIN) => return None,
                    _ => {
                        tracing::warn!(%err, "cannot watch the interface any more");
                        return None;
                    }
                },
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("index", &self.index).finish_non_exhaustive()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the MTU of an interface, on systems that permit queries but no watches: Android.
pub(super) fn mtu(name: &str) -> io::Result<u16> {
    Ok(mtu16(sys::mtu(any_socket()?, name)?))
}

/// Sets the MTU of an interface.
pub(super) fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    sys::set_mtu(any_socket()?, name, mtu)
}

/// Returns whether a program has a queue of a TUN: the interface then has a carrier.
pub(super) fn is_attached(name: &str) -> io::Result<bool> {
    // `struct ifinfomsg`, in which the index is the third field.
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&sys::index(any_socket()?, name)?.to_ne_bytes());
    let mut room = [0; 8192];
    let message = Asker::open()?.ask(Request::new(libc::RTM_GETLINK, 0, &header), &mut room)?;
    let text = message.body.get(header.len()..).filter(|_| message.kind == libc::RTM_NEWLINK);
    let carrier = text.and_then(|text| attributes(text).find(|(kind, _)| *kind == libc::IFLA_CARRIER));
    carrier.map(|(_, value)| value == [1]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Opens a socket for queries about interfaces of the calling thread's network namespace.
fn any_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

fn ask(socket: impl AsFd, name: &str) -> io::Result<State> {
    Ok(State { up: sys::is_up(&socket, name)?, mtu: mtu16(sys::mtu(&socket, name)?) })
}

/// Returns whether a network namespace is that of the calling thread.
pub(super) fn is_ours(namespace: &File) -> bool {
    Namespace::of(namespace.metadata()) == Namespace::current()
}

/// Returns the prefix length of the route to an address of another host; `None` for a local address.
pub(super) fn route_to(address: IpAddr) -> Option<u8> {
    /// Requests the route as configured, with its prefix.
    const RTM_F_FIB_MATCH: u32 = 0x2000;
    // The offsets of fields of `struct rtmsg`.
    const PREFIX_LEN: usize = 1;
    const TYPE: usize = 7;
    let (family, bytes) = match address {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let mut header = [0; 12];
    (header[0], header[PREFIX_LEN]) = (family as u8, bytes.len() as u8 * 8);
    header[8..].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
    let question = Request::new(libc::RTM_GETROUTE, 0, &header).with(libc::RTA_DST, &bytes);
    let mut room = [0; 1024];
    let message = Asker::open().and_then(|mut asker| asker.ask(question, &mut room)).ok()?;
    let is_routed = message.kind == libc::RTM_NEWROUTE && *message.body.get(TYPE)? == libc::RTN_UNICAST;
    is_routed.then(|| message.body[PREFIX_LEN])
}

fn mtu16(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// Returns the last change of interface `index` in a buffer of netlink messages.
fn last_change(mut text: &[u8], index: i32) -> Option<Change> {
    let mut last = None;
    while let Some((message, rest)) = message(text) {
        let change = match i32::from(message.kind) {
            libc::NLMSG_OVERRUN => Some(Change::Missed),
            _ => interface_change(message.kind, message.body, index),
        };
        last = change.or(last);
        text = rest;
    }
    last
}

/// Returns the change in a message, if it is about interface `index`.
fn interface_change(kind: u16, body: &[u8], index: i32) -> Option<Change> {
    // struct ifinfomsg: family, type, index, flags, and a mask of changes.
    const HEADER: usize = 16;
    let family = *body.first()?;
    let (about, flags) = (word32(body, 4)?, word32(body, 8)?);
    let mut attributes = attributes(body.get(HEADER..)?);
    // Other families (a bridge's ports) have other meanings in the same messages.
    if i32::from(family) != libc::AF_UNSPEC || i32::try_from(about) != Ok(index) {
        return None;
    }
    match kind {
        libc::RTM_DELLINK => Some(Change::Left),
        libc::RTM_NEWLINK => {
            let (_, mtu) = attributes.find(|(kind, _)| *kind == libc::IFLA_MTU)?;
            let up = flags & libc::IFF_UP as u32 != 0;
            Some(Change::State(State { up, mtu: mtu16(word32(mtu, 0)?) }))
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link_message(kind: u16, family: u8, index: i32, flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend(u32::MAX.to_ne_bytes());
        for (kind, value) in attributes {
            body.extend((4 + value.len() as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut text = (16 + body.len() as u32).to_ne_bytes().to_vec();
        text.extend(kind.to_ne_bytes());
        text.extend([0; 10]);
        text.extend(body);
        text
    }

    fn up(mtu: u32) -> Vec<u8> {
        let mtu = mtu.to_ne_bytes();
        link_message(libc::RTM_NEWLINK, 0, 7, 0x1043, &[(libc::IFLA_IFNAME, b"wg0\0"), (libc::IFLA_MTU, &mtu)])
    }

    #[test]
    fn state_and_departure_are_understood() {
        let state = |up, mtu| Some(Change::State(State { up, mtu }));
        assert_eq!(last_change(&up(1280), 7), state(true, 1280));
        assert_eq!(last_change(&up(100_000), 7), state(true, 65_535));
        assert_eq!(last_change(&up(1280), 8), None);
        let down = link_message(libc::RTM_NEWLINK, 0, 7, 0x1002, &[(4, &1400_u32.to_ne_bytes())]);
        assert_eq!(last_change(&[up(1280), down].concat(), 7), state(false, 1400));
        let left = link_message(libc::RTM_DELLINK, 0, 7, 0, &[]);
        assert_eq!(last_change(&[left, up(1280).to_vec()].concat(), 8), None);
        assert_eq!(last_change(&link_message(libc::RTM_DELLINK, 0, 7, 0, &[]), 7), Some(Change::Left));
    }

    #[test]
    fn other_families_and_broken_lengths_say_nothing() {
        let bridge = link_message(libc::RTM_DELLINK, libc::AF_BRIDGE as u8, 7, 0, &[]);
        assert_eq!(last_change(&bridge, 7), None);
        let whole = up(1280);
        for len in 0..whole.len() {
            assert_eq!(last_change(&whole[..len], 7), None);
        }
        let mut endless = up(1280);
        endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
        assert_eq!(last_change(&endless, 7), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_all_ends(
            mut text in prop::collection::vec(any::<u8>(), 0..400),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            real in any::<bool>(),
        ) {
            if real {
                text = [up(1280), up(1290)].concat();
                for (at, value) in hits {
                    let at = at.index(text.len());
                    text[at] = value;
                }
            }
            let _ = last_change(&text, 7);
        }
    }
}
