//! libwg_embed for C: the functions of `include/wg_embed.h`, which are in the package `wg-embed-ffi`.

pub use wg_embed_ffi::*;

/// With it a lack of memory is a failure of the call, and does not end the process.
#[global_allocator]
static ALLOCATOR: engine::reserve::Reserve = engine::reserve::Reserve::new();
