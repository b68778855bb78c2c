//! A WireGuard tunnel for the [VPN manager protocol](wg_embed_manager): the engine, and peers from a file.
//!
//! | module | contents |
//! |---|---|
//! | [`engine`] | tunnels over a manager's descriptor, a new interface, or a userspace network |
//! | [`contents`] | a configuration as a manager gets it: settings, workspaces and agents |
//! | [`mod@file`] | peers from a `.conf` file, which is watched |
//! | [`lines`] | network settings as lines of text |
//! | [`log`] | events of the library as lines of the protocol's log |
//!
//! ```no_run
//! # #[cfg(unix)]
//! # fn serve(read: std::os::fd::OwnedFd, write: std::os::fd::OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use wg_embed_manager::{speaker::Transport, tunnel::{Options, Tunnel}};
//! use wg_embed_tunnel::{engine::{self, WireGuard}, file::FileSource};
//!
//! let engine = Arc::new(WireGuard::new(engine::Options::default()));
//! let transport = Transport::from_descriptors(read, write)?;
//! Tunnel::open(transport, Options::default(), Arc::new(FileSource), engine)?.serve();
//! # Ok(())
//! # }
//! ```

pub mod contents;
mod echo;
pub mod engine;
pub mod file;
pub mod lines;
pub mod log;
