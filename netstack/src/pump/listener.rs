//! Passes connections to a program as descriptors, each sent through the listener's own descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use mio::event;
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        recvmsg, sendmsg,
    },
};

use super::{
    Accepted,
    pair::{self, DatagramSocket},
    relay,
    stream::{self, Ours},
    thread::{Handle, Outcome, Scratch, Source, Worker},
};
use crate::{Notify, TcpListener, TcpStream, copy::Event};

/// The number of connections that may be passed on before others have their turn.
const TURN: usize = 64;

/// Receives a connection from a descriptor of [`Pump::listener_descriptor`](super::Pump::listener_descriptor). It waits
/// for one unless the descriptor is non-blocking. Several threads may call it.
///
/// # Errors
/// `WouldBlock`; `ConnectionAborted` when the stack or the pump has ended; `InvalidInput` if it is not such a
/// descriptor; EMFILE if the process has no more descriptors, in which case the connection is reset (closed on Apple's
/// systems).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Accepted> {
    let mut message = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        // Apple's systems lack this flag.
        #[cfg(not(target_vendor = "apple"))]
        let flags = RecvFlags::CMSG_CLOEXEC;
        #[cfg(target_vendor = "apple")]
        let flags = RecvFlags::empty();
        match recvmsg(listener, &mut [IoSliceMut::new(&mut message)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::NOTSOCK) => return Err(io::ErrorKind::InvalidInput.into()),
            result => break result?,
        }
    };
    if received.bytes == 0 {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if received.bytes != MESSAGE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let descriptor = match descriptor {
        Some(descriptor) => descriptor,
        // The system drops and closes it if the process has no more descriptors.
        None if received.flags.contains(ReturnFlags::CTRUNC) => return Err(Errno::MFILE.into()),
        None => return Err(io::ErrorKind::InvalidInput.into()),
    };
    #[cfg(target_vendor = "apple")]
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    stream::unmark(descriptor.as_fd())?;
    let (local, peer) = message.split_at(ADDRESS);
    Ok(Accepted { descriptor, local: address(local), peer: address(peer) })
}

/// The size of an address in a message: 16 bytes in IPv6 form, and the port.
const ADDRESS: usize = 18;
const MESSAGE: usize = 2 * ADDRESS;

fn write_address(address: SocketAddr, out: &mut [u8]) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out[..16].copy_from_slice(&ip.octets());
    out[16..].copy_from_slice(&address.port().to_be_bytes());
}

fn address(bytes: &[u8]) -> SocketAddr {
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[..16]);
    let port = u16::from_be_bytes([bytes[16], bytes[17]]);
    let ip = Ipv6Addr::from(ip);
    match ip.to_ipv4_mapped() {
        Some(ip) => SocketAddr::new(ip.into(), port),
        None => SocketAddrV6::new(ip, port, 0, 0).into(),
    }
}

/// A connection that is being sent to the program.
struct Parcel {
    message: [u8; MESSAGE],
    descriptor: OwnedFd,
}

/// A listener, and the descriptor through which connections are sent.
struct Listener {
    listener: TcpListener,
    socket: DatagramSocket,
    pump: Handle,
    writable: bool,
    /// A connection without a descriptor, as the system had none left.
    stream: Option<TcpStream>,
    /// A message that waits for room in the socket.
    parcel: Option<Parcel>,
}

/// Passes a listener to the pump, and returns the program's descriptor.
pub(super) fn descriptor(worker: &Worker, listener: TcpListener) -> io::Result<OwnedFd> {
    let (socket, app) = pair::datagrams()?;
    // A few hundred bytes each: this limits the number of messages in the pair.
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, 4096)?;
    let pump = worker.handle();
    worker.add(Box::new(Listener { listener, socket, pump, writable: true, stream: None, parcel: None }), None)?;
    Ok(app)
}

impl Listener {
    /// Creates the message for a connection.
    fn pack(&self, stream: TcpStream, (ours, descriptor): (Ours, OwnedFd)) -> io::Result<Parcel> {
        let addresses = (stream.local_addr(), stream.peer_addr());
        let mut message = [0; MESSAGE];
        let (local, peer) = message.split_at_mut(ADDRESS);
        write_address(addresses.0, local);
        write_address(addresses.1, peer);
        self.pump.add(Box::new(relay::join(ours, stream)), Some((descriptor.as_fd(), addresses)))?;
        Ok(Parcel { message, descriptor })
    }

    fn send(&self, parcel: &Parcel) -> Result<(), Errno> {
        let descriptors = [parcel.descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        // There is room for one.
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.socket, &[IoSlice::new(&parcel.message)], &mut ancillary, pair::NO_SIGNAL).map(drop)
    }
}

impl Source for Listener {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn source(&mut self) -> &mut dyn event::Source {
        &mut self.socket
    }

    fn set_notify(&self, notify: Arc<dyn Notify>) {
        self.listener.set_notify(Some(notify));
    }

    fn turn(&mut self, event: Event, _scratch: &mut Scratch) -> Outcome {
        self.writable |= event.writable;
        if event.ended {
            return Outcome::Done;
        }
        for _ in 0..TURN {
            if !self.writable {
                return Outcome::Wait;
            }
            let parcel = match self.parcel.take() {
                Some(parcel) => parcel,
                None => {
                    let stream = match self.stream.take().map_or_else(|| self.listener.try_accept(), Ok) {
                        Ok(stream) => stream,
                        Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Outcome::Wait,
                        Err(_) => return Outcome::Done,
                    };
                    let pair = match stream::marked_pair() {
                        Ok(pair) => pair,
                        Err(err) => {
                            tracing::debug!(%err, "a connection waits for a descriptor");
                            self.stream = Some(stream);
                            return Outcome::Later;
                        }
                    };
                    match self.pack(stream, pair) {
                        Ok(parcel) => parcel,
                        Err(err) => {
                            // It was reset, but the next one may succeed.
                            tracing::warn!(%err, "a connection that was accepted has no descriptor");
                            continue;
                        }
                    }
                }
            };
            match self.send(&parcel) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.parcel = Some(parcel);
                    self.writable = false;
                    return Outcome::Wait;
                }
                // Too many descriptors are in transit, possibly all in other sockets: there is no notification when
                // there are fewer.
                Err(Errno::TOOMANYREFS) => {
                    self.parcel = Some(parcel);
                    return Outcome::Later;
                }
                Err(Errno::INTR) => self.parcel = Some(parcel),
                Err(_) => return Outcome::Done,
            }
        }
        Outcome::Again
    }

    fn end(&mut self) {}
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            relay::give_up(stream);
        }
    }
}
