//! The functions of the C interface: what `include/wg_embed.h` declares. `capi/` makes libraries of them, and so do the
//! packages that add functions of other libraries.
//!
//! Everything here is thin: pointers and numbers in, library calls, numbers out. The package `wg-embed` knows nothing
//! of it.
//!
//! | file | what it answers |
//! |---|---|
//! | `guard` | what every extern body runs inside: panics, the log, calls from inside a callback |
//! | [`result`] | the codes, and the text of a thread's last error |
//! | `handle` | what a number stands for |
//! | [`text`] | text from C, and memory that C gives back |
//! | `cancel` | callers that are cancelled |
//! | `callback` | functions of the app: how they are kept, called and given up |
//! | [`options`] | structs that grow with the library |
//! | `exit` | the end of the process |
//! | `fd` | whose a descriptor is |
//! | `memory` | arrays that are borrowed, places that are written to |
//! | `protect` | new sockets, shown to the app before their first byte |
//! | [`resolve`] | host names, looked up by the app or the system |
//! | [`tunnel`], [`sockets`], [`life`], [`events`], [`stats`]; [`bind`], [`datagrams`], [`endpoint`]; [`keys`], [`log`], [`about`] | the functions themselves |
//! | [`packets`] | IP packets as C has them |
//! | `ports` | where functions of the app meet a tunnel |
//! | [`leaf`] | what the functions of other libraries are made of |
//!
//! The functions keep their C names in Rust as well, and can be called from there.
#![allow(unsafe_code)] // The one room where raw pointers enter.
#![allow(non_camel_case_types)] // Types have their C names.

pub mod about;
pub mod bind;
pub mod bring;
mod callback;
mod cancel;
pub mod datagrams;
pub mod endpoint;
pub mod events;
mod exit;
mod fd;
mod guard;
mod handle;
pub mod keys;
pub mod leaf;
pub mod life;
pub mod log;
mod memory;
pub mod options;
pub mod packets;
mod ports;
mod protect;
pub mod resolve;
pub mod result;
pub mod sockets;
pub mod stats;
pub mod text;
pub mod tunnel;

pub use self::{
    about::*, bind::*, bring::*, callback::wg_destroy_fn_t, datagrams::*, endpoint::*, events::*, fd::*, keys::*,
    life::*, log::*, options::*, packets::*, protect::wg_protect_fn_t, resolve::*, result::*, sockets::*, stats::*,
    text::wg_free, tunnel::*,
};
