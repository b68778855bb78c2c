//! Pairs of sockets that are connected over loopback: the pump's, which is non-blocking, and the program's.
//!
//! Other programs of this system can send to the ports for a moment. A stream socket is accepted from the address of
//! our own only. Datagrams that arrive before both sockets are connected are discarded; from then on the system
//! discards those of others.

use std::{
    ffi::c_void,
    io::{self, ErrorKind},
    mem::size_of,
    net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket},
    os::windows::io::{AsRawSocket, AsSocket, BorrowedSocket},
    sync::Arc,
};

use mio::{
    Interest, Registry, Token, event,
    net::{self, TcpStream},
};
use rustix::{
    fd::OwnedFd,
    net::{RecvFlags, SendFlags},
};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use windows_sys::{
    Wdk::Foundation::{NtQueryObject, ObjectBasicInformation},
    Win32::Networking::WinSock::WSAEMSGSIZE,
};

/// There are no signals.
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// There is no such flag.
pub(super) const NO_WAIT: RecvFlags = RecvFlags::empty();

/// The size of a datagram socket's buffer for datagrams that it has received.
const BUFFER: usize = 1 << 20;

/// The number of connections that may wait beside our own.
const BACKLOG: i32 = 16;

/// Creates a connected pair of TCP sockets: the first one is non-blocking, the second one blocking. Child processes do
/// not inherit them.
///
/// # Errors
/// Errors of the system.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = bound(Type::STREAM)?;
    listener.listen(BACKLOG)?;
    let app = bound(Type::STREAM)?;
    app.connect(&listener.local_addr()?)?;
    let address = address(&app)?;
    let ours = loop {
        match listener.accept() {
            Ok((socket, from)) if from.as_socket() == Some(address) => break socket,
            Ok(_) => {}
            // Another program has reset its own connection.
            Err(err) if err.kind() == ErrorKind::ConnectionReset => {}
            Err(err) => return Err(err),
        }
    };
    for socket in [&ours, &app] {
        socket.set_tcp_nodelay(true)?;
    }
    ours.set_nonblocking(true)?;
    Ok((ours.into(), app.into()))
}

/// Creates a pair of connected UDP sockets.
pub(super) fn datagrams() -> io::Result<(DatagramSocket, OwnedFd)> {
    let (ours, app) = (bound(Type::DGRAM)?, bound(Type::DGRAM)?);
    for (one, other) in [(&ours, &app), (&app, &ours)] {
        one.set_recv_buffer_size(BUFFER)?;
        one.connect(&other.local_addr()?)?;
    }
    let (ours, app) = (UdpSocket::from(ours), UdpSocket::from(app));
    for socket in [&ours, &app] {
        socket.set_nonblocking(true)?;
        discard(socket);
    }
    app.set_nonblocking(false)?;
    Ok((DatagramSocket { socket: net::UdpSocket::from_std(ours), app: app.try_clone()? }, app.into()))
}

/// Discards what has been received.
fn discard(socket: &UdpSocket) {
    // One that is too long for the buffer is an error.
    let is_some = |err: &io::Error| err.raw_os_error() == Some(WSAEMSGSIZE);
    while socket.recv(&mut [0]).map_or_else(|err| is_some(&err), |_| true) {}
}

/// A socket at a port of its own.
fn bound(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    Ok(socket)
}

fn address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| ErrorKind::InvalidInput.into())
}

/// A program's own socket.
pub(super) type Watched = TcpStream;

/// Prepares a program's own socket for the thread.
pub(super) fn watched(socket: Arc<OwnedFd>) -> io::Result<Watched> {
    Ok(TcpStream::from_std(socket.try_clone()?.into()))
}

/// Returns whether there may be an error to take: the program has reset the connection.
pub(super) fn is_failure(event: &event::Event) -> bool {
    event.is_write_closed()
}

/// Our end of a pair of UDP sockets. Dropping it sends the end to the program.
pub(super) struct DatagramSocket {
    socket: net::UdpSocket,
    /// A duplicate of the program's end: its port stays taken until it is known that the program has closed it.
    app: UdpSocket,
}

impl DatagramSocket {
    /// Receives a datagram.
    pub(super) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buf)
    }

    /// Returns whether no bytes wait.
    pub(super) fn is_empty(&self) -> bool {
        rustix::io::ioctl_fionread(&self.socket).unwrap_or(0) == 0
    }

    /// Sends a datagram. `WouldBlock` if there is no room.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).map(drop)
    }

    /// Returns whether the program has closed its end: ours is then the only handle.
    pub(super) fn is_abandoned(&self) -> Option<bool> {
        Some(handles(&self.app) == Some(1))
    }
}

impl Drop for DatagramSocket {
    fn drop(&mut self) {
        // The program may have closed it, or its buffer may be full.
        let _ = self.socket.send(&[]);
        let _ = SockRef::from(&self.app).shutdown(Shutdown::Write);
    }
}

impl AsSocket for DatagramSocket {
    fn as_socket(&self) -> BorrowedSocket<'_> {
        self.socket.as_socket()
    }
}

impl event::Source for DatagramSocket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}

/// The PUBLIC_OBJECT_BASIC_INFORMATION of Windows' headers.
#[repr(C)]
#[derive(Default)]
struct BasicInformation {
    attributes: u32,
    granted_access: u32,
    handle_count: u32,
    pointer_count: u32,
    reserved: [u32; 10],
}

/// Returns the number of the system's handles of a socket.
#[allow(unsafe_code)]
fn handles(socket: &UdpSocket) -> Option<u32> {
    let mut information = BasicInformation::default();
    // SAFETY: the handle is open, and the struct has the given size.
    let status = unsafe {
        NtQueryObject(
            socket.as_raw_socket() as *mut c_void,
            ObjectBasicInformation,
            (&raw mut information).cast(),
            size_of::<BasicInformation>() as u32,
            std::ptr::null_mut(),
        )
    };
    (status >= 0).then_some(information.handle_count)
}
