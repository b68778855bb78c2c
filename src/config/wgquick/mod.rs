//! Reads and writes wg-quick `.conf` files.
//!
//! A file is the whole configuration of a tunnel, so it becomes an [`Update`] that replaces everything, as `wg setconf`
//! does, and the [`InterfaceSettings`] that `wg-quick` acts on. The rules are those of wg(8), wg-quick(8) and
//! wireguard-windows; where they differ:
//!
//! - Sections, keys, and words like `off` are read in any case; `#` begins a comment anywhere, in a hook too.
//! - There is one `[Interface]`, as wg(8) says, and any number of `[Peer]`. The last of a repeated key counts, lists and
//!   hooks add up.
//! - White space is taken out of headers and of the lines that wg(8) reads, wherever it is (`[ Peer ]`, `10.0.0.0 / 8`); in the
//!   others it counts, as it does for wg-quick. A header with white space inside begins a section for wg-quick's keys as well.
//! - A value of wg-quick's keys has no control character but the tab, which wg-quick lets through: it stays one line
//!   wherever it is shown or written.
//! - Comments may have any bytes; everything else is UTF-8 or UTF-16, hooks included.
//! - `IncludedApplications` and `ExcludedApplications` of wireguard-android are known; a file has one of them.
//! - Lists are separated by commas; `Address` and `DNS` by spaces as well, as wg-quick has it. An empty item, or a key without
//!   a value, is an error.
//! - An unknown key is an error.
//! - `PrivateKey` may be missing: a hook may set it. `PublicKey` may not.
//! - Host names stay names ([`PeerEndpoint::Host`](super::PeerEndpoint::Host)): a device with a resolver takes them, for any
//!   other the app must resolve them first. Port names are not known, and an address that is not quite one (`1.2.3:5`) is
//!   an error rather than a name.

mod check;
mod read;
mod write;

use std::net::IpAddr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Update;

pub use check::{Checked, INTERFACE_KEYS, PEER_KEYS, Problem, check, span};
pub use read::Line;

/// What a `.conf` file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// What the system, not the tunnel, has to be told.
    pub interface: InterfaceSettings,
    /// What the tunnel has to be told. As read, it replaces all peers and sets key, port and mark even where the file says
    /// nothing about them.
    pub update: Update,
}

impl Conf {
    /// Says what a file says by not mentioning it: that everything else is replaced or has its default.
    fn complete(&mut self) {
        let update = &mut self.update;
        update.replace_peers = true;
        update.private_key.get_or_insert_default();
        update.listen_port.get_or_insert_default();
        update.fwmark.get_or_insert_default();
        for peer in &mut update.peers {
            peer.replace_allowed_ips = true;
        }
    }
}

/// The keys of `[Interface]` that `wg-quick` acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// Own addresses with the length of their network; host bits are kept. A bare address has /32 or /128.
    pub addresses: Vec<IpNet>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// DNS search domains: what `DNS` lists and is no address.
    pub dns_search: Vec<String>,
    /// 576 to 65535; `None` leaves it to the system.
    pub mtu: Option<u16>,
    /// Where routes go.
    pub table: Table,
    /// Commands to run before the interface is set up, in order. `%i` stands for its name. This library runs none. They
    /// may hold keys, and are wiped when dropped.
    pub pre_up: Vec<Zeroizing<String>>,
    /// Commands to run after the interface was set up.
    pub post_up: Vec<Zeroizing<String>>,
    /// Commands to run before the interface is taken down.
    pub pre_down: Vec<Zeroizing<String>>,
    /// Commands to run after the interface was taken down.
    pub post_down: Vec<Zeroizing<String>>,
    /// Whether the file is to be written again from the state when the interface is taken down.
    pub save_config: bool,
    /// Android: the only apps that use the tunnel, by the names of their packages; all apps if there are none.
    pub included_applications: Vec<String>,
    /// Android: apps that do not use the tunnel. Empty if there are `included_applications`.
    pub excluded_applications: Vec<String>,
}

/// The routing table that allowed IPs are routed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main one, with policy routing if there is a default route.
    #[default]
    Auto,
    /// No routes are made.
    Off,
    /// The main one.
    Main,
    /// The one of this number.
    Number(u32),
}
