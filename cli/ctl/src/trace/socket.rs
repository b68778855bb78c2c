//! Copies of packets, from the kernel.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io::{self, ErrorKind},
    mem,
    time::SystemTime,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::filter;

/// The maximum length of a packet, as joined by segmentation offload.
const LONGEST: usize = 256 * 1024;

/// The size of the kernel's buffer for packets that have not been received yet, in bytes.
const BUFFER: usize = 4 * 1024 * 1024;

/// A packet, and the time of its reception.
pub(super) struct Packet {
    pub(super) time: SystemTime,
    /// The number of its protocol above Ethernet.
    pub(super) protocol: u16,
    /// The index of the interface.
    pub(super) interface: u32,
    /// The interface's type of hardware (`ARPHRD_`).
    pub(super) hardware: u16,
    /// Its direction (`PACKET_HOST`, `PACKET_OUTGOING` and others).
    pub(super) kind: u8,
    pub(super) bytes: Vec<u8>,
}

impl Packet {
    /// Returns whether this machine sends it.
    pub(super) fn is_outgoing(&self) -> bool {
        self.kind == libc::PACKET_OUTGOING
    }
}

/// A socket that receives copies of packets, from their IP header on.
pub(super) struct Capture(Socket);

impl Capture {
    /// Opens a socket for all packets of an interface.
    pub(super) fn on_interface(index: u32) -> io::Result<Self> {
        Self::bound(&Self::socket()?, index).map(Self)
    }

    /// Opens a socket for UDP of a port on all interfaces except one.
    pub(super) fn of_port(port: u16, except: u32) -> io::Result<Self> {
        let socket = Self::socket()?;
        socket.attach_filter(&filter::port(port, except))?;
        Self::bound(&socket, 0).map(Self)
    }

    /// Opens a socket that receives no packets yet.
    fn socket() -> io::Result<Socket> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_recv_buffer_size(BUFFER)?;
        Ok(socket)
    }

    /// Begins receiving; 0 stands for all interfaces.
    fn bound(socket: &Socket, index: u32) -> io::Result<Socket> {
        let index = i32::try_from(index).map_err(|_| ErrorKind::InvalidInput)?;
        let family = u16::try_from(libc::AF_PACKET).map_err(|_| ErrorKind::InvalidInput)?;
        let protocol = u16::try_from(libc::ETH_P_ALL).map_err(|_| ErrorKind::InvalidInput)?.to_be();
        let fill = |storage: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
            let address = storage.cast::<libc::sockaddr_ll>();
            // SAFETY: the storage is zeroed and large enough for any address.
            let address = unsafe { &mut *address };
            (address.sll_family, address.sll_protocol, address.sll_ifindex) = (family, protocol, index);
            // SAFETY: it is a place for a length.
            unsafe { *len = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t };
            Ok(())
        };
        // SAFETY: `fill` writes an address of the family that it names, and its length.
        let ((), address) = unsafe { SockAddr::try_init(fill) }?;
        socket.bind(&address)?;
        socket.try_clone()
    }

    /// Waits for a packet.
    pub(super) fn receive(&self) -> io::Result<Packet> {
        let mut bytes = Vec::with_capacity(LONGEST);
        let (len, from) = loop {
            match self.0.recv_from(bytes.spare_capacity_mut()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        // SAFETY: `recv_from` has written `len` bytes to the spare capacity of an empty buffer.
        unsafe { bytes.set_len(len) };
        bytes.shrink_to_fit();
        let mut packet = Packet { time: SystemTime::now(), protocol: 0, interface: 0, hardware: 0, kind: 0, bytes };
        if let Some(from) = link_address(&from) {
            packet.protocol = u16::from_be(from.sll_protocol);
            packet.interface = from.sll_ifindex.unsigned_abs();
            packet.hardware = from.sll_hatype;
            packet.kind = from.sll_pkttype;
        }
        Ok(packet)
    }
}

/// Returns the index of an interface.
pub(super) fn index_of(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}

/// Returns the link-layer part of the address of a received packet.
fn link_address(address: &SockAddr) -> Option<&libc::sockaddr_ll> {
    (i32::from(address.family()) == libc::AF_PACKET).then(|| {
        // SAFETY: an address of this family is a `sockaddr_ll`, and the storage has room for any address.
        unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() }
    })
}
