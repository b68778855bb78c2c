//! The functions of other libraries, so that what was built for them runs over this one: each set behind a feature of its
//! own, and thin over [`ffi`](crate::ffi). docs/COMPAT.md has what stays the same and what does not.
//!
//! | file | whose functions |
//! |---|---|
//! | `android`, `jni` | wireguard-android's libwg-go.so: for C, and for its class `GoBackend` |
//!
//! `handles` has the numbers that its apps know tunnels by, `logcat` is where they have their log.
#![allow(unsafe_code)] // As in `ffi`: raw pointers enter here.

#[cfg(feature = "compat-android")]
pub mod android;
#[cfg(feature = "compat-android")]
mod handles;
#[cfg(feature = "compat-android")]
pub mod jni;
#[cfg(feature = "compat-android")]
mod logcat;
