//! Keys, and their texts.

use jni::{
    Env,
    objects::{JByteArray, JClass},
    sys::{jboolean, jint},
};
use wg_embed_ffi::{
    self as ffi, WG_KEY_BASE64_LEN, WG_KEY_HEX_LEN,
    leaf::guard,
    wg_result_t::{self, WG_OK},
};
use zeroize::Zeroizing;

use crate::{Result, bytes};

/// Generates a private or a preshared key.
pub(crate) fn generate_key<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    preshared: jboolean,
    out: JByteArray<'l>,
) -> Result<jint> {
    let mut key = Zeroizing::new([0; 32]);
    let generate = if preshared { ffi::wg_keys_generate_preshared } else { ffi::wg_keys_generate_private };
    // SAFETY: there is room for a key.
    let result = unsafe { generate(key.as_mut_ptr()) };
    written(env, result, &out, &*key)
}

/// Derives the public key of a private key.
pub(crate) fn derive_public<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    key: JByteArray<'l>,
    out: JByteArray<'l>,
) -> Result<jint> {
    let key = bytes::key(env, &key)?;
    let mut public = [0; 32];
    // SAFETY: both are keys.
    let result = unsafe { ffi::wg_keys_derive_public(key.as_ptr(), public.as_mut_ptr()) };
    written(env, result, &out, &public)
}

/// Formats a key in hex or base64.
pub(crate) fn key_text<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    key: JByteArray<'l>,
    hex: jboolean,
) -> Result<JByteArray<'l>> {
    let key = bytes::key(env, &key)?;
    let mut text = Zeroizing::new([0_u8; WG_KEY_HEX_LEN]);
    let (write, len): (unsafe extern "C" fn(_, _) -> wg_result_t, _) = match hex {
        true => (ffi::wg_keys_to_hex, WG_KEY_HEX_LEN),
        false => (ffi::wg_keys_to_base64, WG_KEY_BASE64_LEN),
    };
    // SAFETY: there is room for the longer of both.
    unsafe { write(key.as_ptr(), text.as_mut_ptr().cast()) };
    // Not a string, of which a copy would be made that stays in the heap.
    env.byte_array_from_slice(text.get(..len - 1).unwrap_or_default())
}

/// Parses the text of [`key_text`].
pub(crate) fn key_from_text<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    text: JByteArray<'l>,
    hex: jboolean,
    out: JByteArray<'l>,
) -> Result<jint> {
    let Some(text) = bytes::text(env, &text)? else {
        return Ok(
            guard::<wg_result_t>(|| Err(wg_embed::error::Error::invalid("a key has a zero character in it"))) as jint
        );
    };
    let mut key = Zeroizing::new([0; 32]);
    let read = if hex { ffi::wg_keys_from_hex } else { ffi::wg_keys_from_base64 };
    // SAFETY: the text ends with a zero byte, and there is room for a key.
    let result = unsafe { read(text.as_ptr().cast(), key.as_mut_ptr()) };
    written(env, result, &out, &*key)
}

fn written(env: &Env<'_>, result: wg_result_t, out: &JByteArray<'_>, key: &[u8]) -> Result<jint> {
    if result == WG_OK {
        bytes::fill(env, out, key)?;
    }
    Ok(result as jint)
}
