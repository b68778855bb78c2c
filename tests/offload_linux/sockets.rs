//! Sockets of a namespace, and what std has no name for. A socket stays where it was made, whoever uses it.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::OnceLock,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;

/// Longer than anything takes that does not fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Numbers that look random, and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        // The constants of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `low..=high`.
    pub(crate) fn range(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.range(0, from.len() - 1)]
    }

    /// `len` bytes that depend on nothing but the state of the dice.
    pub(crate) fn bytes(&mut self, len: usize) -> &'static [u8] {
        const POOL: usize = 1 << 20;
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let pool = BYTES.get_or_init(|| {
            let mut dice = Self(1);
            (0..POOL / 8).flat_map(|_| dice.next().to_ne_bytes()).collect()
        });
        let start = self.range(0, POOL - len);
        &pool[start..start + len]
    }
}

/// A socket that is not connected, bound to `address` if its port or its address says so.
fn socket(netns: &Netns, kind: Type, address: SocketAddr) -> Socket {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    netns.run(move || {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.bind(&address.into()).unwrap();
        socket
    })
}

/// A UDP socket with room for what comes in a burst.
pub(crate) fn udp(netns: &Netns, address: IpAddr) -> UdpSocket {
    let socket = socket(netns, Type::DGRAM, SocketAddr::new(address, 0));
    set_number(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
    socket.into()
}

/// A pair of UDP sockets that are connected with each other.
pub(crate) fn udp_pair(a: (&Netns, IpAddr), b: (&Netns, IpAddr)) -> (UdpSocket, UdpSocket) {
    let (a, b) = (udp(a.0, a.1), udp(b.0, b.1));
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    (a, b)
}

pub(crate) fn listen(netns: &Netns, address: IpAddr) -> TcpListener {
    let socket = socket(netns, Type::STREAM, SocketAddr::new(address, 0));
    socket.listen(16).unwrap();
    socket.into()
}

/// A TCP connection from `address`, from a socket that was prepared.
pub(crate) fn connect(netns: &Netns, address: IpAddr, to: SocketAddr, prepare: &dyn Fn(&Socket)) -> TcpStream {
    let socket = socket(netns, Type::STREAM, SocketAddr::new(address, 0));
    prepare(&socket);
    socket.connect_timeout(&SockAddr::from(to), PATIENCE).unwrap();
    socket.into()
}

pub(crate) fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the value lives, and its length is told.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn set_number(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    set_option(socket, level, name, &value.to_ne_bytes()).unwrap();
}

/// The TOS or traffic class of what a socket sends.
pub(crate) fn set_tos(socket: &UdpSocket, tos: u8) {
    let (level, name) = if socket.local_addr().unwrap().is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_TOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
    };
    set_number(socket, level, name, tos.into());
}

/// What one call received.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    pub(crate) len: usize,
    /// If the socket asked for it.
    pub(crate) tos: u8,
    /// The size of each datagram, if there are several.
    pub(crate) segment: Option<usize>,
}

/// Asks for the TOS or traffic class of what comes.
pub(crate) fn ask_for_tos(socket: &UdpSocket) {
    let (level, name) = if socket.local_addr().unwrap().is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_RECVTOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)
    };
    set_number(socket, level, name, 1);
}

/// Receives with what the system says about it.
pub(crate) fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0_u64; 16];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a C struct of numbers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: all that the message points to lives, and has the length that is given with it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(len) = usize::try_from(len) else {
        return Err(io::Error::last_os_error());
    };
    let mut received = Received { len, ..Received::default() };
    // SAFETY: the kernel has filled the control messages of this message.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: null or a whole header in `control`.
    while let Some(header) = unsafe { next.as_ref() } {
        // SAFETY: the data is behind the header.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                // SAFETY: it is one byte.
                received.tos = unsafe { data.read() };
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // SAFETY: it is an int.
                received.tos = unsafe { data.cast::<i32>().read_unaligned() } as u8;
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: it is an int.
                received.segment = Some(unsafe { data.cast::<i32>().read_unaligned() } as usize);
            }
            _ => {}
        }
        // SAFETY: the header is one of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(received)
}

/// Receives what an ICMP error quotes of a datagram's payload, from a socket that asked for it.
pub(crate) fn receive_error(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the pointer and the length are those of the buffer.
    let len = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Every IP packet that passes an interface of a namespace, from now on. Reads do not wait.
pub(crate) fn capture(netns: &Netns, interface: &'static str) -> Socket {
    netns.run(move || {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        // Without link headers.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(all))).unwrap();
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: the name ends with a NUL.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: a C struct of numbers, for which zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the pointer and the length are those of one `sockaddr_ll`, which lives.
        let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        set_number(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
        socket.set_nonblocking(true).unwrap();
        socket
    })
}
