//! Options of a stack.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use wg_embed::{
    config::wgquick::InterfaceSettings,
    random::{Random, SystemRandom},
    time::{Clock, SystemClock},
    tun::DEFAULT_MTU,
};

/// Options of a [`Netstack`](crate::Netstack).
///
/// A new version may add fields: write `..Options::default()` behind those that are set.
///
/// ```
/// use wg_embed_netstack::{Netstack, Options};
///
/// let options = Options { addresses: vec!["fd00::2".parse().unwrap()], mtu: 576, ..Options::default() };
/// assert!(options.check().is_err() && Netstack::new(options.clone()).is_err()); // IPv6 needs 1280
/// assert_eq!(Netstack::new(Options { mtu: 1280, ..options })?.options().mtu, 1280);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    /// The stack's own addresses inside the tunnel. Outgoing connections use the first one of the family.
    pub addresses: Vec<IpAddr>,
    /// The MTU, 576 to 65535 (at least 1280 with an IPv6 address).
    pub mtu: u16,
    /// The DNS servers, which are queried through the tunnel.
    pub dns: Vec<IpAddr>,
    /// The maximum total size of the buffers of all connections and flows, in bytes. At the limit windows shrink, and
    /// new connections are refused.
    pub memory: usize,
    /// The maximum size of a connection's receive buffer, and therefore of its window, in bytes; at least 4096.
    pub receive_buffer: usize,
    /// The maximum size of a connection's send buffer, in bytes; at least 4096.
    pub send_buffer: usize,
    /// The maximum number of open connections; at the limit new ones are refused. The number of half-open ones is
    /// limited separately, to 8192 or less.
    pub max_connections: usize,
    /// The time after which a connection that its program has dropped is reset, if written data are left and none have
    /// been acknowledged.
    pub linger: Duration,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub random: Arc<dyn Random>,
}

impl Options {
    /// Checks the addresses and the MTU, as [`Netstack::new`](crate::Netstack::new) and the functions that replace them
    /// do. With valid ones, those functions do not fail.
    ///
    /// # Errors
    /// `InvalidInput`: an address is not a host's (unspecified, loopback, multicast, or 240.0.0.0 and above), or the
    /// MTU is less than 576, or less than 1280 with an IPv6 address.
    pub fn check(&self) -> io::Result<()> {
        crate::stack::check(&self.addresses, self.mtu)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            mtu: DEFAULT_MTU,
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

impl From<&InterfaceSettings> for Options {
    /// Returns the options for the `[Interface]` of a `.conf` file: its addresses, DNS servers and MTU.
    ///
    /// ```
    /// let conf: wg_embed::Conf = "[Interface]\nAddress = 10.0.0.2/24, fd00::2/64\nDNS = 10.0.0.1\n".parse()?;
    /// let options = wg_embed_netstack::Options::from(&conf.interface);
    /// assert_eq!((options.addresses.len(), options.dns.len(), options.mtu), (2, 1, 1420));
    /// # Ok::<(), wg_embed::Error>(())
    /// ```
    fn from(interface: &InterfaceSettings) -> Self {
        Self {
            addresses: interface.addresses.iter().map(|prefix| prefix.addr()).collect(),
            dns: interface.dns.clone(),
            mtu: interface.mtu.unwrap_or(DEFAULT_MTU),
            ..Self::default()
        }
    }
}
