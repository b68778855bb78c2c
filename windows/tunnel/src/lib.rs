//! A tunnel as a service of Windows, as wireguard-windows has it.
//!
//! What follows from a configuration is a *plan*: data, made by pure functions and tested on every system. Only
//! `system` calls Windows.
//!
//! | module | contents |
//! |---|---|
//! | [`plan()`] | addresses, routes, MTU, metrics, DNS and firewall as ordered steps |
//! | [`firewall`] | the kill switch: the filters of the Windows Filtering Platform as data |
//! | [`outside`] | the default routes outside of the tunnel, and which of them is used |
//! | [`applied`] | performs steps, changes them, and undoes them |
//! | [`conf_file`] | reads `.conf` and `.conf.dpapi` files; the name of a tunnel |
//! | [`names`] | host names of endpoints become addresses |
//! | [`ring_log`] | the log file, in the format of wireguard-windows |
//! | [`supervise`] | the loop of a running service: controls, the tunnel's end, changes of the network |
//! | `system` | Windows only: steps, routes, changes of the network, DPAPI, the event log |
//! | `tunnel` | Windows only: one tunnel with its adapter, control pipe and network settings |
//! | `service` | Windows only: the tunnel under the service control manager; installing and removing it |

pub mod applied;
pub mod conf_file;
pub mod firewall;
pub mod names;
pub mod outside;
mod plan;
pub mod ring_log;
#[cfg(windows)]
pub mod service;
pub mod supervise;
#[cfg(windows)]
pub mod system;
#[cfg(windows)]
pub mod tunnel;

pub use plan::{Step, binds, plan};
/// IPv4 or IPv6.
pub use wg_embed::bind::Family;
