//! Structs that grow with the library.

use std::{mem::offset_of, ptr};

use super::{
    bring::{wg_transport_t, wg_tun_callbacks_t},
    tunnel::WG_FD_TAKE,
};
use crate::error::{Error, ErrorKind, Result};

/// No struct of this library will ever be larger: a `struct_size` beyond it is garbage.
const MAX_SIZE: usize = 4096;

/// What wg_turn_on_with() may be told. Start from WG_OPTIONS_INIT, and set what should differ.
///
/// Fields are only ever appended. A program that was compiled with an older header passes a shorter struct, and gets
/// WG_OPTIONS_INIT's value for what it does not know. One that was compiled with a newer header is served as long as
/// the fields that this library does not know are zero.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_options_t {
    /// sizeof(wg_options_t), as the caller was compiled.
    pub struct_size: usize,
    /// Where packets come from and go to; see wg_turn_on().
    pub tun_fd: i32,
    /// Whose `tun_fd` is: WG_FD_TAKE or WG_FD_DUP. 0 is an error, so that nobody forgets to say.
    pub fd_ownership: u32,
    /// The MTU if `tun_fd` cannot be asked for it, or is -1: 576 to 65535, or 0 for 1420.
    pub mtu: u32,
    /// The largest number of peers: up to 16777216, or 0 for 65536. Each takes about 1 KiB.
    pub max_peers: u32,
    /// Takes and gives packets in place of `tun_fd`, which is then -1; or NULL. What it points to is not kept.
    pub tun: *const wg_tun_callbacks_t,
    /// Takes and gives datagrams in place of UDP sockets; or NULL. What it points to is not kept.
    pub transport: *const wg_transport_t,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

const _: () = {
    assert!(size_of::<wg_options_t>() == 3 * size_of::<usize>() + 16);
    assert!(offset_of!(wg_options_t, struct_size) == 0);
    assert!(offset_of!(wg_options_t, tun_fd) == size_of::<usize>());
    assert!(offset_of!(wg_options_t, fd_ownership) == size_of::<usize>() + 4);
    assert!(offset_of!(wg_options_t, mtu) == size_of::<usize>() + 8);
    assert!(offset_of!(wg_options_t, max_peers) == size_of::<usize>() + 12);
    assert!(offset_of!(wg_options_t, tun) == size_of::<usize>() + 16);
    assert!(offset_of!(wg_options_t, transport) == 2 * size_of::<usize>() + 16);
};

/// WG_OPTIONS_INIT.
impl Default for wg_options_t {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            tun_fd: -1,
            fd_ownership: WG_FD_TAKE as u32,
            mtu: 0,
            max_peers: 0,
            tun: ptr::null(),
            transport: ptr::null(),
        }
    }
}

/// A struct that begins with its size, as the caller was compiled.
///
/// # Safety
/// It is `repr(C)`, begins with a `usize`, has no padding, and any bytes are a valid value.
pub(super) unsafe trait SizedStruct: Copy + Default {}

// SAFETY: as the assertions above say; it has integers and pointers only.
unsafe impl SizedStruct for wg_options_t {}

/// Copies a caller's struct over the defaults. The second value is an error if the struct also sets what we do not know: it
/// must then be refused, but what it gives away must be given up.
///
/// # Safety
/// `theirs` is NULL or points to as many readable bytes as the `usize` at its beginning says.
pub(super) unsafe fn read_sized<T: SizedStruct>(theirs: *const T, name: &str) -> Result<(T, Result<()>)> {
    if theirs.is_null() {
        return Err(Error::new(ErrorKind::Null, format!("{name} is NULL")));
    }
    // SAFETY: it is not NULL, and begins with a `usize`; C may have put it at any address.
    let size = unsafe { theirs.cast::<usize>().read_unaligned() };
    if !(size_of::<usize>()..=MAX_SIZE).contains(&size) {
        return Err(Error::invalid(format!("{name}: struct_size is {size}")));
    }
    // SAFETY: that many bytes are readable, says the caller.
    let bytes = unsafe { std::slice::from_raw_parts(theirs.cast::<u8>(), size) };
    let known = size.min(size_of::<T>());
    let complete = match bytes[known..].iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => {
            let text = format!("{name}: a field is set that this version of the library does not know");
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    };
    let mut ours = T::default();
    // SAFETY: both have `known` bytes, and any bytes are a `T`.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut ours).cast::<u8>(), known) };
    Ok((ours, complete))
}
