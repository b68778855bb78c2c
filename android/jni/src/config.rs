//! `.conf` files.

use std::{
    ffi::{CStr, c_char},
    ptr,
};

use jni::{
    Env,
    objects::{JByteArray, JClass, JObjectArray},
    sys::jint,
};
use wg_embed::{config::wgquick::Conf, key::wiped};
use wg_embed_ffi::{
    self as ffi,
    leaf::guard,
    wg_result_t::{self, WG_OK},
};

use crate::{Result, bytes};

/// Parses a file: the lines of `wg_conf_parse` are stored in `out`, those of the tunnel first.
pub(crate) fn parse<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    conf: JByteArray<'l>,
    out: JObjectArray<'l, JByteArray<'l>>,
) -> Result<jint> {
    let conf = bytes::copy(env, &conf)?;
    let (mut uapi, mut settings) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the bytes are there, and there is room for a pointer in each.
    let result = unsafe { ffi::wg_conf_parse(conf.as_ptr().cast(), conf.len(), &raw mut uapi, &raw mut settings) };
    if result != WG_OK {
        return Ok(result as jint);
    }
    let (uapi, settings) = (Given(uapi), Given(settings));
    bytes::give(env, &out, 0, uapi.bytes())?;
    bytes::give(env, &out, 1, settings.bytes())?;
    Ok(WG_OK as jint)
}

/// Formats a file as wg-quick(8) and the WireGuard apps read it, without its comments.
pub(crate) fn text<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    conf: JByteArray<'l>,
    out: JObjectArray<'l, JByteArray<'l>>,
) -> Result<jint> {
    let conf = bytes::copy(env, &conf)?;
    let mut text = None;
    let result: wg_result_t = wiped(|| {
        guard(|| {
            text = Some(Conf::from_bytes(&conf)?.to_text()?);
            Ok(())
        })
    });
    if let Some(text) = text {
        bytes::give(env, &out, 0, text.as_bytes())?;
    }
    Ok(result as jint)
}

/// A text of the library, which is wiped when it is freed.
struct Given(*mut c_char);

impl Given {
    fn bytes(&self) -> &[u8] {
        // SAFETY: it is from `wg_conf_parse`, ends with a zero byte, and lives until it is dropped.
        unsafe { CStr::from_ptr(self.0) }.to_bytes()
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        // SAFETY: it is from `wg_conf_parse`, and given back once.
        unsafe { ffi::wg_free(self.0.cast()) };
    }
}
