//! Hearing of changes of the routes, and asking where they lead.

use super::{get_option, set_option};
use crate::{
    bind::{Endpoint, SourceCheck, udp::Watch},
    netlink::{self, Request},
};
use mio::{Interest, Registry, Token, net::UdpSocket, unix::SourceFd};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

/// Everything on which the way of a datagram and its source address depend, by the number of the group: links, addresses,
/// routes, rules, settings of interfaces (whether a route without carrier counts, for one), next hops.
const GROUPS: [u32; 10] = [1, 5, 9, 7, 11, 8, 19, 24, 25, 32];

/// The receive buffer of the socket that listens, as small as the kernel lets it be. What does not fit is lost, and the
/// loss is as good as a message; so a router with thousands of changes a second wakes nobody more often than this is full.
const BUFFER: libc::c_int = 1;

/// How many messages are taken out of that buffer in one go.
const MESSAGES: usize = 64;

/// A pair of netlink sockets in the network namespace of the UDP sockets.
pub(in crate::bind) struct RouteWatch {
    /// Hears of changes. Its messages are not looked at: each says that something has changed.
    listener: OwnedFd,
    /// Locked while a question is open.
    asker: Mutex<Asker>,
}

impl Watch for RouteWatch {
    /// Fails where an app may not listen: Android.
    fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (group - 1));
        let listener = netlink::open(groups)?;
        set_option(listener.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
        let asker = Mutex::new(Asker::new()?);
        registry.register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { listener, asker })
    }

    fn drain(&self) -> bool {
        netlink::drain(&self.listener, MESSAGES)
    }

    fn check_source(&self, socket: &UdpSocket, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        let Some(source) = endpoint.src else {
            return SourceCheck::default();
        };
        let arrival = endpoint.src_interface;
        let mut asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        match asker.leaves_by(socket, endpoint.dst, source) {
            Ok(departure) if departure == arrival => SourceCheck { keep: true, returns: true },
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => SourceCheck { keep: false, ..was },
            // There is no route. The address may be right all the same when there is one.
            Err(_) => SourceCheck { keep: true, ..was },
            Ok(_) if arrival == 0 => SourceCheck { keep: true, ..was },
            Ok(_) => match source {
                // As `send4` in the kernel's drivers/net/wireguard/socket.c.
                IpAddr::V4(_) => SourceCheck { keep: false, ..was },
                // `send6` keeps every address that exists. That is right for one that belongs to the host; one that came
                // with a network which is not used any more leads nowhere.
                IpAddr::V6(_) => {
                    let left = was.returns && asker.home(source).is_ok_and(|home| home == arrival);
                    SourceCheck { keep: !left, ..was }
                }
            },
        }
    }
}

/// The socket that asks. The kernel answers such questions without waiting for whoever changes routes (since Linux 4.14).
struct Asker {
    socket: OwnedFd,
    sequence: u32,
}

impl Asker {
    fn new() -> io::Result<Self> {
        Ok(Self { socket: netlink::open(0)?, sequence: 0 })
    }

    /// The interface by which a datagram of a socket leaves, if it has this source address. `InvalidInput` if that is an
    /// IPv4 address which is not ours.
    fn leaves_by(&mut self, socket: &UdpSocket, to: SocketAddr, source: IpAddr) -> io::Result<u32> {
        const IP_PROTO: u16 = 27;
        const SOURCE_PORT: u16 = 28;
        const PORT: u16 = 29;
        // The number is missing in the C library's headers for some processors.
        const SO_BINDTOIFINDEX: libc::c_int = 62;
        let zone = match to {
            SocketAddr::V6(to) => to.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        // Of the socket itself: an app that has its descriptor may have changed it.
        let option = |name| get_option(socket.as_fd(), libc::SOL_SOCKET, name).unwrap_or(0) as u32;
        let interface = if zone == 0 { option(SO_BINDTOIFINDEX) } else { zone };
        let port = socket.local_addr().map_or(0, |address| address.port());
        let mut request = self
            .about(to.ip(), Some(source), 0)
            .with(libc::RTA_MARK, &option(libc::SO_MARK).to_ne_bytes())
            .with(IP_PROTO, &[libc::IPPROTO_UDP as u8])
            .with(SOURCE_PORT, &port.to_be_bytes())
            .with(PORT, &to.port().to_be_bytes());
        if interface != 0 {
            request = request.with(libc::RTA_OIF, &interface.to_ne_bytes());
        }
        self.ask(request)
    }

    /// The interface that an IPv6 address of ours belongs to.
    fn home(&mut self, address: IpAddr) -> io::Result<u32> {
        // Without it, the answer names the loopback interface: that is the way to every address of ours.
        const RTM_F_FIB_MATCH: u32 = 0x2000;
        let request = self.about(address, None, RTM_F_FIB_MATCH);
        self.ask(request)
    }

    /// A question about the route to an address.
    fn about(&mut self, to: IpAddr, source: Option<IpAddr>, flags: u32) -> Request {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let (to, source) = (bytes(to), source.map(bytes));
        let bits = |address: &[u8]| (address.len() * 8) as u8;
        // `struct rtmsg`: family, lengths of the addresses, TOS, and what is of no use in a question.
        let mut header = vec![family as u8, bits(&to), source.as_deref().map_or(0, bits), 0, 0, 0, 0, 0];
        header.extend(flags.to_ne_bytes());
        let request = Request::new(libc::RTM_GETROUTE, 0, self.sequence, &header).with(libc::RTA_DST, &to);
        match source {
            Some(source) => request.with(libc::RTA_SRC, &source),
            None => request,
        }
    }

    /// The interface in the answer to the last question.
    fn ask(&self, request: Request) -> io::Result<u32> {
        let mut room = [0; 1024];
        let (message, _) = netlink::message(request.ask(&self.socket, &mut room)?).ok_or(io::ErrorKind::InvalidData)?;
        let malformed = || io::ErrorKind::InvalidData.into();
        if message.sequence != self.sequence {
            return Err(malformed());
        }
        match i32::from(message.kind) {
            libc::NLMSG_ERROR => {
                let errno = netlink::word32(message.body, 0).ok_or_else(malformed)? as i32;
                Err(io::Error::from_raw_os_error(-errno))
            }
            _ => netlink::attributes(message.body.get(12..).unwrap_or_default())
                .find(|(kind, _)| *kind == libc::RTA_OIF)
                .and_then(|(_, value)| netlink::word32(value, 0))
                .ok_or_else(malformed),
        }
    }
}
