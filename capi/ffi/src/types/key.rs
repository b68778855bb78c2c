//! Keys in C.

use std::ptr;

use wg_embed::{
    error::{Error, ErrorKind, Result},
    key::{KEY_LEN, Secret},
};

/// Length of a key in bytes.
///
/// Since: 0.1.0
pub const WG_KEY_LEN: usize = 32;

/// Size of a buffer for a key in hex, including the terminating zero byte.
///
/// Since: 0.1.0
pub const WG_KEY_HEX_LEN: usize = 65;

/// Size of a buffer for a key in base64, including the terminating zero byte.
///
/// Since: 0.1.0
pub const WG_KEY_BASE64_LEN: usize = 45;

const _: () = assert!(WG_KEY_LEN == KEY_LEN && WG_KEY_HEX_LEN == 2 * KEY_LEN + 1);

/// Copies out of the caller's memory.
///
/// # Safety
/// `key` is NULL or points to 32 readable bytes.
pub unsafe fn take_key(key: *const u8) -> Result<Secret> {
    if key.is_null() {
        return Err(Error::new(ErrorKind::Null, "the key is NULL"));
    }
    let mut copy = Secret::default();
    // SAFETY: 32 bytes are readable, says the caller, and 32 are writable here.
    unsafe { ptr::copy_nonoverlapping(key, copy.as_mut_ptr(), KEY_LEN) };
    Ok(copy)
}
