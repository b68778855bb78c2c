//! libwg_embed for C: the functions of `include/wg_embed.h`, and those of one face of `include/compat` if its feature is
//! enabled. The latter come along without being named.

pub use engine::ffi::*;

/// With it a lack of memory is a failure of the call, and does not end the process.
#[global_allocator]
static ALLOCATOR: engine::reserve::Reserve = engine::reserve::Reserve::new();
