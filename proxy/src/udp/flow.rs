//! One flow from the tunnel to any address.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use mio::{Interest, Token};
use wg_embed_netstack::UdpFlow;

use super::{TURN, any_for, lost};
use crate::{
    engine::{Outcome, Surroundings},
    stats::Place,
};

/// A flow, and the socket that sends its datagrams.
pub(crate) struct Flow {
    flow: UdpFlow,
    socket: mio::net::UdpSocket,
    place: Place,
}

impl Flow {
    pub(crate) fn new(around: &Surroundings<'_>, flow: UdpFlow, target: SocketAddr) -> io::Result<Self> {
        let mut socket = mio::net::UdpSocket::bind(any_for(target))?;
        socket.connect(target)?;
        around.registry().register(&mut socket, Token(around.token), Interest::READABLE)?;
        flow.set_notify(Some(around.notify()));
        Ok(Self { flow, socket, place: Place::take(around.counters) })
    }

    /// Passes on datagrams in both directions. The stack ends it when it is idle.
    pub(crate) fn go_on(&self, buf: &mut [u8]) -> Outcome {
        let mut outcome = Outcome::Again;
        for _ in 0..TURN {
            match self.flow.try_recv(buf) {
                Ok(Some(length)) => {
                    self.place.received(length);
                    lost(self.socket.send(&buf[..length.min(buf.len())]));
                }
                Ok(None) => return Outcome::Done,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    outcome = Outcome::Wait;
                    break;
                }
                Err(_) => return Outcome::Done,
            }
        }
        for _ in 0..TURN {
            match self.socket.recv(buf) {
                Ok(length) => {
                    self.place.sent(length);
                    lost(self.flow.try_send(&buf[..length]));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return outcome,
                Err(error) => lost(Err(error)),
            }
        }
        Outcome::Again
    }
}
