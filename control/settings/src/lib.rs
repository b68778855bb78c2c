//! Configures a system's network for a tunnel: addresses, routes, MTU and DNS, as wg-quick(8) does.
//!
//! [`Settings`] describe the network. [`plan()`] converts them to steps, without changing anything. `apply` performs
//! the steps, all of them or none, and returns an [`Applied`], which undoes them, or applies the differences to other
//! settings. `up` and `down` also start and stop a daemon, from a `.conf` file.
//!
//! Addresses, routes and rules are set by rtnetlink; DNS by running `resolvectl` or `resolvconf`, and the firewall by
//! running `nft` or `iptables-restore`. Plans are the same on every system; only Linux can perform them.
//!
//! With the feature `manager`, the module `manager` does the same for tunnels of the VPN manager protocol.

mod applied;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(feature = "manager")]
pub mod manager;
mod plan;
mod settings;

pub use applied::{Applied, System, undo};
#[cfg(target_os = "linux")]
pub use linux::{
    Linux, free_mark,
    hooks::Hooks,
    life::{Options, down, up},
    programs::Programs,
};
pub use plan::{Family, Firewall, Resolver, RouteKind, Rule, State, Step, plan};
pub use settings::{Dns, Settings};
/// The routing table for routes.
pub use wg_embed::config::wgquick::Table;

/// Configures the network for an interface in the calling thread's network namespace. If a step fails, the earlier ones
/// are undone.
///
/// # Errors
/// Errors of [`plan()`]; `NotFound` if there is no such interface; errors of the kernel or a program for a step.
#[cfg(target_os = "linux")]
pub fn apply(interface: &str, settings: &Settings) -> wg_embed::error::Result<Applied<Linux>> {
    Applied::new(Linux::new(interface)?, settings)
}
