//! The functions of other libraries, so that what was built for them runs over this one: each set behind a feature of its
//! own, and thin over `ffi`. docs/COMPAT.md has what stays the same and what does not.
//!
//! | file | whose functions |
//! |---|---|
//! | `android`, `jni` | wireguard-android's libwg-go.so: for C, and for its class `GoBackend` |
//! | `apple` | wireguard-apple's WireGuardKitGo, and the keys of its WireGuardKitC |
//! | `mullvad` | Mullvad's libwg |
//!
//! Of the first, `handles` has the numbers that its apps know tunnels by, and `logcat` is where they have their log.
//!
//! Functions whose bodies are calls of `wg_` functions and copies of numbers have no guard of their own: what could panic is
//! in there.
#![allow(unsafe_code)] // As in `ffi`: raw pointers enter here.

#[cfg(feature = "compat-android")]
pub mod android;
#[cfg(feature = "compat-apple")]
pub mod apple;
#[cfg(feature = "compat-android")]
mod handles;
#[cfg(feature = "compat-android")]
pub mod jni;
#[cfg(feature = "compat-android")]
mod logcat;
#[cfg(feature = "compat-mullvad")]
pub mod mullvad;

// One name cannot stand for two functions.
#[cfg(any(
    all(feature = "compat-android", feature = "compat-apple"),
    all(feature = "compat-android", feature = "compat-mullvad"),
    all(feature = "compat-apple", feature = "compat-mullvad"),
))]
compile_error!("the features compat-.. have wgTurnOn and others in common, with other parameters: enable one of them");
