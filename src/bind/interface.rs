//! Tying a socket to one network interface.

use super::Family;
use socket2::SockRef;
use std::io;

/// Ties a socket to the interface with this index; 0 unties it. Windows ties only what is sent.
pub(super) fn tie(socket: &SockRef<'_>, family: Family, index: u32) -> io::Result<()> {
    check(index)?;
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    let tied = match family {
        Family::V4 => socket.bind_device_by_index_v4(std::num::NonZeroU32::new(index)),
        Family::V6 => socket.bind_device_by_index_v6(std::num::NonZeroU32::new(index)),
    };
    #[cfg(windows)]
    let tied = super::windows::tie(socket, family, index);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
    let tied: io::Result<()> = match (socket, family, index) {
        (.., 0) => Ok(()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    tied.map_err(|err| match err.raw_os_error() {
        Some(NO_INTERFACE) => no_interface(index),
        _ => err,
    })
}

/// Refuses an interface that does not exist, where the system would take any number.
pub(super) fn check(index: u32) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if index != 0 && !super::linux::has_interface(index) {
        return Err(no_interface(index));
    }
    let _ = index;
    Ok(())
}

fn no_interface(index: u32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no network interface with index {index}"))
}

/// What Apple's systems say.
#[cfg(not(windows))]
const NO_INTERFACE: i32 = libc::ENXIO;
/// Of winsock2.h: `WSAEADDRNOTAVAIL`.
#[cfg(windows)]
const NO_INTERFACE: i32 = 10049;
