//! wireguard-android's libwg-go.so for C: what its JNI part calls, with text as Go has it.
//!
//! The names, types, return values and who owns what are the original's.
#![allow(non_snake_case, non_camel_case_types)] // Its names.

use std::{
    ffi::{CStr, c_char, c_long},
    ops::Deref,
    ptr::{self, NonNull},
};

use zeroize::Zeroizing;

use wg_embed::error::{Error, ErrorKind, Result};
use wg_embed_ffi::{
    self as ffi, WG_LOG_DEBUG,
    leaf::{guard, set_default_level},
    wg_result_t::{self, WG_OK},
};

use super::{handles::Handles, logcat::Tag};

/// The result of the original on failure, in place of a number or a descriptor.
pub(crate) const FAILED: i32 = -1;

static TUNNELS: Handles = Handles::new();

/// A Go string: `n` bytes at `str`, without a terminating zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct go_string {
    /// The first byte, or NULL if the text is empty.
    pub str: *const c_char,
    /// The number of bytes.
    pub n: c_long,
}

impl go_string {
    /// A copy, with a zero at its end; wiped when it is dropped, as it may hold keys.
    ///
    /// # Safety
    /// `str` is NULL or points to `n` readable bytes.
    unsafe fn copy(self, name: &str) -> Result<Zeroizing<Vec<u8>>> {
        let n = usize::try_from(self.n).map_err(|_| Error::invalid(format!("{name} has {} bytes", self.n)))?;
        let bytes = match (self.str.is_null(), n) {
            (_, 0) => &[],
            (true, _) => return Err(Error::new(ErrorKind::Null, format!("{name} is NULL"))),
            // SAFETY: the caller says so.
            (false, n) => unsafe { std::slice::from_raw_parts(self.str.cast::<u8>(), n) },
        };
        // All at once: no copy is left behind by growing.
        let mut copy = Zeroizing::new(Vec::new());
        copy.try_reserve_exact(n.saturating_add(1))?;
        copy.extend_from_slice(bytes);
        copy.push(0);
        Ok(copy)
    }
}

fn c_str<'a>(bytes: &'a [u8], name: &str) -> Result<&'a CStr> {
    CStr::from_bytes_with_nul(bytes).map_err(|_| Error::invalid(format!("{name} has a zero byte in it")))
}

/// A descriptor that the app has given away for good. It is closed, once, unless a tunnel has taken it over.
pub(crate) struct TunFd(i32);

impl TunFd {
    /// # Safety
    /// Nobody but us uses the descriptor from now on.
    pub(crate) const unsafe fn new(fd: i32) -> Self {
        Self(fd)
    }
}

impl Drop for TunFd {
    fn drop(&mut self) {
        // SAFETY: it was given away; if it is not open, nothing happens.
        unsafe { libc::close(self.0) };
    }
}

/// Text of the library, which is wiped when it is dropped.
pub(crate) struct Text(NonNull<c_char>);

impl Deref for Text {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        // SAFETY: it is from `wg_get_config`, and lives until it is dropped.
        unsafe { CStr::from_ptr(self.0.as_ptr()) }
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: it is from `wg_get_config`, and nobody else knows it.
        unsafe { ffi::wg_free(self.0.as_ptr().cast()) };
    }
}

/// Turns a tunnel on, and returns its number.
pub(crate) fn turn_on(interface: &CStr, fd: TunFd, settings: &CStr) -> i32 {
    set_default_level(WG_LOG_DEBUG);
    let tag = Tag::new(interface);
    let mut options = ffi::wg_options_t { tun_fd: fd.0, ..ffi::wg_options_t::default() };
    tag.log_of(&mut options);
    // SAFETY: the text ends with a zero byte, the functions are those of `Tag`, and the descriptor was given away.
    let handle = unsafe { ffi::wg_turn_on_with(&raw const options, settings.as_ptr()) };
    if handle < 0 {
        tag.failed();
        return FAILED;
    }
    // That number is closed now; the tunnel has a duplicate.
    std::mem::forget(fd);
    ffi::wg_disable_roaming(handle);
    TUNNELS.add(handle)
}

