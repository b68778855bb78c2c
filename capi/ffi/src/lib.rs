//! The functions of the C interface, which `include/wg_embed.h` declares. `capi/` builds the libraries, and so do the
//! packages for apps of other libraries.
//!
//! This layer is thin: it converts pointers and numbers, and calls the package `wg-embed`, which is independent of it.
//! Imports go up this table:
//!
//! | module | contents |
//! |---|---|
//! | `plumbing` | the common parts of all functions: panics, handles, results, callbacks, texts, descriptors, the log |
//! | `types` | the structs, enums and function types of the header |
//! | `hooks` | callbacks of the app: `protect`, `resolve`, `events`, `custom_io` |
//! | `net` | the userspace network of a tunnel: with the feature `netstack` |
//! | `tunnel` | the object behind the handle of a tunnel, and how it is started |
//! | `manager` | a managed tunnel: with the feature `control`, on Unix only |
//! | `exports` | the functions |
//! | [`leaf`] | the common parts of the packages for apps of other libraries |
//!
//! The functions keep their C names in Rust as well, and can be called from there.
#![allow(unsafe_code)] // Raw pointers enter here, and nowhere else.
#![allow(non_camel_case_types)] // Types have their C names.

mod exports;
mod hooks;
pub mod leaf;
#[cfg(all(feature = "control", unix))]
mod manager;
#[cfg_attr(not(feature = "netstack"), path = "net/absent.rs")]
mod net;
mod plumbing;
mod source;
mod tunnel;
mod types;

pub use self::{
    exports::*,
    plumbing::{
        callback::wg_destroy_fn_t,
        log::{
            WG_LOG_DEBUG, WG_LOG_ERROR, WG_LOG_INFO, WG_LOG_INHERIT, WG_LOG_OFF, WG_LOG_TRACE, WG_LOG_WARN,
            wg_log_fn_t, wg_log_level_t,
        },
        memory::WG_INJECT_MAX,
        result::wg_result_t,
    },
    tunnel::{
        WG_CONFIG_LEN_MAX, WG_MEMORY_DEFAULT, WG_MEMORY_MAX, WG_MEMORY_MIN, WG_MTU_DEFAULT, WG_MTU_MAX, WG_MTU_MIN,
        WG_PEERS_DEFAULT, WG_PEERS_MAX, WG_QUEUES_MAX, WG_WORKERS_MAX, WG_WORKERS_NONE,
    },
    types::{
        custom_io::*,
        datagram::*,
        endpoint::*,
        event::*,
        fd::*,
        key::{WG_KEY_BASE64_LEN, WG_KEY_HEX_LEN, WG_KEY_LEN},
        manager::*,
        net::*,
        options::*,
        packet::*,
        peer::*,
        protect::*,
        resolve::*,
        stats::*,
        udp::*,
    },
};
