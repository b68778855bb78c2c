//! The library of Windows: all functions of `include/wg_embed.h`, and those of the embeddable DLL of wireguard-windows.
//!
//! On other systems it has the former only.

#[cfg(windows)]
mod tunnel_dll;

#[cfg(windows)]
pub use self::tunnel_dll::*;
pub use wg_embed_ffi::*;

/// As in `capi/`: a lack of memory is a failure of the call.
#[global_allocator]
static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();
