//! The VPN manager protocol: one stream of bytes between a tunnel and the program that starts it, configures the system
//! for it, and shows its peers.
//!
//! - [`stream`] is the protocol without I/O: headers, frames, requests and responses.
//! - [`messages`] are what is sent, and the four sides: [`messages::TunnelSide`], [`messages::ManagerSide`], and
//!   [`messages::ServiceSide`] and [`messages::ClientSide`] of Windows.
//! - [`speaker`] speaks it for any of them, over descriptors or any `Read` and `Write`, with two threads.
//! - [`tunnel`] is the tunnel's side, over what carries packets and what knows the peers.
//! - [`manager`] is the manager's side, with the tunnel in another process or in this one.
//!
//! docs/MANAGER.md has the whole picture.

pub mod manager;
pub mod messages;
pub mod speaker;
pub mod stream;
pub mod tunnel;
