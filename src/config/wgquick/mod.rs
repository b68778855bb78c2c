//! Reads and writes wg-quick `.conf` files.
//!
//! A file is the complete configuration of a tunnel. It is converted to an [`Update`] that replaces everything, as `wg
//! setconf` does, and to the [`InterfaceSettings`] that `wg-quick` uses. The rules are those of wg(8), wg-quick(8) and
//! wireguard-windows. Where these differ:
//!
//! - Sections, keys, and words like `off` are case-insensitive; `#` begins a comment anywhere, also in a hook.
//! - There is one `[Interface]`, as for wg(8), and any number of `[Peer]`. The last of a repeated key counts; lists and
//!   hooks accumulate.
//! - White space is removed from headers and from the lines of wg(8)'s keys, wherever it is (`[ Peer ]`, `10.0.0.0 /
//!   8`). In other lines it is significant, as for wg-quick. A header with white space inside also begins a section for
//!   wg-quick's keys.
//! - A value of wg-quick's keys must not contain control characters except tab, unlike for wg-quick, so that it remains
//!   one line wherever it is shown or written.
//! - Comments may contain any bytes; everything else, including hooks, is UTF-8 or UTF-16.
//! - `IncludedApplications` and `ExcludedApplications` of wireguard-android are supported; a file may have only one of
//!   them.
//! - Lists are separated by commas; `Address` and `DNS` also by spaces, as for wg-quick. An empty item, or a key
//!   without a value, is an error.
//! - An unknown key is an error.
//! - `PrivateKey` is optional, as a hook may set it. `PublicKey` is required.
//! - Host names are not resolved ([`PeerEndpoint::Host`](super::PeerEndpoint::Host)): a device with a resolver accepts
//!   them; for any other the app must resolve them first. Port names are not supported, and a malformed address
//!   (`1.2.3:5`) is an error rather than a name.

mod check;
mod read;
mod write;

use std::net::IpAddr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Update;

pub use check::{Checked, INTERFACE_KEYS, PEER_KEYS, Problem, check, span};
pub use read::Line;

/// The contents of a `.conf` file.
///
/// ```
/// use wg_embed::{Conf, config::wgquick::Table};
///
/// let conf: Conf = "[Interface]
/// PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
/// Address = 10.0.0.2/24
/// [Peer]
/// PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
/// Endpoint = vpn.example.org:51820
/// AllowedIPs = 0.0.0.0/0, ::/0
/// "
/// .parse()?;
/// assert_eq!(conf.interface.addresses[0].to_string(), "10.0.0.2/24");
/// assert_eq!(conf.interface.table, Table::Auto);
/// assert_eq!(conf.update.peers[0].allowed_ips.len(), 2);
/// # Ok::<(), wg_embed::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// The settings for the system.
    pub interface: InterfaceSettings,
    /// The settings for the tunnel. After reading, they replace all peers and set key, port and mark, even if the file
    /// does not mention them.
    pub update: Update,
}

impl Conf {
    /// Adds the implicit contents of a file: everything that it does not mention is replaced or gets its default.
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

/// The keys of `[Interface]` for `wg-quick`.
///
/// A new version may add fields: write `..InterfaceSettings::default()` behind those that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// The interface's addresses with their prefix lengths; host bits are kept. A bare address gets /32 or /128.
    pub addresses: Vec<IpNet>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// DNS search domains: the items of `DNS` that are not addresses.
    pub dns_search: Vec<String>,
    /// The MTU, 576 to 65535; with `None` the system chooses it.
    pub mtu: Option<u16>,
    /// The routing table for the allowed IPs.
    pub table: Table,
    /// Commands to run before the interface is set up, in order. `%i` is replaced by its name. This library does not
    /// run them. They may contain keys, and are wiped when dropped.
    pub pre_up: Vec<Zeroizing<String>>,
    /// Commands to run after the interface has been set up.
    pub post_up: Vec<Zeroizing<String>>,
    /// Commands to run before the interface is taken down.
    pub pre_down: Vec<Zeroizing<String>>,
    /// Commands to run after the interface has been taken down.
    pub post_down: Vec<Zeroizing<String>>,
    /// Whether the file is to be rewritten from the current state when the interface is taken down.
    pub save_config: bool,
    /// Android: the only apps that use the tunnel, by package name; all apps if empty.
    pub included_applications: Vec<String>,
    /// Android: apps that do not use the tunnel. Empty if there are `included_applications`.
    pub excluded_applications: Vec<String>,
}

/// The routing table for allowed IPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table, with policy routing if there is a default route.
    #[default]
    Auto,
    /// No routes are added.
    Off,
    /// The main table.
    Main,
    /// The table with this number.
    Number(u32),
}
