//! What the socket libraries do not know of Windows.
#![allow(unsafe_code)]

use super::Family;
use socket2::SockRef;
use std::{io, os::windows::io::AsRawSocket};
use windows_sys::Win32::Networking::WinSock::{
    IP_UNICAST_IF, IPPROTO_IP, IPPROTO_IPV6, IPV6_UNICAST_IF, SOCKET, setsockopt,
};

/// Has what is sent leave through one interface; 0 leaves it to the routes again.
pub(super) fn tie(socket: &SockRef<'_>, family: Family, index: u32) -> io::Result<()> {
    let (level, option, index) = match family {
        // In network order, for this one alone.
        Family::V4 => (IPPROTO_IP, IP_UNICAST_IF, index.to_be_bytes()),
        Family::V6 => (IPPROTO_IPV6, IPV6_UNICAST_IF, index.to_ne_bytes()),
    };
    let (socket, len) = (socket.as_raw_socket() as SOCKET, size_of_val(&index) as i32);
    // SAFETY: the value is four live bytes, and their number is told.
    match unsafe { setsockopt(socket, level, option, index.as_ptr(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
