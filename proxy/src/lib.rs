//! Services for local clients over a [`Netstack`](wg_embed_netstack::Netstack): SOCKS5 and HTTP proxies, forwarded TCP
//! and UDP ports in both directions, TLS by server name. Unix only.
//!
//! A [`Proxy`] has one thread for all of its services, without an async runtime. It ends when it is dropped, or by
//! itself when the stack is closed, and leaves nothing behind.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! # let stack = wg_embed_netstack::Netstack::new(wg_embed_netstack::Options::default())?;
//! use wg_embed_proxy::{Address, Kind, Login, Options, Proxy, Service};
//!
//! let proxy = Proxy::start(&stack, Options::default())?;
//! let login = Some(Login::new("me", "secret"));
//! let at = Address::Tcp(([127, 0, 0, 1], 0).into());
//! let service = proxy.add(Service::new(Kind::Socks5 { at, login, bind: true }))?;
//! println!("SOCKS5 at {:?}", proxy.address(service));
//! # Ok(())
//! # }
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `service` | services and their limits |
//! | `proxy` | the API for programs |
//! | `engine` | the thread; connections from the tunnel |
//! | `mailbox`, `stats` | messages to the thread, counters |
//! | `client`, `protocol` | a client until its connection is established |
//! | `link` | an established connection: copying |
//! | `names` | resolving names |
//! | `socket`, `tls` | the system's sockets |
//! | `udp` | datagrams |
#![cfg(unix)]

mod client;
mod engine;
mod link;
mod mailbox;
mod names;
mod protocol;
mod proxy;
mod service;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod udp;

pub use proxy::{Connections, Proxy, ServiceId};
pub use service::{Address, Allow, Kind, Limits, Login, Options, Service, Target, Tls};
pub use stats::Stats;
