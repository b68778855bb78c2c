//! wireguard-android's libwg-go.so over this library. docs/COMPAT.md has what stays the same and what does not.
//!
//! | file | what it has |
//! |---|---|
//! | [`go`] | its functions for C |
//! | [`jni`] | those of its class `GoBackend` |
//! | `handles` | the numbers that its apps know tunnels by |
//! | `logcat` | where they have their log |
//!
//! Functions whose bodies are calls of `wg_` functions and copies of numbers have no guard of their own: what could
//! panic is in there.
#![allow(unsafe_code)] // As in `wg-embed-ffi`: raw pointers enter here.

#[cfg(not(unix))]
compile_error!("these functions exist only on Unix");

pub mod go;
mod handles;
pub mod jni;
mod logcat;

/// As in `capi/`: a lack of memory is a failure of the call.
#[global_allocator]
static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();
