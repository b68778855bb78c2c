//! Keys: generation, derivation, and conversion to and from text.
//!
//! A key is 32 bytes, a `uint8_t[32]` of the caller's. No function keeps a key.

use std::{ffi::c_char, ptr};

use crate::{
    plumbing::{guard::guard_anywhere, result::wg_result_t, text::borrow_text},
    types::key::{WG_KEY_HEX_LEN, take_key},
};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    key::{PresharedKey, PrivateKey, Secret, wiped},
};

/// Copies into the caller's memory.
///
/// # Safety
/// `out` is NULL or has room for `bytes`.
pub(super) unsafe fn give(bytes: &[u8], out: *mut u8) -> Result<()> {
    if out.is_null() {
        return Err(Error::new(ErrorKind::Null, "the room for the result is NULL"));
    }
    // SAFETY: there is room for them, says the caller.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), out, bytes.len()) };
    Ok(())
}

/// Copies text and a zero byte into the caller's memory.
///
/// # Safety
/// `out` is NULL or has room for `text` and one more byte.
unsafe fn give_text(text: &str, out: *mut c_char) -> Result<()> {
    let mut bytes = Secret::<WG_KEY_HEX_LEN>::default();
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    // SAFETY: there is room for the text and its zero, says the caller.
    unsafe { give(&bytes[..=text.len()], out.cast()) }
}

fn guard_keys(body: impl FnOnce() -> Result<()>) -> wg_result_t {
    wiped(|| guard_anywhere(body))
}

/// Generates a private key, clamped as X25519 requires.
///
/// Memory: writes 32 bytes to `private_key` on success only; the caller wipes them after use.
/// Requires: `private_key` is NULL or has room for 32 bytes.
/// Errors: WG_ERR_NULL; WG_ERR_IO if the system's random generator fails; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_keys_generate_private(private_key: *mut u8) -> wg_result_t {
    guard_keys(|| {
        // SAFETY: the caller's contract is the same.
        unsafe { give(PrivateKey::generate()?.as_bytes(), private_key) }
    })
}

/// Derives the public key of a private key.
///
/// Memory: reads 32 bytes of `private_key` and writes 32 to `public_key`.
/// Requires: `private_key` is NULL or points to 32 readable bytes; `public_key` is NULL or has room for 32 bytes.
/// Errors: WG_ERR_NULL; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_keys_derive_public(private_key: *const u8, public_key: *mut u8) -> wg_result_t {
    guard_keys(|| {
        // SAFETY: the caller's contract is the same.
        let private = PrivateKey::from_bytes(*unsafe { take_key(private_key) }?);
        // SAFETY: as above.
        unsafe { give(private.public_key().as_bytes(), public_key) }
    })
}

/// Generates a preshared key.
///
/// Memory: writes 32 bytes to `preshared_key` on success only; the caller wipes them after use.
/// Requires: `preshared_key` is NULL or has room for 32 bytes.
/// Errors: WG_ERR_NULL; WG_ERR_IO if the system's random generator fails; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_keys_generate_preshared(preshared_key: *mut u8) -> wg_result_t {
    guard_keys(|| {
        // SAFETY: the caller's contract is the same.
        unsafe { give(PresharedKey::generate()?.as_bytes(), preshared_key) }
    })
}

/// Formats a key as 64 lower-case hex digits, the form of UAPI.
///
/// Memory: reads 32 bytes of `key` and writes WG_KEY_HEX_LEN characters to `text`, the last of them zero.
/// Requires: `key` is NULL or points to 32 readable bytes; `text` is NULL or has room for WG_KEY_HEX_LEN characters.
/// Errors: WG_ERR_NULL; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_keys_to_hex(key: *const u8, text: *mut c_char) -> wg_result_t {
    guard_keys(|| {
        // SAFETY: the caller's contract is the same.
        let key = PresharedKey::from_bytes(*unsafe { take_key(key) }?);
        // SAFETY: as above.
        unsafe { give_text(&key.to_hex(), text) }
    })
}

/// Formats a key as 44 characters of base64, the form of wg(8) and `.conf` files.
///
/// Memory: reads 32 bytes of `key` and writes WG_KEY_BASE64_LEN characters to `text`, the last of them zero.
/// Requires: `key` is NULL or points to 32 readable bytes; `text` is NULL or has room for WG_KEY_BASE64_LEN characters.
/// Errors: WG_ERR_NULL; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_keys_to_base64(key: *const u8, text: *mut c_char) -> wg_result_t {
    guard_keys(|| {
        // SAFETY: the caller's contract is the same.
        let key = PresharedKey::from_bytes(*unsafe { take_key(key) }?);
        // SAFETY: as above.
        unsafe { give_text(&key.to_base64(), text) }
    })
}

/// Parses a key of 64 hex digits, upper or lower case.
///
/// Memory: `text` is not kept; writes 32 bytes to `key` on success only.
/// Requires: `text` is NULL or ends with a zero byte; `key` is NULL or has room for 32 bytes.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID for any other text; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_keys_from_hex(text: *const c_char, key: *mut u8) -> wg_result_t {
    guard_keys(|| {
        // SAFETY: the caller's contract is the same.
        let read = PresharedKey::from_hex(unsafe { borrow_text(text, "text") }?)?;
        // SAFETY: as above.
        unsafe { give(read.as_bytes(), key) }
    })
}

/// Parses a key of 44 characters of base64.
///
/// Memory: `text` is not kept; writes 32 bytes to `key` on success only.
/// Requires: `text` is NULL or ends with a zero byte; `key` is NULL or has room for 32 bytes.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID for any other text, including unpadded and non-canonical base64; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_keys_from_base64(text: *const c_char, key: *mut u8) -> wg_result_t {
    guard_keys(|| {
        // SAFETY: the caller's contract is the same.
        let read = PresharedKey::from_base64(unsafe { borrow_text(text, "text") }?)?;
        // SAFETY: as above.
        unsafe { give(read.as_bytes(), key) }
    })
}
