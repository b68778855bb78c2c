//! Reports changes of the routes, and queries the kernel for routes.

use super::{get_option, set_option};
use crate::{
    bind::{Endpoint, SourceCheck, driver::Watch},
    netlink::{self, Namespace, Request},
    sync,
};
use mio::{Interest, Registry, Token, net::UdpSocket, unix::SourceFd};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Mutex,
};

/// The groups of all changes that affect the path and the source address of datagrams: links, addresses, routes, rules,
/// settings of interfaces (for instance whether a route without carrier counts), next hops.
const GROUPS: [u32; 10] = [1, 5, 9, 7, 11, 8, 19, 24, 25, 32];

/// The receive buffer for notifications, as small as the kernel permits. Messages that do not fit are lost, but the
/// loss is reported like a message; so thousands of changes a second on a router wake no thread more often than this
/// buffer becomes full.
const BUFFER: libc::c_int = 1;

/// The number of messages that are read from that buffer at a time.
const MESSAGES: usize = 64;

/// A pair of netlink sockets in the network namespace of the UDP sockets.
pub(in crate::bind) struct RouteWatch {
    /// Receives a message for each change. Its contents are ignored.
    listener: OwnedFd,
    /// Locked during a request.
    asker: Mutex<Asker>,
}

impl Watch for RouteWatch {
    type Network = Namespace;

    fn network() -> Namespace {
        Namespace::current()
    }

    /// Fails if the app may not receive notifications: Android.
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
        let mut asker = sync::lock(&self.asker);
        match asker.leaves_by(socket, endpoint.dst, source) {
            Ok(departure) if departure == arrival => SourceCheck { keep: true, returns: true },
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => SourceCheck { keep: false, ..was },
            // There is no route. The address may still be right once there is one.
            Err(_) => SourceCheck { keep: true, ..was },
            Ok(_) if arrival == 0 => SourceCheck { keep: true, ..was },
            Ok(_) => match source {
                // As `send4` in the kernel's drivers/net/wireguard/socket.c.
                IpAddr::V4(_) => SourceCheck { keep: false, ..was },
                // `send6` keeps every address that exists. That is right for an address of the host itself, but an
                // address of a network that is no longer used is useless.
                IpAddr::V6(_) => {
                    let left = was.returns && asker.home(source).is_ok_and(|home| home == arrival);
                    SourceCheck { keep: !left, ..was }
                }
            },
        }
    }
}

/// Requests routes. The kernel answers such requests without its lock for changes of routes (since Linux 4.14).
struct Asker {
    asker: netlink::Asker,
    namespace: Namespace,
}

impl Asker {
    fn new() -> io::Result<Self> {
        Ok(Self { asker: netlink::Asker::open()?, namespace: Namespace::current() })
    }

