//! Structs that grow with the library.

use std::{ffi::c_void, mem::offset_of, ptr};

use super::{
    bring::{wg_transport_t, wg_tun_callbacks_t},
    callback::wg_destroy_fn_t,
    fd::WG_FD_TAKE,
    protect::wg_protect_fn_t,
    resolve::wg_resolve_fn_t,
};
use wg_embed::error::{Error, ErrorKind, Result};

/// No struct of this library will ever be larger: a `struct_size` beyond it is garbage.
const MAX_SIZE: usize = 4096;

/// What wg_turn_on_with() may be told. Start from WG_OPTIONS_INIT, and set what should differ.
///
/// Fields are only ever appended. A program that was compiled with an older header passes a shorter struct, and gets
/// WG_OPTIONS_INIT's value for the fields that it does not have. A program that was compiled with a newer header is served
/// as long as the fields that this library does not have are zero, up to a `struct_size` of 4096. A `struct_size` that no
/// released header has, such as one below that of 0.1.0, is WG_ERR_INVALID.
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
    /// Bytes that packets may take while they pass through or wait for a session: WG_MEMORY_MIN to WG_MEMORY_MAX, or 0 for
    /// 4 MiB; with `tun` or `transport` 128 KiB more at least for each. At the limit the
    /// peer that holds most makes room for one that holds less, else packets are dropped, and counted ("out_memory_full"); one
    /// packet of each peer may wait all the same. Peers come on top: about 1 KiB each, and 3
    /// KiB more while there are sessions. wg_memory_usage() tells what is taken.
    pub memory_limit: usize,
    /// Is shown each UDP socket before its first byte, when the tunnel is turned on and whenever its sockets are renewed;
    /// or NULL. If it refuses, nothing is sent: wg_turn_on_with() fails, and later on the old sockets stay, or none, and
    /// it is tried again as in wg_bump_sockets(). It may then be called on the tunnel's own threads.
    pub protect: wg_protect_fn_t,
    /// For `protect`.
    pub protect_user: *mut c_void,
    /// Gives up `protect_user`; or NULL. It follows the rules of wg_protect_fn_t.
    pub protect_destroy: wg_destroy_fn_t,
    /// Looks up host names; then the endpoint of a peer may be one: "endpoint=vpn.example.com:51820". The name is kept until
    /// another endpoint is configured; wg_get_config() shows the address that is used. It is looked up at once, again
    /// after wg_network_changed(), and when a handshake was given up; if that fails, again as long as something is to be
    /// sent there. With it, peers at IPv4 addresses are also reached in networks that have only IPv6 and NAT64.
    /// wg_resolve_system for the system's own resolver. NULL if endpoints are addresses only.
    pub resolve: wg_resolve_fn_t,
    /// For `resolve`.
    pub resolve_user: *mut c_void,
    /// Gives up `resolve_user`; or NULL. When, says wg_turn_on_with(). It follows the rules of wg_resolve_fn_t.
    pub resolve_destroy: wg_destroy_fn_t,
    /// Takes and gives packets in place of `tun_fd`, which is then -1; or NULL. What it points to is not kept.
    pub tun: *const wg_tun_callbacks_t,
    /// Takes and gives datagrams in place of UDP sockets; or NULL. What it points to is not kept.
    pub transport: *const wg_transport_t,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_options_t>() == 10 * POINTER + 16);
    assert!(offset_of!(wg_options_t, struct_size) == 0);
    assert!(offset_of!(wg_options_t, tun_fd) == POINTER);
    assert!(offset_of!(wg_options_t, fd_ownership) == POINTER + 4);
    assert!(offset_of!(wg_options_t, mtu) == POINTER + 8);
    assert!(offset_of!(wg_options_t, max_peers) == POINTER + 12);
    assert!(offset_of!(wg_options_t, memory_limit) == POINTER + 16);
    assert!(offset_of!(wg_options_t, protect) == 2 * POINTER + 16);
    assert!(offset_of!(wg_options_t, protect_user) == 3 * POINTER + 16);
    assert!(offset_of!(wg_options_t, protect_destroy) == 4 * POINTER + 16);
    assert!(offset_of!(wg_options_t, resolve) == 5 * POINTER + 16);
    assert!(offset_of!(wg_options_t, resolve_user) == 6 * POINTER + 16);
    assert!(offset_of!(wg_options_t, resolve_destroy) == 7 * POINTER + 16);
    assert!(offset_of!(wg_options_t, tun) == 8 * POINTER + 16);
    assert!(offset_of!(wg_options_t, transport) == 9 * POINTER + 16);
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
            memory_limit: 0,
            protect: None,
            protect_user: ptr::null_mut(),
            protect_destroy: None,
            resolve: None,
            resolve_user: ptr::null_mut(),
            resolve_destroy: None,
            tun: ptr::null(),
            transport: ptr::null(),
        }
    }
}

/// A struct that begins with its size, as the caller was compiled.
///
/// # Safety
/// It is `repr(C)`, begins with a `usize`, has no padding, and any bytes are a valid value; but for functions, of which
/// whoever fills it says that they are ones, or NULL.
pub(super) unsafe trait SizedStruct: Copy {
    /// Its sizes in released headers, that of 0.1.0 first and that of this version last. Where fields are appended after a
    /// release, so is a size here: any other number below the last would cut a field, or drop one in silence.
    const SIZES: &'static [usize];
}

