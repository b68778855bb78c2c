//! Connections and datagrams to any address and port.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    TcpStream, UdpFlow,
    stack::{Decision, FourTuple, Shared, decide},
};

/// How traffic is intercepted.
#[derive(Clone, Copy, Debug)]
pub struct InterceptOptions {
    /// A UDP flow without traffic ends after this.
    pub udp_idle: Duration,
    /// The most UDP flows; the one that has been idle longest makes room.
    pub max_flows: usize,
    /// Whether echo requests to any address are answered.
    pub answer_echo: bool,
    /// A connection that is neither accepted nor refused in this time is dropped without an answer.
    pub hold: Duration,
}

impl Default for InterceptOptions {
    fn default() -> Self {
        Self { udp_idle: Duration::from_secs(60), max_flows: 16_384, answer_echo: true, hold: Duration::from_secs(60) }
    }
}

/// Takes what is intercepted. The functions are called on the tunnel's thread, without a lock held; they must not wait.
pub trait Intercept: Send + Sync {
    /// Someone dials. `pending` may be kept; the handshake is held back until it is accepted or refused. Accepts unless
    /// overridden.
    fn dialled(&self, pending: PendingTcp) {
        pending.accept();
    }
    /// An accepted connection is established.
    fn connected(&self, stream: TcpStream);
    /// The first datagram of a new flow waits in `flow`.
    fn flow(&self, flow: UdpFlow);
}

/// A connection whose handshake is held back. Dropping it refuses it. Whatever is decided has no effect if the one who
/// dials has given up, or after [`InterceptOptions::hold`].
pub struct PendingTcp {
    shared: Arc<Shared>,
    tuple: FourTuple,
    id: u64,
    /// What happens when it is dropped.
    decision: Decision,
}

impl PendingTcp {
    pub(crate) const fn new(shared: Arc<Shared>, tuple: FourTuple, id: u64) -> Self {
        Self { shared, tuple, id, decision: Decision::Refuse }
    }

    /// Who dials.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.tuple.remote()
    }

    /// What is dialled.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.tuple.local()
    }

    /// Goes on with the handshake; [`Intercept::connected`] is called when it is over.
    pub fn accept(mut self) {
        self.decision = Decision::Accept;
    }

    /// Answers with RST.
    pub fn refuse(self) {}

    /// Does not answer.
    pub fn ignore(mut self) {
        self.decision = Decision::Ignore;
    }
}

impl Drop for PendingTcp {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            decide(&self.shared, &self.tuple, self.id, self.decision);
        }
    }
}

impl fmt::Debug for PendingTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingTcp")
            .field("source", &self.source())
            .field("destination", &self.destination())
            .finish_non_exhaustive()
    }
}
