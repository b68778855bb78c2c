//! The driver of a UDP socket on Linux and Android: several datagrams per system call, GSO and GRO, and the source
//! address and TOS byte in both directions.
#![allow(unsafe_code)]

mod cmsg;
mod routes;
mod saved_options;
mod share;
mod timer;

use super::{
    Endpoint, Family, RecvBatch, RecvMeta,
    counters::Counters,
    driver::{BUFFER, Drive, DriverOptions},
    outgoing::{Message, Outgoing, Refusal},
};
use cmsg::Control;
use mio::net::UdpSocket;
pub(super) use routes::RouteWatch;
pub(super) use saved_options::SavedOptions;
use socket2::{SockAddr, SockRef, Socket};
use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
pub(super) use {
    share::{share_port, stop_sharing_port},
    timer::BootTimer,
};

/// The send buffer of a tunnel that may exceed the system's limit: it holds more than the default queueing disciplines
/// (1,000 messages of 64 KiB), so that these drop packets, as with the kernel's WireGuard. The buffer is not allocated
/// in advance, and limits the memory of even longer queues.
const QUEUE: usize = 64 << 20;

/// The maximum number of messages in one system call. With GSO and GRO each has up to 64 datagrams.
const MESSAGES: usize = 16;

/// The number of slots that a tunnel receives into.
const FEW_MESSAGES: usize = 8;

/// The number of datagrams that every kernel with GSO accepts as one message (128 since Linux 6.7).
const MAX_SEGMENTS: usize = 64;

/// The size that slots must have for GRO.
const GRO_SLOT: usize = 65_535;

/// The state of the driver.
pub(super) struct Driver {
    family: Family,
    /// Whether GRO may be used.
    offload: bool,
    /// Whether endpoints also name the interface.
    interfaces: bool,
    /// Whether the system has GSO and has not refused it yet.
    gso: AtomicBool,
    /// Whether GRO is on.
    gro: AtomicBool,
}

/// Sets up a socket, and binds it to the address if there is one.
pub(super) fn set_up(
    bare: &Socket,
    address: Option<&SockAddr>,
    family: Family,
    options: DriverOptions,
) -> io::Result<Box<dyn Drive>> {
    Ok(Box::new(Driver::new(bare, address, family, options)?))
}

impl Driver {
    fn new(bare: &Socket, address: Option<&SockAddr>, family: Family, options: DriverOptions) -> io::Result<Self> {
        let (socket, DriverOptions { offload, interfaces, .. }) = (bare.as_fd(), options);
        match family {
            Family::V4 => {
                set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
                set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
                // As in the kernel's WireGuard, which never sets DF.
                set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
            }
            Family::V6 => {
                set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
                set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
                set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
                // As in the kernel's WireGuard, whose flow label is 0. On kernels before 4.2 it is always 0.
                let _ = set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL, 0);
            }
        }
        if address.is_none() {
            // As for new sockets. Stored errors would never be read, and take room of datagrams.
            let _ = match family {
                Family::V4 => set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 0),
                Family::V6 => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0),
            };
        }
        // Beyond the system's limit, if permitted.
        let send_buffer = if options.patience.is_zero() { QUEUE } else { BUFFER };
        for (option, size) in [(libc::SO_RCVBUFFORCE, BUFFER), (libc::SO_SNDBUFFORCE, send_buffer)] {
            let _ = set_option(socket, libc::SOL_SOCKET, option, size as libc::c_int);
        }
        if let Some(address) = address {
            bare.bind(address)?;
        }
        Ok(Self {
            family,
            offload,
            interfaces,
            // A kernel without GSO ignores the control message, and would send one huge datagram.
            gso: AtomicBool::new(offload && set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()),
            gro: AtomicBool::new(false),
        })
    }
}

