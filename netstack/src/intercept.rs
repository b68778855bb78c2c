//! Intercepts connections and datagrams to any address and port.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    TcpStream, UdpFlow,
    stack::{Decision, FourTuple, Shared, decide},
};

/// Options of interception.
///
/// A new version may add fields: write `..InterceptOptions::default()` behind those that are set.
#[derive(Clone, Copy, Debug)]
pub struct InterceptOptions {
    /// The time after which a UDP flow without traffic ends.
    pub udp_idle: Duration,
    /// The maximum number of UDP flows; a new one replaces the one that has been idle longest.
    pub max_flows: usize,
    /// Whether echo requests to any address are answered.
    pub answer_echo: bool,
    /// The time after which a connection that is neither accepted nor refused is dropped without a response.
    pub hold: Duration,
}

impl Default for InterceptOptions {
    fn default() -> Self {
        Self { udp_idle: Duration::from_secs(60), max_flows: 16_384, answer_echo: true, hold: Duration::from_secs(60) }
    }
}

/// A handler of intercepted traffic. The functions are called on the tunnel's thread, without a lock held; they must
/// not wait.
///
/// ```
/// use std::{sync::{Arc, mpsc}, time::Duration};
/// use wg_embed_netstack::{Intercept, InterceptOptions, TcpStream, UdpFlow};
/// # mod tunnels { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/tunnels.rs")); }
///
/// struct Accept(mpsc::Sender<TcpStream>);
/// impl Intercept for Accept {
///     fn connected(&self, stream: TcpStream) {
///         let _ = self.0.send(stream);
///     }
///     fn flow(&self, _: UdpFlow) {}
/// }
///
/// # fn main() -> std::io::Result<()> {
/// # let (a, b) = tunnels::pair(|_| {});
/// # let (client, server) = (a.stack.clone(), b.stack.clone());
/// // `server` accepts connections to all ports of all addresses.
/// let (accept, accepted) = mpsc::channel();
/// server.intercept(InterceptOptions::default(), Some(Arc::new(Accept(accept))));
/// let _stream = client.dial_tcp("10.0.0.2:443", Duration::from_secs(60))?;
/// let stream = accepted.recv_timeout(Duration::from_secs(60)).expect("it was accepted");
/// assert_eq!(stream.local_addr().port(), 443);
/// # Ok(())
/// # }
/// ```
pub trait Intercept: Send + Sync {
    /// Handles an incoming connection. `pending` may be kept; the handshake is delayed until it is accepted or refused.
    /// The default accepts it.
    fn dialled(&self, pending: PendingTcp) {
        pending.accept();
    }
    /// Handles an accepted connection that is now established.
    fn connected(&self, stream: TcpStream);
    /// Handles a new flow, whose first datagram is in `flow`.
    fn flow(&self, flow: UdpFlow);
}

/// A connection whose handshake is delayed. Dropping it refuses it. A decision has no effect if the client has given
/// up, or after [`InterceptOptions::hold`].
pub struct PendingTcp {
    shared: Arc<Shared>,
    tuple: FourTuple,
    id: u64,
    /// The action when it is dropped.
    decision: Decision,
}

impl PendingTcp {
    pub(crate) const fn new(shared: Arc<Shared>, tuple: FourTuple, id: u64) -> Self {
        Self { shared, tuple, id, decision: Decision::Refuse }
    }

    /// Returns the address of the client.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.tuple.remote()
    }

    /// Returns the requested address.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.tuple.local()
    }

    /// Continues the handshake; [`Intercept::connected`] is called when it is complete.
    pub fn accept(mut self) {
        self.decision = Decision::Accept;
    }

    /// Responds with RST.
    pub fn refuse(self) {}

    /// Drops the request without a response.
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
