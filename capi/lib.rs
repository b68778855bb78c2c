//! libwg_embed for C: the functions of `include/wg_embed.h`, and those of one face of `include/compat` if its feature is
//! enabled. The latter come along without being named.

pub use engine::ffi::*;
