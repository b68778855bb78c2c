//! wireguard-android's libwg-go.so for Java: the native methods of its class `com.wireguard.android.backend.GoBackend`.
//!
//! No exception comes out of them but the virtual machine's own, when it has no memory. Three of its functions are
//! called here, by their pointers: the `jni` crate, which wraps them all, made the library larger by a seventh.
#![allow(non_snake_case)] // Java's names.

use std::{
    ffi::{CStr, c_char},
    ops::Deref,
    ptr::{self, NonNull},
};

use jni_sys::{JNIEnv, JNINativeInterface__1_1, jclass, jint, jstring};

use super::go::{self, FAILED, TunFd};
use wg_embed_ffi::{leaf::guard, wg_result_t};

/// The functions of the virtual machine, those that any version has.
///
/// # Safety
/// `env` is the calling thread's, and stays so while this is used.
unsafe fn functions<'a>(env: *mut JNIEnv) -> &'a JNINativeInterface__1_1 {
    // SAFETY: the caller says so.
    let table = unsafe { *env };
    // SAFETY: that is what an environment points to.
    let table = unsafe { &*table };
    // SAFETY: each version only adds functions.
    unsafe { &table.v1_1 }
}

/// The characters of a text of Java, as UTF-8 with a zero at the end. A zero character among them, or one beyond the
/// first 65,536, is in a form that is no UTF-8.
struct Chars {
    env: *mut JNIEnv,
    text: jstring,
    chars: NonNull<c_char>,
}

impl Chars {
    /// Returns `None` for null, or if there is no memory.
    ///
    /// # Safety
    /// `env` is the calling thread's, and `text` a reference of it, or null. Both stay so while this lives.
    unsafe fn of(env: *mut JNIEnv, text: jstring) -> Option<Self> {
        if text.is_null() {
            return None;
        }
        // SAFETY: the caller's contract is the same.
        let functions = unsafe { functions(env) };
        // SAFETY: `text` is not null, and the last argument may be.
        let chars = unsafe { (functions.GetStringUTFChars)(env, text, ptr::null_mut()) };
        NonNull::new(chars.cast_mut()).map(|chars| Self { env, text, chars })
    }
}

impl Deref for Chars {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        // SAFETY: they end with a zero, and stay until they are given back.
        unsafe { CStr::from_ptr(self.chars.as_ptr()) }
    }
}

impl Drop for Chars {
    fn drop(&mut self) {
        // SAFETY: whoever made this said so.
        let functions = unsafe { functions(self.env) };
        // SAFETY: they are of this text, and are given back once.
        unsafe { (functions.ReleaseStringUTFChars)(self.env, self.text, self.chars.as_ptr()) };
    }
}

/// A text for Java; null if there is no memory.
///
/// # Safety
/// `env` is the calling thread's.
unsafe fn give(env: *mut JNIEnv, text: &CStr) -> jstring {
    // What the virtual machine expects of other characters is not UTF-8. There are none in what we have to say.
    if !text.to_bytes().is_ascii() {
        return ptr::null_mut();
    }
    // SAFETY: the caller's contract is the same.
    let functions = unsafe { functions(env) };
    // SAFETY: the text ends with a zero.
    unsafe { (functions.NewStringUTF)(env, text.as_ptr()) }
}

/// As `wgTurnOn` for C. If a text is null, it returns -1.
///
/// # Safety
/// Java calls it. Only the library uses `tun_fd` from now on.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgTurnOn(
    env: *mut JNIEnv,
    _: jclass,
    interface: jstring,
    tun_fd: jint,
    settings: jstring,
) -> jint {
    // SAFETY: the caller gives it away.
    let fd = unsafe { TunFd::new(tun_fd) };
    go::number(|| {
        // SAFETY: they are Java's, until this returns.
        let Some(interface) = (unsafe { Chars::of(env, interface) }) else {
            return Ok(FAILED);
        };
        // SAFETY: as above.
        let Some(settings) = (unsafe { Chars::of(env, settings) }) else {
            return Ok(FAILED);
        };
        Ok(go::turn_on(&interface, fd, &settings))
    })
}

/// As `wgTurnOff` for C.
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgTurnOff(_: *mut JNIEnv, _: jclass, tunnel: jint) {
    go::wgTurnOff(tunnel);
}

/// As `wgGetSocketV4` for C.
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgGetSocketV4(
    _: *mut JNIEnv,
    _: jclass,
    tunnel: jint,
) -> jint {
    go::wgGetSocketV4(tunnel)
}

/// As `wgGetSocketV6` for C.
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgGetSocketV6(
    _: *mut JNIEnv,
    _: jclass,
    tunnel: jint,
) -> jint {
    go::wgGetSocketV6(tunnel)
}

/// As `wgGetConfig` for C, for the virtual machine to free.
///
/// # Safety
/// Java calls it.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgGetConfig(
    env: *mut JNIEnv,
    _: jclass,
    tunnel: jint,
) -> jstring {
    let mut text = ptr::null_mut();
    guard::<wg_result_t>(|| {
        if let Some(config) = go::config(tunnel) {
            // SAFETY: it is Java's.
            text = unsafe { give(env, &config) };
        }
        Ok(())
    });
    text
}

/// As `wgVersion` for C, for the virtual machine to free.
///
/// # Safety
/// Java calls it.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgVersion(
    env: *mut JNIEnv,
    _: jclass,
) -> jstring {
    // SAFETY: it is Java's.
    unsafe { give(env, go::version()) }
}
