//! Traffic of two real kernels through two tunnels: cutting and putting together must never change a byte, an order or
//! a mark. Needs root; says so if it is not.
//!
//! Each test has two network namespaces with a veth between them and a tunnel in each, see `lab.rs`. Every packet is
//! judged where the tunnel reads and writes it (`judge.rs`), and again by whoever receives it. In `router.rs` the
//! kernel's own segmentation says what is right.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

mod datagrams;
mod ecn;
mod headers;
mod icmp;
mod judge;
mod lab;
mod nested;
#[path = "../netns/mod.rs"]
mod netns;
mod packet;
mod pressure;
mod router;
#[path = "../common/skip.rs"]
mod skip;
mod sockets;
mod streams;
