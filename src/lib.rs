//! WireGuard as one small library: tunnels inside a program, without an async runtime.
//!
//! A [`Tunnel`] moves packets between a [`Tun`], which is the network inside, and a [`Bind`], which is the network
//! outside. Both are traits: the inside may be an interface of the system, a descriptor, functions of the program, or a
//! userspace TCP/IP stack (the package `wg-embed-netstack`); the outside is a pair of UDP sockets, or functions of the
//! program.
//!
//! This is a program that runs the tunnel of a `.conf` file on Linux, with `CAP_NET_ADMIN`:
//!
#![cfg_attr(any(target_os = "linux", target_os = "android"), doc = "```no_run")]
#![cfg_attr(not(any(target_os = "linux", target_os = "android")), doc = "```ignore")]
//! use std::sync::Arc;
//! use wg_embed::{Conf, Options, Result, Tunnel, UdpBind, device::resolve_with_system, tun::linux::LinuxTun};
//!
//! fn main() -> Result<()> {
//!     let conf = Conf::from_bytes(&std::fs::read("wg0.conf")?)?;
//!     let (tun, bind) = (LinuxTun::create("wg0")?, UdpBind::new()?);
//!     let options = Options { resolve: Some(Box::new(resolve_with_system)), ..Options::default() };
//!     let tunnel = Tunnel::start(Arc::new(tun), Arc::new(bind), options)?;
//!     tunnel.apply(conf.update)?;
//!     tunnel.up()?;
//!     println!("the tunnel has ended: {}", tunnel.wait());
//!     Ok(())
//! }
//! ```
//!
//! The addresses and routes of the interface are left to the program. `examples/` has the same as a whole program, and
//! two tunnels in one process that need neither root nor a network.
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | a running tunnel: configuration, state, pause, end | [`Tunnel`], [`Options`], [`Event`], [`EndReason`] |
//! | statistics, sessions, single peers; a tunnel without threads | [`Device`] |
//! | changes, and `.conf` files | [`Update`], [`PeerUpdate`], [`Conf`], [`config`] |
//! | the text of `wg(8)` and wireguard-go (`private_key=...`) | [`uapi`] |
//! | keys | [`PrivateKey`], [`PublicKey`], [`PresharedKey`] |
//! | an interface, a descriptor, functions for packets | [`tun`]: `linux`, `apple`, `fd`, [`tun::callback`] |
//! | connections inside a tunnel, without an interface | the package `wg-embed-netstack` |
//! | UDP sockets, functions for datagrams, UDP without a tunnel | [`UdpBind`], [`bind::callback`], [`bind::BatchUdp`] |
//! | a control socket for `wg(8)` | [`ipc`] |
//! | errors, and their numbers in C and in the UAPI | [`Error`], [`ErrorKind`] |
//! | the protocol alone, without I/O | [`noise`] |
//!
//! # Threads
//!
//! A tunnel has two threads. `wg-tunnel` serves sockets, timers and packets; `wg-outbound` sleeps until there is load
//! in both directions. A third, `wg-resolver`, exists while host names are resolved. All other work is done on the
//! threads that call functions, and each function may be called on any thread at any time, with these exceptions:
//!
//! - Functions that the program passes in, for events, packets, datagrams, sockets or names, are called on the tunnel's
//!   threads, or on threads that call its functions. They should return soon. They may call the tunnel, except that
//!   [`Tunnel::stop`] fails with [`ErrorKind::Busy`] there, and [`Tunnel::wait`] would wait for itself. A new socket's
//!   function must not change the configuration.
//! - [`Tunnel::pause`] waits for running calls of the TUN and the bind, and so cannot be called from inside one.
//! - A child of `fork()` must not use its parent's tunnels.
//!
//! The threads sleep while there is nothing to do, block all signals, and are gone when [`Tunnel::stop`] has returned.
//! A panic in one of the program's functions ends the tunnel, not the process.
//!
//! # Features
//!
//! | feature | effect |
//! |---|---|
//! | `test-util` | for tests: `bind::mem`, a network in memory; `time::ManualClock`; access to private state |
//!
//! There are no default features.
//!
//! # Versions
//!
//! The oldest supported Rust is 1.89; raising it is a minor change of the version. Options and changes are structs with
//! public fields: write them with `..Options::default()` and the like, since new versions add fields. Linux on x86-64
//! is tested as a whole; `docs/platforms.md` states what is compiled and tested elsewhere.
//!
//! # Modules
//!
//! In the order in which they may import each other (checked by `tests/layers.rs`):
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
//! | [`poll`] | what a bind and a TUN agree on, so that one thread waits for both |
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
pub mod poll;
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

/// The examples in the README compile.
#[cfg(all(doctest, any(target_os = "linux", target_os = "android")))]
#[doc = include_str!("../README.md")]
struct Readme;
