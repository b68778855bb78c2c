//! What a stack is made with.

use std::{net::IpAddr, sync::Arc, time::Duration};

use wg_embed::{
    random::{Random, SystemRandom},
    time::{Clock, SystemClock},
};

/// What a [`Netstack`](crate::Netstack) is made with.
#[derive(Clone)]
pub struct Options {
    /// The stack's own addresses inside the tunnel. Connections are dialled from the first one of the family.
    pub addresses: Vec<IpAddr>,
    /// The MTU, 576 to 65535 (1280 at least with an IPv6 address).
    pub mtu: u16,
    /// The DNS servers, asked through the tunnel.
    pub dns: Vec<IpAddr>,
    /// Bytes that the buffers of all connections and flows may take together. At the limit windows shrink, and new
    /// connections are refused.
    pub memory: usize,
    /// The most bytes of a connection's receive buffer, so of its window; 4096 at least.
    pub receive_buffer: usize,
    /// The most bytes of a connection's send buffer; 4096 at least.
    pub send_buffer: usize,
    /// The most connections, open or half-open.
    pub max_connections: usize,
    /// How long a connection that its program has dropped may still take to deliver what was written.
    pub linger: Duration,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub random: Arc<dyn Random>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            mtu: wg_embed::tun::DEFAULT_MTU,
            dns: Vec::new(),
            memory: 256 << 20,
            receive_buffer: 4 << 20,
            send_buffer: 4 << 20,
            max_connections: 65_536,
            linger: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}
