//! Selects the system's files; `driver.rs` has the contract.

#[cfg(target_vendor = "apple")]
pub(super) use super::apple::BootTimer;
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
pub(super) use super::fallback::BootTimer;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use super::fallback::{RouteWatch, SavedOptions, set_mark, set_up, share_port, stop_sharing_port};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use super::linux::{BootTimer, RouteWatch, SavedOptions, set_mark, set_up, share_port, stop_sharing_port};
#[cfg(windows)]
pub(super) use super::windows::BootTimer;

/// The driver that works on every system.
pub(super) use super::fallback::set_up as set_up_portable;
