//! The driver of a UDP socket everywhere else: quinn-udp, which knows GSO's and GRO's relatives on Windows and Apple
//! systems, and one datagram at a time on the rest.
//!
//! Of the TOS byte only the ECN bits are sent and received. A datagram larger than the path MTU is dropped, not
//! fragmented. If the system refuses the options of quinn-udp, `plain.rs` is used.

use super::{
    Endpoint, Family, RecvBatch, RecvMeta, SourceCheck,
    counters::Counters,
    driver::{Drive, DriverOptions, Timer, Watch},
    outgoing::{Outgoing, Refusal},
    plain::{self, NAP, judge},
};
use mio::{Poll, Registry, Token, Waker, net::UdpSocket};
use quinn_udp::{EcnCodepoint, Transmit, UdpSockRef, UdpSocketState};
use socket2::{SockAddr, SockRef, Socket};
use std::{
    io::{self, IoSliceMut},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// The number of slots in one receive call.
const SLOTS: usize = quinn_udp::BATCH_SIZE;

/// The driver's state of its socket.
pub(super) struct Driver {
    state: UdpSocketState,
    family: Family,
    offload: bool,
    /// Whether endpoints name the interface as well.
    interfaces: bool,
}

/// Binds a socket to the address if there is one, and then sets it up: on Windows the options need an address. The
/// interface does not pass on the way out.
pub(super) fn set_up(
    bare: &Socket,
    address: Option<&SockAddr>,
    family: Family,
    options: DriverOptions,
) -> io::Result<Box<dyn Drive>> {
    if let Some(address) = address {
        bare.bind(address)?;
    }
    Ok(match UdpSocketState::new(UdpSockRef::from(bare)) {
        Ok(state) => Box::new(Driver { state, family, offload: options.offload, interfaces: options.interfaces }),
        Err(err) => Box::new(plain::Driver::instead(family, &err)),
    })
}

impl Drive for Driver {
    fn send(&self, socket: &UdpSocket, outgoing: &mut Outgoing<'_>, counters: &Counters) {
        loop {
            let segments = self.segments();
            let Some(message) = outgoing.messages(segments).next() else {
                return;
            };
            let transmit = Transmit {
                destination: message.to,
                ecn: EcnCodepoint::from_bits(message.tos),
                contents: message.contents,
                segment_size: message.segment_size.map(usize::from),
                src_ip: message.source,
            };
            match socket.try_io(|| self.state.try_send(UdpSockRef::from(socket), &transmit)) {
                Ok(()) => outgoing.took(1, segments),
                Err(err) => {
                    if self.segments() < segments {
                        outgoing.gso_disabled();
                        counters.gso_disabled.fetch_add(1, Relaxed);
                        tracing::debug!(%err, family = ?self.family, "GSO is off for this socket");
                    }
                    let refusal = judge(&err);
                    if message.segment_size.is_some() && refusal == Refusal::Argument {
                        counters.gso_refused.fetch_add(1, Relaxed);
                    }
                    outgoing.note_error(&err);
                    let left = outgoing.refused(segments, refusal);
                    if !left.is_zero() {
                        std::thread::sleep(left.min(NAP));
                    }
                }
            }
        }
    }

    fn recv(&self, socket: &UdpSocket, batch: &mut RecvBatch, _: &Counters) -> io::Result<bool> {
        let mut metas = [quinn_udp::RecvMeta::default(); SLOTS];
        let mut free = batch.free_slots();
        let mut slots: [IoSliceMut<'_>; SLOTS] =
            std::array::from_fn(|_| IoSliceMut::new(free.next().unwrap_or_default()));
        drop(free);
        let count = slots.iter().take_while(|slot| !slot.is_empty()).count();
        if count == 0 {
            return Ok(false);
        }
        let call = || self.state.recv(UdpSockRef::from(socket), &mut slots[..count], &mut metas);
        let received = socket.try_io(call)?;
        for meta in &metas[..received] {
            let src_interface = meta.interface_index.filter(|_| self.interfaces).unwrap_or(0);
            let from = Endpoint { src: meta.dst_ip, src_interface, ..Endpoint::new(meta.addr) };
            batch.push(RecvMeta {
                from,
                len: meta.len,
                segment_size: meta.stride.max(1),
                tos: meta.ecn.map_or(0, |ecn| ecn as u8),
            });
        }
        // Most systems are asked for one datagram at a time.
        Ok(false)
    }

    fn joins(&self) -> bool {
        self.segments() > 1
    }
}

impl Driver {
    /// How many datagrams go into one message.
    fn segments(&self) -> usize {
        if self.offload { self.state.max_gso_segments() } else { 1 }
    }
}

/// No other user may have the port of a socket. Not every system keeps others out of what sockets of one user share
/// (Apple's do not), and Windows knows no such sharing.
#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))]
pub(super) fn share_port(_bound: &SockRef<'_>, _bare: &Socket) -> io::Result<bool> {
    Ok(false)
}

#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))]
pub(super) fn stop_sharing_port(_bound: &SockRef<'_>) -> io::Result<()> {
    Ok(())
}

/// Marks what the socket sends, where there are marks.
#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))]
pub(super) fn set_mark(socket: &SockRef<'_>, mark: u32) -> io::Result<()> {
    #[cfg(any(target_os = "freebsd", target_os = "openbsd"))]
    return super::bsd::set_mark(socket, mark);
    #[cfg(not(any(target_os = "freebsd", target_os = "openbsd")))]
    {
        let _ = (socket, mark);
        Ok(())
    }
}

/// A duplicate of an adopted socket, and the options that the socket had, as far as the socket library can read them.
/// Dropping this restores them.
#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))]
pub(super) struct SavedOptions {
    socket: Socket,
    #[cfg(unix)]
    nonblocking: bool,
    receive_buffer: usize,
    send_buffer: usize,
}

#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))]
impl SavedOptions {
    /// Reads the options. To be called before any of them is changed.
    pub(super) fn new(socket: &Socket) -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            nonblocking: socket.nonblocking()?,
            receive_buffer: socket.recv_buffer_size()?,
            send_buffer: socket.send_buffer_size()?,
            socket: socket.try_clone()?,
        })
    }
}

impl Drop for SavedOptions {
    fn drop(&mut self) {
        let mut done = self.socket.set_recv_buffer_size(self.receive_buffer);
        done = done.and(self.socket.set_send_buffer_size(self.send_buffer));
        #[cfg(unix)]
        let done = done.and(self.socket.set_nonblocking(self.nonblocking));
        if let Err(err) = done {
            tracing::warn!(%err, "an adopted socket stays changed");
        }
    }
}

/// There is no timer that counts sleep and that mio's poll can wait for.
#[cfg_attr(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows), allow(dead_code))]
pub(super) enum BootTimer {}

impl Timer for BootTimer {
    fn new(_: &Poll, _: Token, _: &Arc<Waker>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set(&self, _: Option<Duration>) -> io::Result<()> {
        match *self {}
    }
}

/// Changes of the routes are not noticed here: the app reports when the network has changed.
#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))]
pub(super) enum RouteWatch {}

impl Watch for RouteWatch {
    type Network = ();

    fn network() {}

    fn new(_: &Registry, _: Token) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn drain(&self) -> bool {
        match *self {}
    }

    fn check_source(&self, _: &UdpSocket, _: &Endpoint, _: SourceCheck) -> SourceCheck {
        match *self {}
    }
}
