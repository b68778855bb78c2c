//! wireguard-android's libwg-go.so for Java: the native methods of its class `com.wireguard.android.backend.GoBackend`.
//!
//! No exception comes out of them but those of the virtual machine itself, when it has no memory.
#![allow(non_snake_case)] // Java's names.

use ::jni::{
    EnvUnowned, Outcome,
    errors::{Error, Result},
    objects::{JClass, JString},
    strings::JNIStr,
    sys::jint,
};

use super::android::{self, FAILED, Given};

/// What `body` comes to; `failed` if Java has refused something, or it was a bug.
fn outcome<'local, T>(
    env: &mut EnvUnowned<'local>,
    failed: T,
    body: impl FnOnce(&mut ::jni::Env<'local>) -> Result<T>,
) -> T {
    match env.with_env(body).into_outcome() {
        Outcome::Ok(value) => value,
        Outcome::Err(_) | Outcome::Panic(_) => failed,
    }
}

/// As [`wgTurnOn`](android::wgTurnOn). If a text is null, it returns -1.
///
/// # Safety
/// Nobody but the library uses `tun_fd` any more.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgTurnOn<'local>(
    mut env: EnvUnowned<'local>,
    _: JClass<'local>,
    interface: JString<'local>,
    tun_fd: jint,
    settings: JString<'local>,
) -> jint {
    // SAFETY: the caller gives it away.
    let fd = unsafe { Given::new(tun_fd) };
    outcome(&mut env, FAILED, |env| {
        // A zero character becomes two bytes that are no UTF-8, so it ends neither text, and is refused later.
        let (interface, settings) = (interface.mutf8_chars(env)?, settings.mutf8_chars(env)?);
        Ok(android::number(|| Ok(android::turn_on(interface.as_cstr(), fd, settings.as_cstr()))))
    })
}

/// As [`wgTurnOff`](android::wgTurnOff).
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgTurnOff(
    _: EnvUnowned<'_>,
    _: JClass<'_>,
    tunnel: jint,
) {
    android::wgTurnOff(tunnel);
}

/// As [`wgGetSocketV4`](android::wgGetSocketV4).
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgGetSocketV4(
    _: EnvUnowned<'_>,
    _: JClass<'_>,
    tunnel: jint,
) -> jint {
    android::wgGetSocketV4(tunnel)
}

/// As [`wgGetSocketV6`](android::wgGetSocketV6).
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgGetSocketV6(
    _: EnvUnowned<'_>,
    _: JClass<'_>,
    tunnel: jint,
) -> jint {
    android::wgGetSocketV6(tunnel)
}

/// As [`wgGetConfig`](android::wgGetConfig), for the virtual machine to free.
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgGetConfig<'local>(
    mut env: EnvUnowned<'local>,
    _: JClass<'local>,
    tunnel: jint,
) -> JString<'local> {
    outcome(&mut env, JString::null(), |env| match android::config(tunnel) {
        Some(config) => {
            let text = JNIStr::from_cstr(&config).ok_or(Error::NullPtr("the configuration is not text of Java"))?;
            JString::from_jni_str(env, text)
        }
        None => Ok(JString::null()),
    })
}

/// As [`wgVersion`](android::wgVersion), for the virtual machine to free.
#[unsafe(no_mangle)]
pub extern "system" fn Java_com_wireguard_android_backend_GoBackend_wgVersion<'local>(
    mut env: EnvUnowned<'local>,
    _: JClass<'local>,
) -> JString<'local> {
    outcome(&mut env, JString::null(), |env| {
        let text = JNIStr::from_cstr(android::version()).ok_or(Error::NullPtr("the version is not text of Java"))?;
        JString::from_jni_str(env, text)
    })
}
