//! wireguard-windows' `tunnel.dll`, the library for apps that run a tunnel as a service of their own.
//!
//! The names, types and return values are the original's.
#![allow(unsafe_code)] // As in `wg-embed-ffi`: raw pointers enter here.
#![allow(non_snake_case, non_camel_case_types)] // The original's names.

use std::{ffi::OsString, os::windows::ffi::OsStringExt, path::Path};

use wg_embed::{
    error::{Error, ErrorKind},
    key::KEY_LEN,
};
use wg_embed_ffi::{
    self as ffi,
    leaf::{generate_private_or_zeros, guard},
    wg_result_t,
};
use wg_embed_windows_tunnel::service;

/// A UTF-16 unit.
///
/// cbindgen:ignore
pub type wchar_t = u16;

/// The longest path that is read, in UTF-16 units: that of Windows.
const PATH: usize = 32_767;

/// Runs the tunnel of a configuration file as a service, until it is stopped. The process must have been started by
/// the service manager for the service `WireGuardTunnel$NAME`, where NAME is the file's name without `.conf` or
/// `.conf.dpapi`. Returns 1 if the tunnel has run and was stopped, and 0 on failure: wg_last_error() of wg_embed.h then
/// returns the cause, which is also in the log, `log.bin` in the folder of the file, and in the event log.
///
/// Create the service with the type SERVICE_WIN32_OWN_PROCESS, the dependencies "Nsi" and "TcpIp", the account
/// LocalSystem, and a SID of the type SERVICE_SID_TYPE_UNRESTRICTED. wintun.dll is looked for in the folder of this
/// DLL, then of the program, then of the system.
///
/// Memory: `conf_file` is not kept.
/// Threads: call it once, on the first thread of the process.
///
/// # Safety
/// `conf_file` is NULL or ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn WireGuardTunnelService(conf_file: *const wchar_t) -> i32 {
    let result: wg_result_t = guard(|| {
        // SAFETY: the caller's contract is the same.
        let path = unsafe { text(conf_file) }?;
        service::run(Path::new(&path))
    });
    i32::from(result == wg_result_t::WG_OK)
}

/// Generates a private key and derives its public key. If a pointer is NULL, nothing is written. If the system's random
/// generator fails, both keys are all zeros, and no tunnel uses them.
///
/// Memory: writes 32 bytes to each; the caller wipes `private_key` after use.
/// Threads: any.
///
/// # Safety
/// Each is NULL or has room for 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn WireGuardGenerateKeypair(public_key: *mut u8, private_key: *mut u8) {
    if public_key.is_null() || private_key.is_null() {
        return;
    }
    // SAFETY: it is not NULL, so there is room.
    unsafe { public_key.write_bytes(0, KEY_LEN) };
    // SAFETY: the caller's contract is the same.
    if unsafe { generate_private_or_zeros(private_key) } == wg_result_t::WG_OK {
        // SAFETY: as above, and the private key was written.
        unsafe { ffi::wg_keys_derive_public(private_key, public_key) };
    }
}

/// # Safety
/// `text` is NULL or ends with a zero.
unsafe fn text(text: *const wchar_t) -> Result<OsString, Error> {
    if text.is_null() {
        return Err(Error::new(ErrorKind::Null, "conf_file is NULL"));
    }
    let mut units = Vec::new();
    // SAFETY: it ends with a zero, and each one before was not.
    while unsafe { *text.wrapping_add(units.len()) } != 0 {
        if units.len() == PATH {
            return Err(Error::new(ErrorKind::TooLarge, format!("conf_file has more than {PATH} characters")));
        }
        // SAFETY: as above.
        units.push(unsafe { *text.wrapping_add(units.len()) });
    }
    Ok(OsString::from_wide(&units))
}
