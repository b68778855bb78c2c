//! The functions of other libraries, so that what was built for them runs over this one: each set behind a feature of its
//! own, and thin over `ffi`. docs/COMPAT.md has what stays the same and what does not.
//!
//! | file | whose functions |
//! |---|---|
//! | `apple` | wireguard-apple's WireGuardKitGo, and the keys of its WireGuardKitC |
//! | `mullvad` | Mullvad's libwg |
//!
//! Functions whose bodies are calls of `wg_` functions and copies of numbers have no guard of their own: what could panic is
//! in there.
#![allow(unsafe_code)] // As in `ffi`: raw pointers enter here.

#[cfg(feature = "compat-apple")]
pub mod apple;
#[cfg(feature = "compat-mullvad")]
pub mod mullvad;

// One name cannot stand for two functions.
#[cfg(all(feature = "compat-apple", feature = "compat-mullvad"))]
compile_error!("compat-apple and compat-mullvad have wgTurnOn and others in common, with other parameters: enable one");
