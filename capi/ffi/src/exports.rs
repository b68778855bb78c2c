//! The functions of the C interface. The header has them in this order.
//!
//! The text of each function lists the caller's obligations after "Requires:", because the header is generated from it.
#![allow(clippy::missing_safety_doc)] // C has no such section.

// The tunnel, its configuration and its state.
mod tunnel;

mod peers;

mod pause;

mod sockets;

mod conf;

mod errors;

mod memory;

// Watching it.
mod events;

mod log;

mod stats;

// Functions of the app in place of devices, sockets and the system.
mod custom_io;

mod resolve;

// Connections inside a tunnel.
#[cfg(feature = "netstack")]
mod net;

// Control calls as messages.
#[cfg(feature = "control")]
mod wireproto;

// Tunnels that a program manages.
#[cfg(all(feature = "control", unix))]
mod manager;

// Without a tunnel.
mod keys;

mod endpoint;

mod udp;

mod datagrams;

mod version;

#[cfg(all(feature = "control", unix))]
pub use self::manager::*;
#[cfg(feature = "netstack")]
pub use self::net::*;
#[cfg(feature = "control")]
pub use self::wireproto::*;
pub use self::{
    conf::*, custom_io::*, datagrams::*, endpoint::*, errors::*, events::*, keys::*, log::*, memory::*, pause::*,
    peers::*, resolve::*, sockets::*, stats::*, tunnel::*, udp::*, version::*,
};
pub(crate) use self::{sockets::bind_to_interface, stats::peer_of};
