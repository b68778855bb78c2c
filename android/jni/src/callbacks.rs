//! The Java methods that the library calls: those of `Native.Callbacks`.
//!
//! The library's threads are attached only for the call: a thread that stays attached would have to be detached before
//! it ends, and would appear in every dump of the app's threads. An exception of a Java method is dropped here, as
//! nothing above could catch it; the Java classes catch exceptions first.

use std::{
    ffi::{CStr, c_char, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use jni::{
    Env, JavaVM, jni_sig, jni_str,
    objects::{JByteArray, JObject},
    refs::Global,
    sys::jint,
};
use wg_embed_ffi::{WG_IPV4, WG_IPV6, wg_address_t, wg_event_t, wg_result_t};

use crate::{Result, bytes};

/// A Java object with the methods of `Native.Callbacks`.
pub(crate) struct Callbacks {
    vm: JavaVM,
    object: Option<Global<JObject<'static>>>,
}

impl Callbacks {
    pub(crate) fn new(env: &Env<'_>, object: &JObject<'_>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { vm: env.get_java_vm()?, object: Some(env.new_global_ref(object)?) }))
    }

    /// Calls a method. Returns `None` if it has thrown, or the thread cannot be attached.
    fn call<T>(&self, body: impl FnOnce(&mut Env<'_>, &JObject<'static>) -> Result<T>) -> Option<T> {
        let object = self.object.as_ref()?;
        // The caller is C: a panic must not pass.
        catch_unwind(AssertUnwindSafe(|| self.vm.attach_current_thread_for_scope(|env| body(env, object)))).ok()?.ok()
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        let object = self.object.take();
        // It is given up by an attached thread, at once.
        let _: std::result::Result<Result<()>, _> = catch_unwind(AssertUnwindSafe(|| {
            self.vm.attach_current_thread_for_scope(|_| {
                drop(object);
                Ok(())
            })
        }));
    }
}

/// Returns a reference to `callbacks` as a pointer for C, for [`destroy`].
pub(crate) fn share(callbacks: &Arc<Callbacks>) -> *mut c_void {
    Arc::into_raw(Arc::clone(callbacks)).cast_mut().cast()
}

/// # Safety
/// `user` came from [`share`], and this is the only call for it.
pub(crate) unsafe extern "C" fn destroy(user: *mut c_void) {
    // SAFETY: the caller says so.
    drop(unsafe { Arc::from_raw(user.cast_const().cast::<Callbacks>()) });
}

/// # Safety
/// `user` came from [`share`], and was not destroyed.
unsafe fn shared<'a>(user: *mut c_void) -> &'a Callbacks {
    // SAFETY: the caller says so.
    unsafe { &*user.cast_const().cast() }
}

/// # Safety
/// As [`shared`].
pub(crate) unsafe extern "C" fn protect(user: *mut c_void, fd: i32, _: u32) -> i32 {
    // SAFETY: the caller's contract is the same.
    let callbacks = unsafe { shared(user) };
    let allowed =
        callbacks.call(|env, object| env.call_method(object, jni_str!("protect"), jni_sig!("(I)Z"), &[fd.into()])?.z());
    i32::from(allowed != Some(true))
}

/// # Safety
/// As [`shared`]; `event` is readable.
pub(crate) unsafe extern "C" fn event(user: *mut c_void, _: i32, event: *const wg_event_t) {
    // SAFETY: the caller's contract is the same.
    let callbacks = unsafe { shared(user) };
    // SAFETY: as above.
    let event = unsafe { &*event };
    // SAFETY: such text ends with a zero byte.
    let endpoint = unsafe { text(event.endpoint.as_ptr()) };
    // SAFETY: as above.
    let reason = unsafe { text(event.reason.as_ptr()) };
    callbacks.call(|env, object| {
        let key = env.byte_array_from_slice(&event.public_key)?;
        let endpoint = env.new_string(endpoint)?;
        let reason = env.new_string(reason)?;
        let (kind, port) = (event.kind.cast_signed(), event.listen_port.cast_signed());
        let arguments = [kind.into(), port.into(), (&key).into(), (&endpoint).into(), (&reason).into()];
        let signature = jni_sig!("(II[BLjava/lang/String;Ljava/lang/String;)V");
        env.call_method(object, jni_str!("event"), signature, &arguments)?.v()
    });
}

