//! System calls for the checks.
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_uint, c_ulong},
    fs::File,
    io, mem,
    net::UdpSocket,
    os::fd::AsRawFd,
};

/// `TUNGETFEATURES`: reads an `unsigned int`.
const TUNGETFEATURES: c_ulong = 0x8004_54cf;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The flags that interfaces of the TUN driver can have.
pub(super) fn tun_features(device: &File) -> io::Result<c_int> {
    let mut features: c_uint = 0;
    // SAFETY: the descriptor is open, and the call writes an `unsigned int`.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNGETFEATURES as _, &raw mut features) })?;
    c_int::try_from(features).map_err(io::Error::other)
}

/// Sets an option that is a number.
pub(super) fn set_option(socket: &UdpSocket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(mem::size_of::<c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the value lives and has this size.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) }).map(drop)
}

/// Reads an option that is a number.
pub(super) fn option(socket: &UdpSocket, level: c_int, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = libc::socklen_t::try_from(mem::size_of::<c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the value lives and has this size.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// Returns whether the clock is synchronized.
pub(super) fn clock_is_synchronized() -> io::Result<bool> {
    // SAFETY: numbers, for which zeros are a value; it then only reads.
    let mut now: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the structure lives.
    let state = check(unsafe { libc::adjtimex(&raw mut now) })?;
    Ok(state != libc::TIME_ERROR)
}
