//! Secrets that pass the C functions do not stay in memory that is given back: an allocator looks at every block on its
//! way out.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unsafe_code,
    reason = "C has pointers, and an allocator is unsafe by nature"
)]

#[path = "../../../tests/common/freed.rs"]
mod freed;

use std::{
    ffi::CStr,
    os::{fd::IntoRawFd, unix::net::UnixDatagram},
    ptr,
};

use freed::{contains, freed_by};
use wg_embed_ffi::{wg_free, wg_get_config, wg_result::WG_OK, wg_set_config, wg_turn_off, wg_turn_on};

#[test]
fn what_passes_the_c_functions_is_wiped() {
    // Constants: whatever makes text on the heap leaves copies of its own.
    const UAPI: &CStr = c"private_key=7878787878787878787878787878787878787878787878787878787878787878
public_key=0909090909090909090909090909090909090909090909090909090909090909
preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c
public_key=0b09090909090909090909090909090909090909090909090909090909090909
preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c
public_key=0c09090909090909090909090909090909090909090909090909090909090909
public_key=0d09090909090909090909090909090909090909090909090909090909090909
public_key=0e09090909090909090909090909090909090909090909090909090909090909
";
    const REFUSED: &CStr = c"preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c";
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    let mut read = false;
    let freed = freed_by(|| {
        // SAFETY: the text ends with a zero, and the descriptor is given away.
        let handle = unsafe { wg_turn_on(ours.into_raw_fd(), UAPI.as_ptr()) };
        let mut text = ptr::null_mut();
        // SAFETY: there is room for one pointer.
        let got = unsafe { wg_get_config(handle, &raw mut text) };
        // SAFETY: the text ends with a zero.
        let set = unsafe { wg_set_config(handle, REFUSED.as_ptr()) };
        // SAFETY: it came from above.
        read = got == WG_OK && set != WG_OK && unsafe { CStr::from_ptr(text) }.count_bytes() > 200;
        // SAFETY: as above, and it is not used again.
        unsafe { wg_free(text.cast()) };
        read &= wg_turn_off(handle) == WG_OK;
    });
    assert!(read);
    for byte in [0x78, 0x9c] {
        let hex = if byte == 0x78 { "78787878787878787878" } else { "9c9c9c9c9c9c9c9c9c9c" };
        assert!(!contains(&freed, &[byte; 10]) && !contains(&freed, hex.as_bytes()));
    }
}
