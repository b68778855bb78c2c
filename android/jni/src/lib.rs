//! The native methods of `com.wgembed.Native`, and with them the C library: libwg_embed_jni.so.
//!
//! They are bound by `RegisterNatives` when the library is loaded, so their names do not matter to a shrinker, and none
//! is exported. Each returns the result of the C function, a negative `wg_result_t` on failure, which Java converts to
//! an exception. A panic becomes a Java exception as well.
//!
//! | file | native methods |
//! |---|---|
//! | `tunnel` | on and off, changes, sockets, sessions |
//! | `callbacks` | none: the Java methods that the library calls |
//! | `config` | `.conf` files |
//! | `reports` | statistics, peers, counters, memory |
//! | `keys` | keys, and their texts |
//! | `log` | the log of the process, texts of failures, the version |
//! | `bytes` | none: arrays that may hold keys |
#![allow(unsafe_code)] // As in `wg-embed-ffi`: raw pointers enter here.

#[cfg(not(unix))]
compile_error!("Java passes descriptors of Unix");

mod bytes;
mod callbacks;
mod config;
mod keys;
mod log;
mod reports;
mod tunnel;

use std::ffi::c_void;

use jni::{
    JavaVM, NativeMethod, jni_str, native_method,
    sys::{self, jint},
};

use crate::{config as conf, keys::*, log::*, reports::*, tunnel::*};

/// As in `capi/`: a lack of memory is a failure of the call.
#[global_allocator]
static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();

/// The results of native methods: a failure or a panic becomes a Java exception.
type Result<T> = std::result::Result<T, jni::errors::Error>;

/// `Native.java` declares the same.
const METHODS: &[NativeMethod<'static>] = &[
    native_method! {
        static fn turn_on(
            fd: jint, conf: jbyte[], callbacks: JObject, resolve: jboolean, memory: jlong, mtu: jint, workers: jint,
            level: jint
        ) -> jint
    },
    native_method! { static fn turn_off(handle: jint, milliseconds: jint) -> jint },
    native_method! { static fn set_tun(handle: jint, fd: jint, mtu: jint) -> jint },
    native_method! { static fn update(handle: jint, before: jbyte[], now: jbyte[]) -> jint },
    native_method! { static fn network_changed(handle: jint) -> jint },
    native_method! { static fn bump_sockets(handle: jint) -> jint },
    native_method! { static fn pause(handle: jint) -> jint },
    native_method! { static fn resume(handle: jint) -> jint },
    native_method! { static fn trim(handle: jint) -> jint },
    native_method! { static fn listen_port(handle: jint) -> jint },
    native_method! { static fn force_handshake(handle: jint, key: jbyte[]) -> jint },
    native_method! { static fn drop_session(handle: jint, key: jbyte[]) -> jint },
    native_method! { static fn stats(handle: jint, out: jlong[]) -> jint },
    native_method! { static fn memory(handle: jint, out: jlong[]) -> jint },
    native_method! { static fn peers(handle: jint, out: jbyte[][]) -> jint },
    native_method! { static fn counters(handle: jint, out: jbyte[][]) -> jint },
    native_method! { static fn parse(conf: jbyte[], out: jbyte[][]) -> jint, fn = conf::parse },
    native_method! { static fn text(conf: jbyte[], out: jbyte[][]) -> jint, fn = conf::text },
    native_method! { static fn generate_key(preshared: jboolean, out: jbyte[]) -> jint },
    native_method! { static fn derive_public(key: jbyte[], out: jbyte[]) -> jint },
    native_method! { static fn key_text(key: jbyte[], hex: jboolean) -> jbyte[] },
    native_method! { static fn key_from_text(text: jbyte[], hex: jboolean, out: jbyte[]) -> jint },
    native_method! { static fn set_log(callbacks: JObject, level: jint) -> jint },
    native_method! { static fn last_error() -> JString },
    native_method! { static fn version() -> JString },
];

/// Binds the native methods. The virtual machine calls it when `System.loadLibrary` has loaded the library.
///
/// # Safety
/// `vm` is the virtual machine.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn JNI_OnLoad(vm: *mut sys::JavaVM, _: *mut c_void) -> jint {
    // SAFETY: the caller says so.
    let vm = unsafe { JavaVM::from_raw(vm) };
    let bound = vm.attach_current_thread(|env| -> Result<()> {
        let class = env.find_class(jni_str!("com/wgembed/Native"))?;
        // SAFETY: each function has the types that its signature has: the macro sees to that.
        unsafe { env.register_native_methods(&class, METHODS) }
    });
    if bound.is_ok() { sys::JNI_VERSION_1_6 } else { sys::JNI_ERR }
}
