//! Linux at the other end of connections: over a TUN interface, with paths that lose and reorder, and over a tunnel.
//! Needs root; says so if it is not.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/kernel.rs"]
mod kernel;
#[path = "../../../tests/netns/mod.rs"]
mod netns;
#[path = "../../../tests/common/skip.rs"]
mod skip;

mod bounds;
mod ends;
mod intercepts;
mod link;
mod paths;
mod relay;
mod settings;
mod sockets;
mod timers;
mod transfers;
mod tunnel;
