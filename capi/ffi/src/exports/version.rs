//! The version of the library.

use std::ffi::{CStr, c_char};

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => c"",
};

/// A part of Cargo's version.
const fn number(text: &str) -> u32 {
    let (digits, mut value, mut i) = (text.as_bytes(), 0, 0);
    while i < digits.len() {
        value = value * 10 + (digits[i] - b'0') as u32;
        i += 1;
    }
    value
}

/// 0xMMNNPP. The header's WG_VERSION_* are in cbindgen.toml; a C test holds them against this.
const NUMBER: u32 = {
    let (major, minor, patch) = (
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
        number(env!("CARGO_PKG_VERSION_PATCH")),
    );
    assert!(minor < 256 && patch < 256, "each has a byte of the number");
    major << 16 | minor << 8 | patch
};

/// Returns the library's version, like "0.1.0".
///
/// Memory: the text is static.
/// Errors: none; never NULL.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_version_string() -> *const c_char {
    VERSION.as_ptr()
}

/// Returns the library's version as 0xMMNNPP (major, minor, patch). Compare it with WG_VERSION_NUMBER to check whether
/// the library is as new as the header.
///
/// Memory: nothing changes hands.
/// Errors: none.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_version_number() -> u32 {
    NUMBER
}