/// # Safety
/// As [`shared`]; `line` ends with a zero byte.
pub(crate) unsafe extern "C" fn log(user: *mut c_void, _: i32, level: i32, line: *const c_char) {
    // SAFETY: the caller's contract is the same.
    let callbacks = unsafe { shared(user) };
    // SAFETY: as above.
    let line = unsafe { text(line) };
    callbacks.call(|env, object| {
        let line = env.new_string(line)?;
        let signature = jni_sig!("(ILjava/lang/String;)V");
        env.call_method(object, jni_str!("log"), signature, &[level.into(), (&line).into()])?.v()
    });
}

/// # Safety
/// As [`shared`]; `host` ends with a zero byte, `addresses` has room for `capacity` of them, `count` is writable.
pub(crate) unsafe extern "C" fn resolve(
    user: *mut c_void,
    host: *const c_char,
    addresses: *mut wg_address_t,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the caller's contract is the same.
    let callbacks = unsafe { shared(user) };
    // SAFETY: as above.
    let host = unsafe { text(host) };
    let found = callbacks.call(|env, object| {
        let host = env.new_string(host)?;
        let signature = jni_sig!("(Ljava/lang/String;)[B");
        let array = env.call_method(object, jni_str!("resolve"), signature, &[(&host).into()])?.l()?;
        if array.is_null() {
            return Ok(None);
        }
        let array = env.cast_local::<JByteArray<'_>>(array)?;
        bytes::copy(env, &array).map(Some)
    });
    let Some(Some(found)) = found else {
        return wg_result_t::WG_ERR_NOT_FOUND as jint;
    };
    // SAFETY: there is room for as many, says the caller.
    let room = unsafe { std::slice::from_raw_parts_mut(addresses, capacity) };
    let mut written = 0;
    for (place, address) in room.iter_mut().zip(packed_addresses(&found)) {
        *place = address;
        written += 1;
    }
    // SAFETY: the caller says so.
    unsafe { count.write(written) };
    wg_result_t::WG_OK as jint
}

/// Parses addresses as packed by Java: for each the length, 4 or 16, and the bytes.
fn packed_addresses(mut bytes: &[u8]) -> impl Iterator<Item = wg_address_t> {
    std::iter::from_fn(move || {
        let (&len, rest) = bytes.split_first()?;
        let family = match len {
            4 => WG_IPV4,
            16 => WG_IPV6,
            _ => return None,
        };
        let (address, rest) = rest.split_at_checked(usize::from(len))?;
        bytes = rest;
        let mut padded = [0; 16];
        padded.iter_mut().zip(address).for_each(|(to, from)| *to = *from);
        Some(wg_address_t { family: family as u32, bytes: padded })
    })
}

/// # Safety
/// `text` ends with a zero byte, and lives as long as the copy is being made.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller says so.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unpacked_as_far_as_they_are_whole() {
        let families = |bytes: &[u8]| packed_addresses(bytes).map(|address| address.family).collect::<Vec<_>>();
        let mut both = vec![4, 192, 0, 2, 1, 16];
        both.extend([1; 16]);
        assert_eq!(families(&both), [4, 6]);
        assert_eq!(families(&both[..both.len() - 1]), [4]);
        assert!(families(&[]).is_empty());
        assert!(families(&[5, 1, 2, 3, 4, 5]).is_empty());
        let first = packed_addresses(&both).next().map(|address| address.bytes);
        assert_eq!(first, Some([192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    }
}
