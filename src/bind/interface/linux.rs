//! Names and indices of interfaces, from the C library.
#![allow(unsafe_code)]

use std::ffi::CString;

/// Returns whether there is an interface with this index.
pub(super) fn exists(index: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: there is room for a name.
    let name = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    !name.is_null()
}

/// Returns the index of an interface.
pub(super) fn index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