    /// Returns the interface by which a datagram of a socket leaves, if it has this source address. `InvalidInput` for
    /// an IPv4 address that is not a local one.
    fn leaves_by(&mut self, socket: &UdpSocket, to: SocketAddr, source: IpAddr) -> io::Result<u32> {
        const IP_PROTO: u16 = 27;
        const SOURCE_PORT: u16 = 28;
        const PORT: u16 = 29;
        // The C library's headers for some processors lack this number.
        const SO_BINDTOIFINDEX: libc::c_int = 62;
        let zone = match to {
            SocketAddr::V6(to) => to.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        // Read from the socket: an app with its descriptor may have changed it.
        let option = |name| get_option(socket.as_fd(), libc::SOL_SOCKET, name).unwrap_or(0) as u32;
        let interface = if zone == 0 { option(SO_BINDTOIFINDEX) } else { zone };
        let port = socket.local_addr().map_or(0, |address| address.port());
        let mut request = about(to.ip(), Some(source), 0)
            .with(libc::RTA_MARK, &option(libc::SO_MARK).to_ne_bytes())
            .with(IP_PROTO, &[libc::IPPROTO_UDP as u8])
            .with(SOURCE_PORT, &port.to_be_bytes())
            .with(PORT, &to.port().to_be_bytes());
        if interface != 0 {
            request = request.with(libc::RTA_OIF, &interface.to_ne_bytes());
        }
        self.ask(request)
    }

    /// Returns the interface of a local IPv6 address.
    fn home(&mut self, address: IpAddr) -> io::Result<u32> {
        // Without it, the answer is the loopback interface, by which every local address is reached.
        const RTM_F_FIB_MATCH: u32 = 0x2000;
        self.ask(about(address, None, RTM_F_FIB_MATCH))
    }

    /// Returns the interface in the answer to a request.
    fn ask(&mut self, request: Request) -> io::Result<u32> {
        let mut room = [0; 1024];
        let message = match self.asker.ask(request.clone(), &mut room) {
            Ok(message) => message,
            // Such an error concerns the socket, so the request is repeated with another one, which must be in the
            // network of the old one: that may have been opened on another thread.
            Err(err) => {
                if Namespace::current() != self.namespace {
                    return Err(not_asked(err));
                }
                self.asker.renew().map_err(not_asked)?;
                self.asker.ask(request, &mut room).map_err(not_asked)?
            }
        };
        let malformed = || io::ErrorKind::InvalidData.into();
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

/// Removes the error number, which would be taken for an answer.
fn not_asked(err: io::Error) -> io::Error {
    io::Error::new(err.kind(), err)
}

/// Creates a request for the route to an address.
fn about(to: IpAddr, source: Option<IpAddr>, flags: u32) -> Request {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let (to, source) = (bytes(to), source.map(bytes));
    let bits = |address: &[u8]| (address.len() * 8) as u8;
    // `struct rtmsg`: family, lengths of the addresses, TOS, and fields that are unused in a request.
    let mut header = vec![family as u8, bits(&to), source.as_deref().map_or(0, bits), 0, 0, 0, 0, 0];
    header.extend(flags.to_ne_bytes());
    let request = Request::new(libc::RTM_GETROUTE, 0, &header).with(libc::RTA_DST, &to);
    match source {
        Some(source) => request.with(libc::RTA_SRC, &source),
        None => request,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, unsafe_code)]
mod tests {
    use super::*;
    use std::{fs::File, net::Ipv4Addr, os::fd::AsRawFd};

    const LO: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

    /// Asks about a route that is there, and from an address that is not.
    fn answers(asker: &mut Asker) -> (Option<u32>, Option<i32>) {
        let socket = UdpSocket::bind((LO, 0).into()).unwrap();
        let to = SocketAddr::new(LO, 9);
        let none = asker.leaves_by(&socket, to, ELSEWHERE).unwrap_err();
        (asker.leaves_by(&socket, to, LO).ok(), none.raw_os_error())
    }

    /// What a socket answers that was never used before.
    fn right() -> (Option<u32>, Option<i32>) {
        let right = answers(&mut Asker::new().unwrap());
        assert!(right.0 == Some(1) && right.1.is_some(), "{right:?}");
        right
    }

    #[test]
    fn answers_that_were_not_read_are_not_taken_for_later_ones() {
        let (mut asker, right) = (Asker::new().unwrap(), right());
        // The last are more than the socket has room for: answers are lost, and that is an error.
        for unread in [0, 1, 2, 100, 10_000] {
            for _ in 0..unread {
                asker.asker.send(about(ELSEWHERE, Some(LO), 0)).unwrap();
            }
            assert_eq!(answers(&mut asker), right, "{unread}");
            assert_eq!(answers(&mut asker), right);
        }
    }

    #[test]
    fn a_socket_that_cannot_be_used_any_more_is_replaced() {
        let (mut asker, right) = (Asker::new().unwrap(), right());
        let (nothing, stream) = (File::open("/dev/null").unwrap(), std::net::TcpListener::bind((LO, 0)).unwrap());
        for other in [nothing.as_fd(), stream.as_fd()] {
            let old = asker.asker.as_fd().as_raw_fd();
            // SAFETY: both descriptors are open; the number stays that of the asker.
            assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), old) }, old);
            assert_eq!(answers(&mut asker), right);
        }
    }

    #[test]
    fn a_socket_is_not_replaced_in_another_network() {
        // SAFETY: concerns this thread only, which ends with the closure.
        let leave = || unsafe { libc::unshare(libc::CLONE_NEWNET) };
        std::thread::spawn(move || {
            let (mut asker, right) = (Asker::new().unwrap(), right());
            let socket = UdpSocket::bind((LO, 0).into()).unwrap();
            if leave() != 0 {
                return eprintln!("skipped: a network namespace needs root");
            }
            assert_eq!(answers(&mut asker), right, "it is where it was opened");
            let nothing = File::open("/dev/null").unwrap();
            // SAFETY: as above.
            unsafe { libc::dup2(nothing.as_raw_fd(), asker.asker.as_fd().as_raw_fd()) };
            let err = asker.leaves_by(&socket, SocketAddr::new(LO, 9), LO).unwrap_err();
            assert_eq!(err.raw_os_error(), None, "it is no answer");
        })
        .join()
        .unwrap();
    }
}
