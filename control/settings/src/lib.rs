//! What a system's network needs around a tunnel: addresses, routes, MTU and DNS, as wg-quick(8) sets them.
//!
//! [`Settings`] say what is wanted. [`plan()`] makes steps of them, without touching anything. `apply` does the steps,
//! all of them or none, and returns an [`Applied`] which takes them back, or changes only what differs in other
//! settings. `up` and `down` do that around a daemon of its own, from a `.conf` file.
//!
//! Addresses, routes and rules are set by rtnetlink; DNS by `resolvectl` or `resolvconf`, and the firewall by `nft` or
//! `iptables-restore`, which are run. Plans are the same on every system; only Linux carries them out.
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
/// The table that routes are put in.
pub use wg_embed::config::wgquick::Table;

/// Sets up the network around an interface of the calling thread's network namespace. What has been done when a step
/// fails is undone.
///
/// # Errors
/// As [`plan()`]; `NotFound` if there is no such interface; what the kernel or a program says to a step.
#[cfg(target_os = "linux")]
pub fn apply(interface: &str, settings: &Settings) -> wg_embed::error::Result<Applied<Linux>> {
    Applied::new(Linux::new(interface)?, settings)
}
