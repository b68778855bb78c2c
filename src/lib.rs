//! WireGuard as one small library.
//!
//! The modules, in the order in which they may import each other (checked by `tests/layers.rs`):
//!
//! | module | contents |
//! |---|---|
//! | [`error`], [`key`], [`time`], [`random`], [`log`] | the vocabulary of all other modules |
//! | [`sync`] | locks that a panic does not poison |
//! | [`reserve`] | memory for small allocations when the system has none left |
//! | `process`, `thread` | state of each process; how threads are started |
//! | [`config`] | a validated change set ([`config::Update`]), the state read back, `.conf` files |
//! | [`noise`] | the protocol engine, without I/O, clock or source of randomness |
//! | [`uapi`] | the text protocol of `wg(8)` |
//! | [`queue`] | packets that are passed between threads |
//! | `netlink` | messages to and from the Linux kernel about interfaces and routes |
//! | [`bind`], [`tun`] | the network outside and the network inside, one trait each |
//! | [`device`] | peers, routing, timers and the two threads of a tunnel |
//! | [`ipc`] | the daemon's control socket |

pub mod bind;
pub mod config;
pub mod device;
pub mod error;
pub mod ipc;
pub mod key;
pub mod log;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod netlink;
pub mod noise;
pub mod process;
pub mod queue;
pub mod random;
pub mod reserve;
pub mod sync;
pub mod thread;
pub mod time;
pub mod tun;
pub mod uapi;

pub use bind::{Bind, UdpBind};
pub use config::{AllowedIpUpdate, PeerEndpoint, PeerUpdate, Update, wgquick::Conf};
pub use device::{Device, EndReason, Event, Options, Tunnel};
pub use error::{Error, ErrorKind, Result};
pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use tun::Tun;

// Types of these packages are part of this crate's interface: prefixes of addresses, the registration of a `Bind` or
// `Tun` in a poll, and text that is wiped. A new incompatible version of one is a new incompatible version of this one.
pub use {ipnet, mio, zeroize};