impl Drive for Driver {
    fn send(&self, socket: &UdpSocket, outgoing: &mut Outgoing<'_>, counters: &Counters) {
        let socket = socket.as_fd();
        loop {
            let segments = if self.gso.load(Relaxed) { MAX_SEGMENTS } else { 1 };
            let mut messages = outgoing.messages(segments);
            let sent = match (messages.next(), messages.next()) {
                (None, _) => return,
                (Some(_), None) => Frame::<1>::new().send(socket, outgoing.messages(segments)),
                (Some(_), Some(_)) => Frame::<MESSAGES>::new().send(socket, outgoing.messages(segments)),
            };
            match sent {
                Ok(count) => outgoing.took(count, segments),
                Err(err) => {
                    let errno = err.raw_os_error().unwrap_or(0);
                    let gso = outgoing.messages(segments).next().is_some_and(|first| first.segment_size.is_some());
                    let refusal = self.judge(errno, gso, counters);
                    if segments > 1 && !self.gso.load(Relaxed) {
                        outgoing.gso_disabled();
                    }
                    outgoing.note_error(&err);
                    let left = outgoing.refused(segments, refusal);
                    if !left.is_zero() {
                        pause(socket, errno, left);
                    }
                }
            }
        }
    }

    fn recv(&self, socket: &UdpSocket, batch: &mut RecvBatch, counters: &Counters) -> io::Result<bool> {
        let socket = socket.as_fd();
        self.match_slots(socket, batch.slot_len());
        if batch.slots() <= FEW_MESSAGES {
            self.recv_by(&mut Frame::<FEW_MESSAGES>::new(), socket, batch, counters)
        } else {
            self.recv_by(&mut Frame::<MESSAGES>::new(), socket, batch, counters)
        }
    }

    fn joins(&self) -> bool {
        self.gso.load(Relaxed)
    }
}

impl Driver {
    /// Returns whether the socket was found empty after the last datagram.
    fn recv_by<const N: usize>(
        &self,
        frame: &mut Frame<N>,
        socket: BorrowedFd<'_>,
        batch: &mut RecvBatch,
        counters: &Counters,
    ) -> io::Result<bool> {
        let (count, asked) = frame.recv(socket, batch.free_slots(), self.family)?;
        for i in 0..count {
            let (meta, truncated) = frame.received(i, self.family, self.interfaces);
            counters.truncated.fetch_add(truncated.into(), Relaxed);
            batch.push(meta);
        }
        // `recvmmsg` of a socket that does not block ends early only if the socket is empty, or because of an error
        // that has occurred since the call began. The next call reports that error, and it is an event of its own in a
        // poll: the datagrams behind it do not wait for other ones.
        Ok(count < asked)
    }

    /// Returns the meaning of a send error for the first message.
    fn judge(&self, errno: i32, gso: bool, counters: &Counters) -> Refusal {
        match errno {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Refusal::Full,
            // The path cannot compute checksums (EIO, also with IPsec), or GSO is not supported at all.
            libc::EIO | libc::ENOPROTOOPT | libc::EOPNOTSUPP if gso => {
                if self.gso.swap(false, Relaxed) {
                    counters.gso_disabled.fetch_add(1, Relaxed);
                    tracing::debug!(errno, family = ?self.family, "GSO is off for this socket");
                }
                counters.gso_refused.fetch_add(1, Relaxed);
                Refusal::Argument
            }
            // The segments are larger than the path MTU, and GSO does not fragment (EMSGSIZE; EINVAL on older kernels).
            libc::EMSGSIZE | libc::EINVAL if gso => {
                counters.gso_refused.fetch_add(1, Relaxed);
                Refusal::Argument
            }
            libc::EMSGSIZE | libc::EINVAL => Refusal::Argument,
            // An IPv4 source address or an interface that no longer exists. For an IPv6 address the error is EINVAL.
            libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::ENODEV => Refusal::Source,
            libc::EHOSTUNREACH => Refusal::Route,
            _ => Refusal::Other,
        }
    }

    /// Enables GRO if the slots are large enough. Otherwise the system would truncate coalesced datagrams.
    fn match_slots(&self, socket: BorrowedFd<'_>, slot_len: usize) {
        let gro = self.offload && slot_len >= GRO_SLOT;
        if self.gro.swap(gro, Relaxed) != gro
            && let Err(err) = set_option(socket, libc::SOL_UDP, libc::UDP_GRO, gro.into())
        {
            tracing::debug!(%err, "no GRO");
        }
    }
}