// SAFETY: as the assertions above say; it has integers and pointers only, those to functions may be NULL.
unsafe impl SizedStruct for wg_options_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// The size of a caller's struct, as the caller was compiled.
///
/// # Safety
/// `theirs` is NULL or points to as many readable bytes as the `usize` at its beginning says.
pub(super) unsafe fn struct_size<T: SizedStruct>(theirs: *const T, name: &str) -> Result<usize> {
    if theirs.is_null() {
        return Err(Error::new(ErrorKind::Null, format!("{name} is NULL")));
    }
    // SAFETY: it is not NULL, and begins with a `usize`; C may have put it at any address.
    let size = unsafe { theirs.cast::<usize>().read_unaligned() };
    let newer = size_of::<T>()..=MAX_SIZE;
    if !newer.contains(&size) && !T::SIZES.contains(&size) {
        return Err(Error::invalid(format!("{name}: struct_size is {size}")));
    }
    Ok(size)
}

/// Copies our struct over the caller's, which is `size` bytes long: as much of it as there is room for. What is left of the
/// caller's becomes zero.
///
/// # Safety
/// `theirs` points to `size` writable bytes.
pub(super) unsafe fn write_sized<T: SizedStruct>(ours: &T, theirs: *mut T, size: usize) {
    let known = size.min(size_of::<T>());
    // SAFETY: both have `known` bytes, those of ours are initialized, as there is no padding, and they do not overlap, as
    // ours is not the caller's.
    unsafe { ptr::copy_nonoverlapping(ptr::from_ref(ours).cast::<u8>(), theirs.cast::<u8>(), known) };
    // SAFETY: within the `size` bytes, or at their end.
    let rest = unsafe { theirs.cast::<u8>().add(known) };
    // SAFETY: the bytes up to `size` are writable, says the caller.
    unsafe { ptr::write_bytes(rest, 0, size - known) };
}

/// Copies a caller's struct over the defaults. The second value is an error if the struct also sets what we do not know: it
/// must then be refused, but what it gives away must be given up.
///
/// # Safety
/// `theirs` is NULL or points to as many readable bytes as the `usize` at its beginning says. Functions in there are NULL or
/// functions of their types.
pub(super) unsafe fn read_sized<T: SizedStruct + Default>(theirs: *const T, name: &str) -> Result<(T, Result<()>)> {
    // SAFETY: the caller's contract is the same.
    let size = unsafe { struct_size(theirs, name) }?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A struct that has grown twice.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        struct_size: usize,
        first: usize,
        second: usize,
        third: usize,
    }

    const WORD: usize = size_of::<usize>();
    const DEFAULT: Grown = Grown { struct_size: 4 * WORD, first: 1, second: 2, third: 3 };

    impl Default for Grown {
        fn default() -> Self {
            DEFAULT
        }
    }

    // SAFETY: four integers of one size.
    unsafe impl SizedStruct for Grown {
        const SIZES: &'static [usize] = &[2 * WORD, 3 * WORD, 4 * WORD];
    }

    /// What becomes of a struct of this size, in which all is 7, and then `tail`.
    fn read(size: usize, tail: u8) -> Result<(Grown, Result<()>)> {
        let mut words = [7; MAX_SIZE / WORD + 1];
        words[0] = size;
        // SAFETY: the words are initialized, and any bytes are words.
        let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(&words)) };
        bytes[4 * WORD..].fill(tail);
        // SAFETY: as many bytes are readable as any size that is taken.
        unsafe { read_sized(words.as_ptr().cast::<Grown>(), "it") }
    }

    #[test]
    fn sizes_of_released_headers_and_larger_ones_are_taken_and_no_others() {
        for size in 0..=MAX_SIZE + WORD {
            let is_size = [2 * WORD, 3 * WORD].contains(&size) || (4 * WORD..=MAX_SIZE).contains(&size);
            match read(size, 0) {
                Ok(_) => assert!(is_size, "{size} was taken"),
                Err(err) => {
                    assert!(!is_size, "{size} was refused");
                    assert_eq!(
                        (err.kind(), err.to_string()),
                        (ErrorKind::Invalid, format!("it: struct_size is {size}"))
                    );
                }
            }
        }
    }

    #[test]
    fn an_older_caller_gets_the_defaults_of_what_it_does_not_have() {
        let (old, complete) = read(2 * WORD, 9).unwrap();
        assert_eq!(old, Grown { struct_size: 2 * WORD, first: 7, ..DEFAULT });
        complete.unwrap();
        let (old, complete) = read(3 * WORD, 9).unwrap();
        assert_eq!(old, Grown { struct_size: 3 * WORD, first: 7, second: 7, ..DEFAULT });
        complete.unwrap();
    }

    #[test]
    fn a_newer_caller_must_not_set_what_is_not_known_here() {
        let (new, complete) = read(4 * WORD + 1, 0).unwrap();
        assert_eq!(new, Grown { struct_size: 4 * WORD + 1, first: 7, second: 7, third: 7 });
        complete.unwrap();
        for size in [4 * WORD + 1, MAX_SIZE] {
            assert_eq!(read(size, 1).unwrap().1.unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}
