//! Network interfaces of this host: the index of a name, and binding a socket to one.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;

use super::Family;
use socket2::SockRef;
use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
};

/// Returns the index of the interface of this name.
pub(super) fn index(name: &str) -> Option<u32> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return linux::index(name);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return resolved_index(name);
}

/// Returns the same as [`index`], by the system's resolver, which all systems have, as a part of the text form of an
/// address.
#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code, reason = "tests run it there"))]
fn resolved_index(name: &str) -> Option<u32> {
    let is_name = !name.is_empty() && name.len() < 64 && !name.contains(['%', '/', ':', '\0']);
    let mut found = is_name.then(|| (format!("fe80::1%{name}"), 0).to_socket_addrs().ok())??;
    found.find_map(|address| match address {
        SocketAddr::V6(address) => Some(address.scope_id()).filter(|index| *index != 0),
        SocketAddr::V4(_) => None,
    })
}

/// Binds a socket to the interface with this index; 0 unbinds it. On Windows it applies only to sending.
pub(super) fn bind(socket: &SockRef<'_>, family: Family, index: u32) -> io::Result<()> {
    check(index)?;
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    let bound = match family {
        Family::V4 => socket.bind_device_by_index_v4(std::num::NonZeroU32::new(index)),
        Family::V6 => socket.bind_device_by_index_v6(std::num::NonZeroU32::new(index)),
    };
    #[cfg(windows)]
    let bound = super::windows::set_interface(socket, family, index);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
    let bound: io::Result<()> = {
        let _ = (socket, family);
        Ok(())
    };
    bound.map_err(|err| match err.raw_os_error() {
        Some(NO_INTERFACE) => no_interface(index),
        _ => err,
    })
}

/// Refuses an interface that does not exist, on systems that accept any number; any interface, on systems that cannot
/// bind a socket to one.
pub(super) fn check(index: u32) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if index != 0 && !linux::exists(index) {
        return Err(no_interface(index));
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
    if index != 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let _ = index;
    Ok(())
}

fn no_interface(index: u32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no network interface with index {index}"))
}

/// The error on Apple's systems.
#[cfg(not(windows))]
const NO_INTERFACE: i32 = libc::ENXIO;
/// Of winsock2.h: `WSAEADDRNOTAVAIL`.
#[cfg(windows)]
const NO_INTERFACE: i32 = 10049;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_that_of_a_name_of_this_host() {
        for find in [index, resolved_index] {
            for none in ["0", "", "no-such-interface", "lo\0", "-1"] {
                assert_eq!(find(none), None, "{none}");
            }
            if cfg!(target_os = "linux") {
                assert_eq!(find("lo"), Some(1));
            }
        }
    }
}