/// The address of a datagram. The socket determines its type.
#[repr(C)]
#[derive(Clone, Copy)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    const EMPTY: Self = Self::from_v6(Ipv6Addr::UNSPECIFIED, 0, 0);

    const fn from_v6(ip: Ipv6Addr, port: u16, scope_id: u32) -> Self {
        Self {
            v6: libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: port.to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: scope_id,
            },
        }
    }

    fn new(address: SocketAddr) -> (Self, usize) {
        match address {
            SocketAddr::V4(address) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: cmsg::in_addr(*address.ip()),
                    sin_zero: [0; 8],
                };
                (Self { v4 }, size_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(address) => {
                let name = Self::from_v6(*address.ip(), address.port(), address.scope_id());
                (name, size_of::<libc::sockaddr_in6>())
            }
        }
    }

    fn address(&self, family: Family) -> SocketAddr {
        match family {
            Family::V4 => {
                // SAFETY: all bytes are initialized, by `EMPTY` or `new`, and any value of them is a valid one.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into()
            }
            Family::V6 => {
                // SAFETY: as above.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into()
            }
        }
    }
}

/// The arrays for `sendmmsg` and `recvmmsg` with up to `N` messages; to clear 240 bytes for each takes time. Their
/// pointers are valid only during a call.
struct Frame<const N: usize> {
    headers: [libc::mmsghdr; N],
    vectors: [libc::iovec; N],
    names: [Name; N],
    controls: [Control; N],
}

impl<const N: usize> Frame<N> {
    fn new() -> Self {
        Self {
            // SAFETY: null pointers and zero lengths are valid.
            headers: unsafe { mem::zeroed() },
            // SAFETY: as above.
            vectors: unsafe { mem::zeroed() },
            names: [Name::EMPTY; N],
            controls: [Control::EMPTY; N],
        }
    }

    /// Sets the pointers of header `i`.
    fn point(&mut self, i: usize, contents: *mut u8, len: usize, name_len: usize, control_len: usize) {
        self.vectors[i] = libc::iovec { iov_base: contents.cast(), iov_len: len };
        let header = &mut self.headers[i].msg_hdr;
        header.msg_iov = &raw mut self.vectors[i];
        header.msg_iovlen = 1;
        header.msg_name = (&raw mut self.names[i]).cast();
        header.msg_namelen = name_len as libc::socklen_t;
        header.msg_control = self.controls[i].as_mut_ptr().cast();
        header.msg_controllen = control_len as _;
    }

    /// Sends the first messages of `messages`, which has at least one, and returns how many the system accepted.
    fn send<'a>(&mut self, socket: BorrowedFd<'_>, messages: impl Iterator<Item = Message<'a>>) -> io::Result<usize> {
        let mut count = 0;
        for message in messages.take(N) {
            let (name, name_len) = Name::new(message.to);
            self.names[count] = name;
            attach(&mut self.controls[count], &message);
            let (contents, control_len) = (message.contents, self.controls[count].len());
            self.point(count, contents.as_ptr().cast_mut(), contents.len(), name_len, control_len);
            count += 1;
        }
        // SAFETY: the first `count` headers point into `self` and to the messages' contents, which are only read.
        retry(|| unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count as _, 0) })
    }

    /// Receives into the first of `slots`. Returns how many were filled, and how many could have been.
    fn recv<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        slots: impl Iterator<Item = &'a mut [u8]>,
        family: Family,
    ) -> io::Result<(usize, usize)> {
        let name_len = match family {
            Family::V4 => size_of::<libc::sockaddr_in>(),
            Family::V6 => size_of::<libc::sockaddr_in6>(),
        };
        let mut count = 0;
        for slot in slots.take(N) {
            let room = self.controls[count].room();
            self.point(count, slot.as_mut_ptr(), slot.len(), name_len, room);
            count += 1;
        }
        if count == 0 {
            return Ok((0, 0));
        }
        let headers = self.headers.as_mut_ptr();
        let no_timeout = ptr::null_mut();
        // SAFETY: the first `count` headers point into `self` and to slots that are borrowed for this call.
        let filled = retry(|| unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count as _, 0, no_timeout) })?;
        Ok((filled, count))
    }

    /// Returns the properties of the message in slot `i`, optionally with its interface, and whether it was truncated.
    fn received(&mut self, i: usize, family: Family, interfaces: bool) -> (RecvMeta, bool) {
        let header = &self.headers[i];
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let len = if truncated { 0 } else { header.msg_len as usize };
        #[allow(clippy::unnecessary_cast)] // The type of the length differs between C libraries.
        self.controls[i].filled(header.msg_hdr.msg_controllen as usize);
        let mut meta =
            RecvMeta { from: Endpoint::new(self.names[i].address(family)), len, segment_size: len.max(1), tos: 0 };
        for (level, kind, data) in self.controls[i].messages() {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = cmsg::read::<libc::in_pktinfo>(data);
                    meta.from.src = info.map(|info| Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
                    meta.from.src_interface = info.filter(|_| interfaces).map_or(0, |info| info.ipi_ifindex as u32);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = cmsg::read::<libc::in6_pktinfo>(data);
                    meta.from.src = info.map(|info| Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    #[allow(clippy::unnecessary_cast)] // The type differs between C libraries.
                    let index = |info: libc::in6_pktinfo| info.ipi6_ifindex as u32;
                    meta.from.src_interface = info.filter(|_| interfaces).map_or(0, index);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => meta.tos = cmsg::read::<u8>(data).unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    meta.tos = cmsg::read::<libc::c_int>(data).unwrap_or(0) as u8;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = cmsg::read::<libc::c_int>(data).and_then(|size| usize::try_from(size).ok());
                    meta.segment_size = size.filter(|size| *size > 0).unwrap_or(meta.segment_size);
                }
                _ => {}
            }
        }
        (meta, truncated)
    }
}

