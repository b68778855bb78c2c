//! The network around a tunnel, set in namespaces of their own and read back by ip(8), beside what wg-quick(8) does
//! there.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::panic, clippy::unwrap_used)]

mod apply;
mod compare;
mod files;
mod life;
#[path = "../../../../tests/netns/mod.rs"]
mod netns;
#[path = "harness.rs"]
mod network;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
