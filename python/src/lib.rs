//! The extension module `wg_embed._native`: tunnels, their userspace network, and mitmproxy's two interfaces to one.
//!
//! | module | contents |
//! |---|---|
//! | `bridge`, `notify` | notifications from tunnels' threads to Python's event loops and threads |
//! | `server`, `connection`, `linger` | an intercepting server, and its asyncio streams |
//! | `legacy`, `modern`, `stream` | the interfaces of mitmproxy_wireguard and of mitmproxy_rs to these |
//! | `tunnel`, `net`, `held` | the classes behind `wg_embed.Tunnel` and `wg_embed.net` |
//! | `wireproto` | control calls as WireProto messages |
//! | `keys`, `convert`, `errors`, `log`, `process` | keys, arguments, exceptions, `logging`, `fork()` |
//!
//! Locks, including those of the stack, are held for a moment. During that no function of Python is called, and no
//! Python object is dropped that could call one. Tunnels' threads never wait for the interpreter. Therefore a thread
//! with the interpreter may wait for a lock, and the module needs no global one.

mod bridge;
mod connection;
mod convert;
mod errors;
mod held;
mod keys;
mod legacy;
mod linger;
mod log;
mod modern;
mod net;
mod notify;
mod process;
mod server;
mod stream;
mod tunnel;
mod wireproto;

/// WireGuard and a userspace network, in Rust. The packages `wg_embed` and `mitmproxy_wireguard` are its interface.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::{
        keys::{genkey, genpsk, pubkey},
        legacy::{LegacyServer, LegacyStream},
        log::{end_log, follow_level},
        modern::{ModernServer, ModernStream},
        net::{NativeDial, NativeListener, NativeLookup, NativeNet, NativePing, NativeTcp, NativeUdp, split_host_port},
        process::{after_fork_in_child, before_fork},
        tunnel::{NativeTunnel, normalize_conf},
        wireproto::{build_request, parse_message},
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::legacy::add_functions(module)?;
        crate::modern::add_functions(module)
    }
}
