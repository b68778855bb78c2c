//! Copies between UDP and a socket with datagram boundaries.

use std::{io, sync::Arc};

use mio::event;
use rustix::fd::{AsFd, BorrowedFd};

use super::{
    pair::DatagramSocket,
    thread::{Outcome, Scratch, Source},
};
use crate::{Notify, UdpFlow, UdpSocket, copy::Event, stack::Shared};

/// The number of datagrams that may be copied in each direction before others have their turn.
const TURN: usize = 64;

enum Side {
    Socket(UdpSocket),
    Flow(UdpFlow),
}

impl Side {
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_send(data, None),
            Self::Flow(flow) => flow.try_send(data),
        }
    }

    fn shared(&self) -> &Shared {
        match self {
            Self::Socket(socket) => &socket.shared,
            Self::Flow(flow) => &flow.shared,
        }
    }

    /// Receives a datagram and returns its length; `None` at the end.
    fn recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Socket(socket) => loop {
                match socket.try_recv(buf) {
                    Ok((len, _)) => return Ok(Some(len)),
                    Err(err) if is_of_a_datagram(&err) => {
                        tracing::debug!(%err, "an ICMP error for a descriptor");
                    }
                    Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Err(err),
                    Err(_) => return Ok(None),
                }
            },
            Self::Flow(flow) => flow.try_recv(buf),
        }
    }
}

/// Returns whether an error is an ICMP error: the next datagram may succeed.
fn is_of_a_datagram(err: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(err.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// The two sides.
pub(super) struct Datagrams {
    side: Side,
    socket: DatagramSocket,
    readable: bool,
    writable: bool,
    ended: bool,
    /// A datagram that waits for room in the stack.
    outbound: Option<Vec<u8>>,
    /// A datagram that waits for room in the socket.
    inbound: Option<Vec<u8>>,
}

impl Datagrams {
    pub(super) fn of_socket(socket: UdpSocket) -> impl FnOnce(DatagramSocket) -> Self {
        move |ours| Self::new(Side::Socket(socket), ours)
    }

    pub(super) fn of_flow(flow: UdpFlow) -> impl FnOnce(DatagramSocket) -> Self {
        move |ours| Self::new(Side::Flow(flow), ours)
    }

    const fn new(side: Side, socket: DatagramSocket) -> Self {
        Self { side, socket, readable: false, writable: true, ended: false, outbound: None, inbound: None }
    }

    /// Copies from the socket to the stack. Returns `None` when the program has closed its end, otherwise whether there
    /// may be more.
    fn copy_out(&mut self, buf: &mut [u8]) -> Option<bool> {
        if let Some(waiting) = self.outbound.take()
            && self.is_full(&waiting)
        {
            self.outbound = Some(waiting);
            return Some(false);
        }
        for _ in 0..TURN {
            if !self.readable && !self.ended {
                return Some(false);
            }
            match self.socket.recv(buf) {
                // The end, or an empty datagram with others behind it.
                Ok(0) if self.ended && self.socket.is_empty() => return None,
                Ok(len) => {
                    let datagram = &buf[..len];
                    if self.is_full(datagram) {
                        self.outbound = Some(datagram.to_vec());
                        return Some(false);
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock && !self.ended => {
                    self.readable = false;
                    return Some(false);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(true)
    }

    /// Sends one datagram, and returns whether there is no room for it.
    fn is_full(&self, datagram: &[u8]) -> bool {
        match self.side.send(datagram) {
            Ok(_) => false,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => true,
            Err(err) => {
                tracing::debug!(%err, len = datagram.len(), "a datagram of a descriptor was not sent");
                self.side.shared().count_unsent();
                false
            }
        }
    }

    /// Copies from the stack to the socket. Returns as [`copy_out`](Self::copy_out), `None` when the flow has ended.
    fn copy_in(&mut self, buf: &mut [u8]) -> Option<bool> {
        for _ in 0..TURN {
            if !self.writable {
                return Some(false);
            }
            let waiting = self.inbound.take();
            let datagram = match &waiting {
                Some(datagram) => datagram.as_slice(),
                None => match self.side.recv(buf) {
                    Ok(Some(len)) => &buf[..len.min(buf.len())],
                    Ok(None) => return None,
                    Err(_) => return Some(false),
                },
            };
            match self.socket.send(datagram) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    self.inbound = Some(datagram.to_vec());
                    self.writable = false;
                    return Some(false);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => self.inbound = Some(datagram.to_vec()),
                // If it accepts no more, `copy_out` detects this as well, after the data that it has written.
                Ok(_) | Err(_) => {}
            }
        }
        Some(true)
    }
}

impl Source for Datagrams {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn source(&mut self) -> &mut dyn event::Source {
        &mut self.socket
    }

    fn set_notify(&self, notify: Arc<dyn Notify>) {
        match &self.side {
            Side::Socket(socket) => socket.set_notify(Some(notify)),
            Side::Flow(flow) => flow.set_notify(Some(notify)),
        }
    }

    fn turn(&mut self, event: Event, scratch: &mut Scratch) -> Outcome {
        self.readable |= event.readable;
        self.writable |= event.writable;
        self.ended |= event.ended;
        let (Some(out), Some(inside)) = (self.copy_out(scratch), self.copy_in(scratch)) else {
            return Outcome::Done;
        };
        if out || inside { Outcome::Again } else { Outcome::Wait }
    }

    fn is_abandoned(&self) -> Option<bool> {
        self.socket.is_abandoned()
    }

    fn end(&mut self) {}
}
