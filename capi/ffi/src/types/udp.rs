//! What a bind of its own is opened with.

use std::{ffi::c_void, mem::offset_of, ptr};

use crate::{
    plumbing::{callback::wg_destroy_fn_t, sized::SizedStruct},
    types::protect::wg_protect_fn_t,
};

/// What a bind does otherwise than usual.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_udp_flags_t {
    /// Without segmentation offload: neither GSO nor GRO.
    WG_UDP_NO_OFFLOAD = 1,
    /// Answers leave from the address that was asked, but through whatever interface the routes say.
    WG_UDP_ANY_INTERFACE = 2,
}

pub use wg_udp_flags_t::*;

/// What wg_udp_open() may be told. Start from WG_UDP_OPTIONS_INIT, and set what should differ. It grows with the
/// library as wg_options_t does.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_udp_options_t {
    /// sizeof(wg_udp_options_t), as the caller was compiled.
    pub struct_size: usize,
    /// Is passed each new socket first; or NULL.
    pub protect: wg_protect_fn_t,
    /// For `protect`.
    pub user: *mut c_void,
    /// Gives up `user`; or NULL. It follows the rules of wg_protect_fn_t.
    pub destroy: wg_destroy_fn_t,
    /// As wg_udp_set_mark().
    pub mark: u32,
    /// Values of wg_udp_flags_t, added up.
    pub flags: u32,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_udp_options_t>() == 4 * POINTER + 8);
    assert!(offset_of!(wg_udp_options_t, protect) == POINTER);
    assert!(offset_of!(wg_udp_options_t, user) == 2 * POINTER);
    assert!(offset_of!(wg_udp_options_t, destroy) == 3 * POINTER);
    assert!(offset_of!(wg_udp_options_t, mark) == 4 * POINTER);
    assert!(offset_of!(wg_udp_options_t, flags) == 4 * POINTER + 4);
};

/// WG_UDP_OPTIONS_INIT.
impl Default for wg_udp_options_t {
    fn default() -> Self {
        let user = ptr::null_mut();
        Self { struct_size: size_of::<Self>(), protect: None, user, destroy: None, mark: 0, flags: 0 }
    }
}

// SAFETY: as the assertions above say; it has integers and pointers only, those to functions may be NULL.
unsafe impl SizedStruct for wg_udp_options_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}