/// The configuration of a tunnel.
pub(crate) fn config(number: i32) -> Option<Text> {
    let mut text = ptr::null_mut();
    // SAFETY: there is room for one pointer.
    let result = unsafe { ffi::wg_get_config(TUNNELS.get(number)?, &raw mut text) };
    NonNull::new(text).filter(|_| result == WG_OK).map(Text)
}

/// The version of the library.
pub(crate) fn version() -> &'static CStr {
    // SAFETY: the text is constant.
    unsafe { CStr::from_ptr(ffi::wg_version_string()) }
}

/// A copy for C, which it gives to `free`.
fn give(text: &CStr) -> *mut c_char {
    // SAFETY: it ends with a zero byte.
    unsafe { libc::strdup(text.as_ptr()) }
}

/// A number of a tunnel or of a socket, or else [`FAILED`].
pub(crate) fn number(body: impl FnOnce() -> Result<i32>) -> i32 {
    guard::<i32>(body).max(FAILED)
}

/// Creates and starts a tunnel from the descriptor of Android's VpnService and the lines of a UAPI `set`. Peers with a
/// configured endpoint do not roam.
///
/// Returns its number, the lowest free one, or -1. On Android the cause is logged, like all lines of the tunnel, under
/// the tag `WireGuard/GoBackend/` with the interface's name; wg_last_error() of wg_embed.h returns it on any system.
///
/// Memory: takes ownership of `tun_fd` in any case: that number is closed when this returns. The texts are not kept.
/// Threads: any.
///
/// # Safety
/// `str` of each text is NULL or points to `n` readable bytes. Only the library uses `tun_fd` from then on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgTurnOn(interface: go_string, tun_fd: i32, settings: go_string) -> i32 {
    // SAFETY: the caller gives it away.
    let fd = unsafe { TunFd::new(tun_fd) };
    number(|| {
        // SAFETY: the caller says so.
        let interface = unsafe { interface.copy("interface") }?;
        // SAFETY: as above.
        let settings = unsafe { settings.copy("settings") }?;
        Ok(turn_on(c_str(&interface, "interface")?, fd, c_str(&settings, "settings")?))
    })
}

/// Turns a tunnel off. An unknown number is ignored.
///
/// Threads: any. It waits for the tunnel's threads.
#[unsafe(no_mangle)]
pub extern "C" fn wgTurnOff(tunnel: i32) {
    guard::<wg_result_t>(|| {
        if let Some(handle) = TUNNELS.take(tunnel) {
            ffi::wg_turn_off(handle);
        }
        Ok(())
    });
}

/// Returns the descriptor of a tunnel's IPv4 socket, for VpnService.protect(); or -1.
///
/// Memory: the descriptor is borrowed: do not close it.
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn wgGetSocketV4(tunnel: i32) -> i32 {
    number(|| Ok(TUNNELS.get(tunnel).map_or(FAILED, |handle| ffi::wg_peek_socket_fd4(handle))))
}

/// Returns the descriptor of a tunnel's IPv6 socket, as wgGetSocketV4() does for IPv4.
#[unsafe(no_mangle)]
pub extern "C" fn wgGetSocketV6(tunnel: i32) -> i32 {
    number(|| Ok(TUNNELS.get(tunnel).map_or(FAILED, |handle| ffi::wg_peek_socket_fd6(handle))))
}

/// Returns a tunnel's configuration and state, the lines of a UAPI `get` without `errno=`; or NULL. They include the
/// private key.
///
/// Memory: the caller owns the text, and frees it with free().
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn wgGetConfig(tunnel: i32) -> *mut c_char {
    let mut text = ptr::null_mut();
    guard::<wg_result_t>(|| {
        text = config(tunnel).map_or(ptr::null_mut(), |config| give(&config));
        Ok(())
    });
    text
}

/// Returns the version of wg-embed.
///
/// Memory: the caller owns the text, and frees it with free().
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn wgVersion() -> *mut c_char {
    give(version())
}
