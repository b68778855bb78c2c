//! Tunnels: on and off, changes, sockets, sessions.

use std::ffi::CStr;

use jni::{
    Env,
    objects::{JByteArray, JClass, JObject},
    sys::{jboolean, jint, jlong},
};
use wg_embed::{
    config::wgquick::Conf,
    error::{Error, ErrorKind},
    key::wiped,
    uapi,
};
use wg_embed_ffi::{self as ffi, WG_FD_DUP, leaf::guard, wg_options_t, wg_resolve_system, wg_result_t};
use zeroize::Zeroizing;

use crate::{
    Result, bytes,
    callbacks::{self, Callbacks, destroy, share},
};

/// Turns a tunnel on with a `.conf` file. `fd` stays the caller's. Without `resolve` names are looked up by the system.
#[allow(clippy::too_many_arguments)] // Eight are Java's.
pub(crate) fn turn_on<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    fd: jint,
    conf: JByteArray<'l>,
    object: JObject<'l>,
    resolve: jboolean,
    memory: jlong,
    mtu: jint,
    workers: jint,
    level: jint,
) -> Result<jint> {
    let conf = bytes::copy(env, &conf)?;
    let text = match uapi_text(|| Ok(Conf::from_bytes(&conf)?.update)) {
        Ok(text) => text,
        Err(code) => return Ok(code),
    };
    let callbacks = Callbacks::new(env, &object)?;
    let mut options = wg_options_t {
        tun_fd: fd,
        fd_ownership: WG_FD_DUP as u32,
        mtu: mtu.cast_unsigned(),
        // What does not fit is beyond the largest that is allowed, and refused.
        memory_limit: usize::try_from(memory).unwrap_or(usize::MAX),
        protect: Some(callbacks::protect),
        protect_user: share(&callbacks),
        protect_destroy: Some(destroy),
        resolve: Some(wg_resolve_system),
        event: Some(callbacks::event),
        event_user: share(&callbacks),
        event_destroy: Some(destroy),
        log_level: level,
        workers: workers.cast_unsigned(),
        ..wg_options_t::default()
    };
    if resolve {
        options.resolve = Some(callbacks::resolve);
        options.resolve_user = share(&callbacks);
        options.resolve_destroy = Some(destroy);
    }
    // SAFETY: the text ends with a zero byte; each function has a share of its own, and gives it up.
    Ok(unsafe { ffi::wg_turn_on_with(&raw const options, text.as_ptr()) })
}

/// Turns a tunnel off, and waits for as long as it takes, but not longer than this; without a limit if it is negative.
pub(crate) fn turn_off<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint, milliseconds: jint) -> Result<jint> {
    let result = match u32::try_from(milliseconds) {
        Ok(milliseconds) => ffi::wg_turn_off_within(handle, milliseconds),
        Err(_) => ffi::wg_turn_off(handle),
    };
    Ok(result as jint)
}

/// Goes on with another TUN, which stays the caller's.
pub(crate) fn set_tun<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint, fd: jint, mtu: jint) -> Result<jint> {
    // SAFETY: the library works with a duplicate.
    Ok(unsafe { ffi::wg_set_tun_fd(handle, fd, WG_FD_DUP as u32, mtu.cast_unsigned()) } as jint)
}

/// Changes what is different between two `.conf` files. Sessions of peers that are in both stay.
pub(crate) fn update<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    handle: jint,
    before: JByteArray<'l>,
    now: JByteArray<'l>,
) -> Result<jint> {
    let before = bytes::copy(env, &before)?;
    let now = bytes::copy(env, &now)?;
    let text = uapi_text(|| Ok(Conf::from_bytes(&now)?.update.since(&Conf::from_bytes(&before)?.update)));
    Ok(match text {
        // SAFETY: it ends with a zero byte.
        Ok(text) => unsafe { ffi::wg_set_config(handle, text.as_ptr()) as jint },
        Err(code) => code,
    })
}

pub(crate) fn network_changed<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint) -> Result<jint> {
    Ok(ffi::wg_network_changed(handle) as jint)
}

pub(crate) fn bump_sockets<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint) -> Result<jint> {
    Ok(ffi::wg_bump_sockets(handle) as jint)
}

pub(crate) fn pause<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint) -> Result<jint> {
    Ok(ffi::wg_pause(handle) as jint)
}

pub(crate) fn resume<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint) -> Result<jint> {
    Ok(ffi::wg_resume(handle) as jint)
}

pub(crate) fn trim<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint) -> Result<jint> {
    Ok(ffi::wg_trim(handle) as jint)
}

pub(crate) fn listen_port<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jint) -> Result<jint> {
    Ok(ffi::wg_listen_port(handle))
}

/// With null for `key`, with each peer.
pub(crate) fn force_handshake<'l>(env: &mut Env<'l>, _: JClass<'l>, handle: jint, key: JByteArray<'l>) -> Result<jint> {
    // SAFETY: it is null or points to 32 bytes.
    with_peer(env, &key, |key| unsafe { ffi::wg_force_handshake(handle, key) })
}

/// With null for `key`, of all peers.
pub(crate) fn drop_session<'l>(env: &mut Env<'l>, _: JClass<'l>, handle: jint, key: JByteArray<'l>) -> Result<jint> {
    // SAFETY: it is null or points to 32 bytes.
    with_peer(env, &key, |key| unsafe { ffi::wg_drop_session(handle, key) })
}

fn with_peer(env: &Env<'_>, key: &JByteArray<'_>, call: impl FnOnce(*const u8) -> wg_result_t) -> Result<jint> {
    Ok(if key.is_null() { call(std::ptr::null()) } else { call(bytes::key(env, key)?.as_ptr()) } as jint)
}

/// The lines of a UAPI `set`, or the code of the error that prevented them. Wiped on drop.
fn uapi_text(
    update: impl FnOnce() -> wg_embed::error::Result<wg_embed::config::Update>,
) -> std::result::Result<Text, jint> {
    let mut text = None;
    let result: wg_result_t = wiped(|| {
        guard(|| {
            text = Some(Text::new(&uapi::set_text(&update()?)?)?);
            Ok(())
        })
    });
    text.ok_or(result as jint)
}

/// Text with a zero byte at its end, and with keys.
struct Text(Zeroizing<Vec<u8>>);

impl Text {
    fn new(text: &str) -> wg_embed::error::Result<Self> {
        let mut bytes = Zeroizing::new(Vec::new());
        // All at once: no copy is left behind by growing.
        bytes.try_reserve_exact(text.len().saturating_add(1))?;
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        CStr::from_bytes_with_nul(&bytes)
            .map_err(|_| Error::new(ErrorKind::Invalid, "a value has a zero byte in it"))?;
        Ok(Self(bytes))
    }

    fn as_ptr(&self) -> *const std::ffi::c_char {
        self.0.as_ptr().cast()
    }
}
