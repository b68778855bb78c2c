//! The options of a bind without a tunnel.

use std::{ffi::c_void, mem::offset_of, ptr};

use crate::{
    plumbing::{callback::wg_destroy_fn_t, sized::SizedStruct},
    types::protect::wg_protect_fn_t,
};

/// Flags of a wg_udp_options_t.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_udp_flags_t {
    /// Disables segmentation offload (GSO and GRO).
    WG_UDP_NO_OFFLOAD = 1,
    /// Answers leave from the address that received the request, but through the interface that the routes choose.
    WG_UDP_ANY_INTERFACE = 2,
}

pub use wg_udp_flags_t::*;

/// Options of wg_udp_open(). Initialize with WG_UDP_OPTIONS_INIT, then set the fields that should differ. Fields may be
/// appended, as in wg_options_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_udp_options_t {
    /// sizeof(wg_udp_options_t) in the caller's header.
    pub struct_size: usize,
    /// Called with each new socket before anything is sent on it; or NULL.
    pub protect: wg_protect_fn_t,
    /// Passed to `protect`.
    pub user: *mut c_void,
    /// Releases `user`; or NULL. The rules of wg_protect_fn_t apply.
    pub destroy: wg_destroy_fn_t,
    /// The mark, as in wg_udp_set_mark().
    pub mark: u32,
    /// Bitwise OR of wg_udp_flags_t.
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
