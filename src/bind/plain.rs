//! The driver of a UDP socket that has nothing but the calls of every socket: one datagram at a time, without segmentation
//! offload, ECN, and the addresses of our own that datagrams came to.
//!
//! For socket providers that do not have what `fallback.rs` asks for, like Wine and what puts itself in front of Windows's own.

use super::{
    Endpoint, Family, RecvBatch, RecvMeta,
    fallback::{NAP, judge},
    outgoing::Outgoing,
    udp::{Counters, Drive},
};
use mio::net::UdpSocket;
use std::{io, sync::Once, thread};

/// How many datagrams are received in one go.
const BATCH: usize = 16;

/// Nothing is known about its socket.
pub(super) struct Driver;

impl Driver {
    /// The driver, for a socket that another one could not be had for.
    pub(super) fn instead(family: Family, err: &io::Error) -> Self {
        static LOG: Once = Once::new();
        LOG.call_once(|| {
            tracing::warn!(%err, %family, "the sockets of this system have no ECN, and pass one datagram at a time");
        });
        Self
    }
}

impl Drive for Driver {
    fn send(&self, socket: &UdpSocket, outgoing: &mut Outgoing<'_>, _: &Counters) {
        while let Some(message) = outgoing.messages(1).next() {
            match socket.send_to(message.contents, message.to) {
                Ok(_) => outgoing.took(1, 1),
                Err(err) => {
                    outgoing.says(&err);
                    let left = outgoing.refused(1, judge(&err));
                    if !left.is_zero() {
                        thread::sleep(left.min(NAP));
                    }
                }
            }
        }
    }

    fn recv(&self, socket: &UdpSocket, batch: &mut RecvBatch, _: &Counters) -> io::Result<()> {
        for received in 0..BATCH {
            let Some(slot) = batch.free_slots().next() else { break };
            match socket.recv_from(slot) {
                Ok((len, from)) => {
                    let from = Endpoint::new(from);
                    batch.push(RecvMeta { from, len, segment_size: len.max(1), tos: 0 });
                }
                Err(err) if received == 0 => return Err(err),
                // What does not pass is reported again.
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn joins(&self) -> bool {
        false
    }
}
