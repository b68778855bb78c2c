//! The functions of the C interface: what `include/wg_embed.h` declares. `capi/` makes libraries of them, and so do the
//! packages that add functions of other libraries.
//!
//! Everything here is thin: pointers and numbers in, library calls, numbers out. The package `wg-embed` knows nothing
//! of it. Imports go up this table:
//!
//! | module | what it answers |
//! |---|---|
//! | `plumbing` | what every function is made of: `guard` (panics, the log, calls from inside a callback), `handle` (what a number stands for), `result`, `callback` and `calls` (functions of the app: kept, called, given up, and the end of the process), `cancel` (callers that are cancelled), `sized` (structs that grow), `text` and `memory` (what is borrowed and handed out), `fd`, `log` |
//! | `types` | structs, enums and function types, as C has them |
//! | `hooks` | functions of the app, as the library asks for them: `protect`, `resolve`, `events`, `custom_io` |
//! | `net` | the userspace network of a tunnel: with the feature `netstack`, and on Unix only |
//! | `tunnel` | what stands behind the handle of a tunnel, and how it is started |
//! | `manager` | a tunnel that a program manages: with the feature `control`, and on Unix only |
//! | `exports` | the functions |
//! | [`leaf`] | what the functions of other libraries are made of |
//!
//! The functions keep their C names in Rust as well, and can be called from there.
#![allow(unsafe_code)] // Raw pointers enter here, and nowhere else.
#![allow(non_camel_case_types)] // Types have their C names.

mod exports;
mod hooks;
pub mod leaf;
#[cfg(all(feature = "control", unix))]
mod manager;
#[cfg_attr(not(all(feature = "netstack", unix)), path = "net/absent.rs")]
mod net;
mod plumbing;
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
        WG_PEERS_DEFAULT, WG_PEERS_MAX,
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
