//! A userspace TCP/IP stack: connections through a WireGuard tunnel without an interface and without root.
//!
//! A [`Netstack`] is a [`Tun`](wg_embed::tun::Tun): its input is decrypted by the tunnel, its output encrypted.
//! Connections are [`TcpStream`], [`TcpListener`] and [`UdpSocket`]; [`Netstack::intercept`] accepts those to all
//! addresses and ports.
//!
//! ```no_run
//! # fn main() -> wg_embed::Result<()> {
//! use std::{io::{Read, Write}, sync::Arc, time::Duration};
//!
//! use wg_embed::{Conf, Tunnel, UdpBind};
//! use wg_embed_netstack::{Netstack, Options};
//!
//! let conf = Conf::from_bytes(&std::fs::read("wg0.conf")?)?;
//! let stack = Netstack::new(Options::from(&conf.interface))?;
//! let tunnel = Tunnel::start(stack.tun(), Arc::new(UdpBind::new()?), wg_embed::Options::default())?;
//! tunnel.apply(conf.update)?;
//! tunnel.up()?;
//!
//! let mut web = stack.dial_tcp("10.0.0.1:80", Duration::from_secs(10))?;
//! web.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
//! let mut answer = String::new();
//! web.read_to_string(&mut answer)?;
//! # Ok(())
//! # }
//! ```
//!
//! All calls may be made on any thread. The functions whose names begin with `try_` and `start_` do not wait; most
//! others take a time limit. A [`Notify`] is called on threads of the tunnel, and must not wait. The oldest supported
//! Rust is 1.91. There are no features.
//!
//! | module | contents |
//! |---|---|
//! | `tcp` | one TCP connection, without I/O, clock or source of randomness |
//! | `stack` | assignment of packets to connections; deadlines, memory, and the `Tun` |
//! | `stream`, `listener`, `udp`, `intercept`, `ping` | the API for programs |
//! | `dns`, `dial` | name resolution, and connections to names |
//! | `copy` | copying between a connection and another byte stream |
//! | `task` | tasks that run when a socket or a deadline wakes them, without a thread of their own |
//! | `pump` | connections as ordinary descriptors, on Windows as SOCKETs |

pub mod copy;
pub mod dial;
pub mod dns;
pub mod intercept;
pub mod listener;
pub mod notify;
pub mod options;
pub mod ping;
pub mod pump;
mod stack;
pub mod stream;
mod task;
mod tcp;
pub mod udp;

pub use intercept::{Intercept, InterceptOptions, PendingTcp};
pub use listener::TcpListener;
pub use notify::{Notify, Readiness};
pub use options::Options;
pub use stack::Netstack;
pub use stream::{Delivery, TcpStream};
pub use udp::{UdpFlow, UdpPort, UdpSocket};
