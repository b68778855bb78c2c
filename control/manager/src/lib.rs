//! The VPN manager protocol: a stream of bytes between a tunnel and the program that starts it, configures the system
//! for it, and shows its peers.
//!
//! - [`stream`]: the protocol without I/O: headers, frames, requests and responses.
//! - [`messages`]: the messages, and the four sides: [`messages::TunnelSide`], [`messages::ManagerSide`], and
//!   [`messages::ServiceSide`] and [`messages::ClientSide`] of Windows.
//! - [`speaker`]: one end of a stream, for any side, over descriptors or any `Read` and `Write`, with two threads.
//! - [`tunnel`]: the tunnel's side, with an engine for packets and a source of peers.
//! - [`manager`]: the manager's side; the tunnel may be in another process or in this one.
//!
//! docs/MANAGER.md describes the protocol and its effects.

pub mod manager;
pub mod messages;
pub mod speaker;
pub mod stream;
pub mod tunnel;
