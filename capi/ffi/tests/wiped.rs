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
use wg_embed_ffi::{
    WG_PEER_HAS_PRESHARED_KEY, wg_free, wg_get_config, wg_peer_config_t, wg_remove_peer, wg_result::WG_OK,
    wg_set_config, wg_set_peer, wg_turn_off, wg_turn_on,
};

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
    let flags = WG_PEER_HAS_PRESHARED_KEY as u32;
    let peer =
        wg_peer_config_t { flags, public_key: [8; 32], preshared_key: [0x9d; 32], ..wg_peer_config_t::default() };
    let refused = wg_peer_config_t { endpoint: c"nowhere".as_ptr(), ..peer };
    let mut read = false;
    let freed = freed_by(|| {
        // SAFETY: the text ends with a zero, and the descriptor is given away.
        let handle = unsafe { wg_turn_on(ours.into_raw_fd(), UAPI.as_ptr()) };
        let typed = [peer, refused].map(|peer| {
            // SAFETY: it has its size, and points to a constant at most.
            unsafe { wg_set_peer(handle, &raw const peer) }
        });
        let mut text = ptr::null_mut();
        // SAFETY: there is room for one pointer.
        let got = unsafe { wg_get_config(handle, &raw mut text) };
        // SAFETY: the text ends with a zero.
        let set = unsafe { wg_set_config(handle, REFUSED.as_ptr()) };
        // SAFETY: it came from above.
        read = typed[0] == WG_OK
            && typed[1] != WG_OK
            && got == WG_OK
            && set != WG_OK
            && unsafe { CStr::from_ptr(text) }.count_bytes() > 200;
        // SAFETY: as above, and it is not used again.
        unsafe { wg_free(text.cast()) };
        // SAFETY: the key has 32 bytes.
        read &= unsafe { wg_remove_peer(handle, peer.public_key.as_ptr()) } == WG_OK;
        read &= wg_turn_off(handle) == WG_OK;
    });
    assert!(read);
    for (byte, hex) in [(0x78, "78".repeat(10)), (0x9c, "9c".repeat(10)), (0x9d, "9d".repeat(10))] {
        assert!(!contains(&freed, &[byte; 10]) && !contains(&freed, hex.as_bytes()));
    }
}
