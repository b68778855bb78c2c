//! The log of the process, texts of failures, the version.

use std::{
    ffi::{CStr, c_char},
    ptr,
};

use jni::{
    Env,
    objects::{JClass, JObject, JString},
    sys::jint,
};
use wg_embed_ffi::{
    self as ffi,
    wg_log_level_t::{WG_LOG_OFF, WG_LOG_TRACE},
    wg_result_t::WG_OK,
};

use crate::{
    Result,
    callbacks::{self, Callbacks, destroy, share},
};

/// Sends the log to the `log` method of an object; null disables it.
pub(crate) fn set_log<'l>(env: &mut Env<'l>, _: JClass<'l>, object: JObject<'l>, level: jint) -> Result<jint> {
    if !(WG_LOG_OFF as jint..=WG_LOG_TRACE as jint).contains(&level) {
        return Ok(ffi::wg_set_log_level(level) as jint); // It changes nothing, and says why.
    }
    let result = if object.is_null() {
        // SAFETY: there is no function to call.
        unsafe { ffi::wg_set_log_callback(None, ptr::null_mut(), None) }
    } else {
        let callbacks = Callbacks::new(env, &object)?;
        // SAFETY: the functions are those of such a share.
        unsafe { ffi::wg_set_log_callback(Some(callbacks::log), share(&callbacks), Some(destroy)) }
    };
    // Last, as it cannot fail: either all is done or nothing.
    Ok(if result == WG_OK { ffi::wg_set_log_level(level) } else { result } as jint)
}

/// Returns the reason of this thread's last failure.
pub(crate) fn last_error<'l>(env: &mut Env<'l>, _: JClass<'l>) -> Result<JString<'l>> {
    // SAFETY: the text is this thread's, and there is no other call until it is copied.
    unsafe { text(env, ffi::wg_last_error()) }
}

/// Returns the library's version.
pub(crate) fn version<'l>(env: &mut Env<'l>, _: JClass<'l>) -> Result<JString<'l>> {
    // SAFETY: the text is constant.
    unsafe { text(env, ffi::wg_version_string()) }
}

/// # Safety
/// `text` ends with a zero byte.
unsafe fn text<'l>(env: &mut Env<'l>, text: *const c_char) -> Result<JString<'l>> {
    // SAFETY: the caller says so.
    let text = unsafe { CStr::from_ptr(text) };
    env.new_string(text.to_string_lossy())
}