/// Writes the control messages of a message.
fn attach(control: &mut Control, message: &Message<'_>) {
    control.clear();
    match message.source {
        Some(IpAddr::V4(ip)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: message.interface as _,
                ipi_spec_dst: cmsg::in_addr(ip),
                ipi_addr: cmsg::in_addr(Ipv4Addr::UNSPECIFIED),
            };
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(ip)) => {
            // The zone of a link-local address is an interface, and the kernel refuses two.
            let zone = match message.to {
                SocketAddr::V6(to) => to.scope_id(),
                SocketAddr::V4(_) => 0,
            };
            let interface = if zone == 0 { message.interface } else { zone };
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: interface as _ };
            control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    if message.tos != 0 {
        let (level, kind) = match message.to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        control.push(level, kind, libc::c_int::from(message.tos));
    }
    if let Some(size) = message.segment_size {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, size);
    }
}

/// Waits for a full socket to drain, or for other resources to become available.
fn pause(socket: BorrowedFd<'_>, errno: i32, left: Duration) {
    if errno != libc::EAGAIN {
        std::thread::sleep(left.min(Duration::from_micros(500)));
        return;
    }
    let mut fd = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let millis = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX).max(1);
    // SAFETY: one valid entry. The result is ignored: sending is retried.
    unsafe { libc::poll(&raw mut fd, 1, millis) };
}

/// Repeats a system call that was interrupted by a signal.
fn retry(mut call: impl FnMut() -> libc::c_int) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let err = io::Error::last_os_error();
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
        }
    }
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is a live `int`, and its size is given.
    retry(|| unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) }).map(drop)
}

fn get_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is a live `int`, and its size is given.
    retry(|| unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// Sets the mark of outgoing packets, for routing rules and firewalls.
pub(super) fn set_mark(socket: &SockRef<'_>, mark: u32) -> io::Result<()> {
    socket.set_mark(mark)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_says_that_gso_cannot_be_done_switches_it_off_and_what_says_not_now_does_not() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        let driver = Driver::new(&socket, None, Family::V4, DriverOptions::default()).unwrap();
        driver.gso.store(true, Relaxed);
        let counters = Counters::default();
        for errno in [libc::EINVAL, libc::EMSGSIZE] {
            assert_eq!(driver.judge(errno, true, &counters), Refusal::Argument);
        }
        assert_eq!(driver.judge(libc::EIO, false, &counters), Refusal::Other);
        assert!(driver.gso.load(Relaxed));
        for _ in 0..2 {
            assert_eq!(driver.judge(libc::EIO, true, &counters), Refusal::Argument);
        }
        assert!(!driver.gso.load(Relaxed));
        assert_eq!(counters.gso_disabled.load(Relaxed), 1);
        assert_eq!(counters.gso_refused.load(Relaxed), 4);
    }

    #[test]
    fn names_are_read_back_as_they_were_written() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:51820", "[fe80::1%7]:1"] {
            let address: Result<SocketAddr, _> = text.parse();
            let read = address.map(|address| Name::new(address).0.address(Family::of(address)));
            assert_eq!(read, text.parse());
        }
    }
}
