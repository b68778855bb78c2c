//! WireGuard as one small library.
//!
//! The modules, in the order in which they may import each other (`tests/layers.rs` proves it):
//!
//! | module | what it has |
//! |---|---|
//! | [`error`], [`key`], [`time`], [`random`], [`log`] | the vocabulary everything else is written in |
//! | [`sync`] | locks that outlive a panic |
//! | [`reserve`] | what an allocation gets when the system has no memory left |
//! | `process`, `thread` | what each process has of its own; how threads are started |
//! | [`config`] | a validated change set ([`config::Update`]), the state read back, `.conf` files |
//! | [`noise`] | the protocol engine, without I/O, clock or randomness of its own |
//! | [`uapi`] | the text protocol of `wg(8)` |
//! | [`queue`] | packets on their way between threads |
//! | `netlink` | messages to and from the Linux kernel about interfaces and routes |
//! | [`bind`], [`tun`] | the two sides that packets come from, behind one trait each |
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

pub use error::{Error, ErrorKind};
