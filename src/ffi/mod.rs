//! The C ABI: what `include/wg_embed.h` declares.
//!
//! Everything here is thin: pointers and numbers in, library calls, numbers out. The safe rooms know nothing of it.
//!
//! | file | what it answers |
//! |---|---|
//! | `guard` | what every extern body runs inside: panics, the log, calls from inside a callback |
//! | [`result`] | the codes, and the text of a thread's last error |
//! | `handle` | which tunnel a number stands for |
//! | [`text`] | text from C, and memory that C gives back |
//! | `callback` | functions of the app: how they are kept, called and given up |
//! | [`options`] | structs that grow with the library |
//! | `fd` | whose a descriptor is |
//! | [`endpoint`] | addresses as C has them |
//! | [`packets`] | packets and datagrams as C has them |
//! | `ports` | where functions of the app meet a tunnel |
//! | [`tunnel`], [`bring`], [`keys`], [`log`], [`about`] | the functions themselves, one file a group |
//!
//! The functions keep their C names in Rust as well, and can be called from there.
#![allow(unsafe_code)] // The one room where raw pointers enter.
#![allow(non_camel_case_types)] // Types have their C names.

pub mod about;
pub mod bring;
mod callback;
pub mod endpoint;
mod fd;
mod guard;
mod handle;
pub mod keys;
pub mod log;
pub mod options;
pub mod packets;
mod ports;
pub mod result;
pub mod text;
pub mod tunnel;

pub use self::{
    about::*, bring::*, callback::wg_destroy_fn_t, endpoint::*, keys::*, log::*, options::*, packets::*, result::*,
    text::wg_free, tunnel::*,
};
