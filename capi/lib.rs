//! libwg_embed for C: the functions of `include/wg_embed.h`, and nothing else.

pub use engine::ffi::*;
