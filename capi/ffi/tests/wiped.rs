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
    WG_IPV4, WG_PEER_HAS_PRESHARED_KEY, wg_allowed_ip_t, wg_conf_changes, wg_conf_parse, wg_free, wg_get_config,
    wg_peer_config_t, wg_remove_peer,
    wg_result_t::{WG_ERR_INVALID, WG_OK},
    wg_set_config, wg_set_peer, wg_turn_off, wg_turn_on,
};

#[test]
fn what_passes_the_c_functions_is_wiped() {
    // Constants: whatever makes text on the heap leaves copies of its own. With addresses, which have bytes without a
    // use: what is left of a key could get into them.
    const UAPI: &CStr = c"private_key=7878787878787878787878787878787878787878787878787878787878787878
public_key=0909090909090909090909090909090909090909090909090909090909090909
preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c
endpoint=192.0.2.1:9
allowed_ip=192.0.2.1/32
public_key=0b09090909090909090909090909090909090909090909090909090909090909
preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c
public_key=0c09090909090909090909090909090909090909090909090909090909090909
public_key=0d09090909090909090909090909090909090909090909090909090909090909
endpoint=192.0.2.2:9
allowed_ip=192.0.2.2/32
public_key=0e09090909090909090909090909090909090909090909090909090909090909
";
    const REFUSED: &CStr = c"preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c";
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    let flags = WG_PEER_HAS_PRESHARED_KEY as u32;
    let allowed_ip =
        wg_allowed_ip_t { family: WG_IPV4 as u32, prefix_len: 32, address: [9; 16], ..wg_allowed_ip_t::default() };
    let peer = wg_peer_config_t {
        flags,
        public_key: [8; 32],
        preshared_key: [0x9d; 32],
        endpoint: c"192.0.2.3:9".as_ptr(),
        allowed_ips: &raw const allowed_ip,
        allowed_ip_count: 1,
        ..wg_peer_config_t::default()
    };
    let refused = wg_peer_config_t { endpoint: c"nowhere".as_ptr(), ..peer };
    let mut read = false;
    let freed = freed_by(|| {
        // SAFETY: the text ends with a zero, and the descriptor is given away.
        let handle = unsafe { wg_turn_on(ours.into_raw_fd(), UAPI.as_ptr()) };
        let typed = [peer, refused].map(|peer| {
            // SAFETY: it has its size, and points to constants and to one prefix.
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
        assert!(!contains(&freed, &[byte; 6]) && !contains(&freed, hex.as_bytes()), "{byte:#x}");
    }
}

#[test]
fn what_a_conf_file_holds_is_wiped() {
    // The keys of 0x78, 0x9c and 0x9d; the last is in a command only.
    const CONF: &str = "[Interface]
PrivateKey = eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=
PostUp = wg set %i peer x preshared-key nZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ0=
PreDown = echo nZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ0=
[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
PresharedKey = nJycnJycnJycnJycnJycnJycnJycnJycnJycnJycnJw=
AllowedIPs = 0.0.0.0/0
";
    let mut utf16 = [0; 2 * CONF.len()];
    utf16.iter_mut().step_by(2).zip(CONF.bytes()).for_each(|(to, from)| *to = from);
    // Without its last digit the file is refused, when all keys have been read.
    for (good, last) in [(CONF.as_bytes(), 2), (&utf16, 4)] {
        let bad = &good[..good.len() - last];
        let mut read = false;
        let freed = freed_by(|| {
            const EMPTY: &str = "[Interface]";
            let (mut uapi, mut settings, mut changes) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
            let results = [bad, good].map(|conf| {
                // SAFETY: there are as many bytes, and there is room for one pointer each.
                unsafe { wg_conf_parse(conf.as_ptr().cast(), conf.len(), &raw mut uapi, &raw mut settings) }
            });
            let (empty, len) = (EMPTY.as_ptr().cast(), EMPTY.len());
            // SAFETY: as above.
            let compared = unsafe { wg_conf_changes(empty, len, good.as_ptr().cast(), good.len(), &raw mut changes) };
            read = results == [WG_ERR_INVALID, WG_OK] && compared == WG_OK;
            for text in [uapi, settings, changes] {
                // SAFETY: they came from above.
                read &= unsafe { CStr::from_ptr(text) }.count_bytes() > 100;
                // SAFETY: as above, and they are not used again.
                unsafe { wg_free(text.cast()) };
            }
        });
        assert!(read && !freed.is_empty());
        for text in ["eHh4eHh4", "nJycnJyc", "nZ2dnZ2d", "7878787878", "9c9c9c9c9c"] {
            assert!(!contains(&freed, text.as_bytes()), "{text}");
        }
        for byte in [0x78, 0x9c] {
            assert!(!contains(&freed, &[byte; 10]), "{byte:#x}");
        }
    }
}
