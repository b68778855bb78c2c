//! What the socket libraries do not know of Windows.
#![allow(unsafe_code)]

mod timer;

pub(super) use timer::BootTimer;

use super::Family;
use socket2::{SockRef, Socket};
use std::{
    io,
    os::windows::io::{AsRawSocket, RawSocket},
    ptr,
};
use windows_sys::Win32::Networking::WinSock::{
    IP_UNICAST_IF, IPPROTO_IP, IPPROTO_IPV6, IPV6_UNICAST_IF, SIO_UDP_CONNRESET, SIO_UDP_NETRESET, SO_EXCLUSIVEADDRUSE,
    SOCKET, SOL_SOCKET, WSAIoctl, setsockopt,
};

/// Has what is sent leave through one interface; 0 leaves it to the routes again.
pub(super) fn set_interface(socket: &SockRef<'_>, family: Family, index: u32) -> io::Result<()> {
    let (level, option, index) = match family {
        // In network order, for this one alone.
        Family::V4 => (IPPROTO_IP, IP_UNICAST_IF, index.to_be_bytes()),
        Family::V6 => (IPPROTO_IPV6, IPV6_UNICAST_IF, index.to_ne_bytes()),
    };
    set_option(socket.as_raw_socket(), level, option, index)
}

/// Keeps the port that the socket will be bound to for itself: others could have it as well if they asked for that.
pub(super) fn refuse_sharing(socket: &Socket) {
    let on = 1_u32.to_ne_bytes();
    if let Err(err) = set_option(socket.as_raw_socket(), SOL_SOCKET, SO_EXCLUSIVEADDRUSE, on) {
        tracing::debug!(%err, "others may share the port");
    }
}

/// Keeps receiving from failing for each datagram that was sent to a closed port, or that did not live long enough.
pub(super) fn ignore_unreachable(socket: &Socket) {
    for (code, name) in [(SIO_UDP_CONNRESET, "SIO_UDP_CONNRESET"), (SIO_UDP_NETRESET, "SIO_UDP_NETRESET")] {
        if let Err(err) = switch_off(socket.as_raw_socket(), code) {
            tracing::debug!(%err, name, "cannot switch off an error of receiving");
        }
    }
}

fn set_option(socket: RawSocket, level: i32, option: i32, value: [u8; 4]) -> io::Result<()> {
    // SAFETY: the value is four live bytes, and their number is given.
    match unsafe { setsockopt(socket as SOCKET, level, option, value.as_ptr(), size_of_val(&value) as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn switch_off(socket: RawSocket, code: u32) -> io::Result<()> {
    let (off, mut returned) = (0_u32, 0);
    let (input, len, output) = ((&raw const off).cast(), size_of_val(&off) as u32, ptr::null_mut());
    // SAFETY: the input is four live bytes, and their number is given; there is no room for output, and it is not
    // overlapped.
    let done =
        unsafe { WSAIoctl(socket as SOCKET, code, input, len, output, 0, &raw mut returned, ptr::null_mut(), None) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
