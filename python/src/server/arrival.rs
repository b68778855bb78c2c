//! New connections and flows, on their way from the stack to their handlers.

use std::{
    sync::{Arc, Mutex, Weak, atomic::AtomicBool},
    time::Duration,
};

use pyo3::prelude::*;
use wg_embed::sync::lock;
use wg_embed_netstack::{Intercept, TcpStream, UdpFlow};

use super::{datagrams::Datagrams, shared::Shared};
use crate::{
    bridge::Ready,
    connection::{Carrier, Manner},
    legacy::LegacyStream,
    modern::ModernStream,
};

/// Idle time after which a connection is probed: below the usual 30 s of NATs.
const KEEPALIVE: Duration = Duration::from_secs(28);

/// The time without acknowledgement of data or probes after which a connection is ended.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// The stack's end of a server.
pub(super) struct Interceptor(pub(super) Weak<Shared>);

impl Intercept for Interceptor {
    fn connected(&self, stream: TcpStream) {
        if let Some(server) = self.0.upgrade() {
            Arrival::post(server, Arrived::Tcp(stream));
        }
    }

    fn flow(&self, flow: UdpFlow) {
        let Some(server) = self.0.upgrade() else { return };
        match server.manner {
            Manner::Modern => Arrival::post(server, Arrived::Udp(flow)),
            Manner::Legacy => Datagrams::begin(&server, flow),
        }
    }
}

enum Arrived {
    Tcp(TcpStream),
    Udp(UdpFlow),
}

/// A connection or flow without a Python object yet.
struct Arrival {
    server: Arc<Shared>,
    arrived: Mutex<Option<Arrived>>,
    queued: AtomicBool,
}

impl Arrival {
    fn post(server: Arc<Shared>, arrived: Arrived) {
        let bridge = server.bridge.clone();
        bridge.post(Arc::new(Self { server, arrived: Mutex::new(Some(arrived)), queued: AtomicBool::new(false) }));
    }
}

impl Ready for Arrival {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let server = &self.server;
        let arrived = lock(&self.arrived).take();
        let (Some(arrived), Some(functions)) = (arrived, server.functions()) else { return Ok(()) };
        let (handler, connection) = match arrived {
            Arrived::Tcp(stream) => {
                stream.set_keepalive(Some(KEEPALIVE));
                stream.set_user_timeout(Some(USER_TIMEOUT));
                let (peer, destination) = (stream.peer_addr(), stream.local_addr());
                (&functions.handlers.tcp, server.connection(peer, destination, Carrier::Tcp(stream)))
            }
            Arrived::Udp(flow) => {
                let (peer, destination) = (flow.source(), flow.destination());
                (&functions.handlers.udp, server.connection(peer, destination, Carrier::Udp(flow)))
            }
        };
        let stream = match server.manner {
            Manner::Legacy => Bound::new(py, LegacyStream(connection))?.into_any(),
            Manner::Modern => Bound::new(py, ModernStream(connection))?.into_any(),
        };
        server.run(py, handler, &functions, stream)
    }

    fn abandon(&self) {
        let arrived = lock(&self.arrived).take();
        drop(arrived);
    }
}
