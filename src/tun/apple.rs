//! Properties of Apple's own interface, `utun`, through the descriptor that apps get.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use socket2::SockRef;
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

const NAME_LEN: usize = libc::IFNAMSIZ;

/// `SIOCGIFMTU` and `SIOCSIFMTU`, which the `libc` crate lacks for these systems: `_IOWR('i', 51, struct ifreq)` and
/// `_IOW('i', 52, struct ifreq)`.
const GET_MTU: libc::c_ulong = 0xc020_6933;
const SET_MTU: libc::c_ulong = 0x8020_6934;

/// `SYSPROTO_CONTROL` and `UTUN_OPT_IFNAME`, which it has only for macOS.
const CONTROL: libc::c_int = 2;
const NAME: libc::c_int = 2;

/// `struct ifreq`: a name, and a union whose first field here is the MTU.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_LEN],
    mtu: libc::c_int,
    rest: [u8; 12],
}

// The requests contain its size.
const _: () = assert!(mem::size_of::<IfReq>() == 0x20);

/// Returns the MTU of a `utun`, `usual` if it cannot be read; `None` if the descriptor is not a `utun`.
pub(super) fn mtu(fd: impl AsFd, usual: u16) -> Option<u16> {
    let mut request = IfReq { name: name(&fd)?, mtu: 0, rest: [0; 12] };
    Some(call(GET_MTU, &mut request).ok().and_then(|()| u16::try_from(request.mtu).ok()).unwrap_or(usual))
}

/// Sets the MTU of a `utun`. Without effect for other descriptors.
///
/// # Errors
/// Errors of the system: it requires root.
pub fn set_mtu(fd: impl AsFd, mtu: u16) -> Result<()> {
    let Some(name) = name(&fd) else {
        return Ok(());
    };
    let mut request = IfReq { name, mtu: mtu.into(), rest: [0; 12] };
    call(SET_MTU, &mut request).map_err(|err| Error::io("cannot set the MTU of the utun", err))
}

/// Returns the name of the interface, padded with zeros; `None` if the descriptor is not that of a `utun`.
fn name(fd: impl AsFd) -> Option<[u8; NAME_LEN]> {
    let peer = SockRef::from(&fd).peer_addr().ok()?;
    if i32::from(peer.family()) != libc::AF_SYSTEM {
        return None;
    }
    let mut name = [0; NAME_LEN];
    let mut len = NAME_LEN as libc::socklen_t;
    let room = ptr::from_mut(&mut name).cast();
    // SAFETY: getsockopt(2) writes at most `len` bytes, and there are as many.
    let result = unsafe { libc::getsockopt(fd.as_fd().as_raw_fd(), CONTROL, NAME, room, &raw mut len) };
    (result == 0).then_some(name)
}

fn call(request: libc::c_ulong, argument: &mut IfReq) -> io::Result<()> {
    // An interface is queried through any socket except its own.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: both requests take one `struct ifreq`, and `IfReq` is one.
    match unsafe { libc::ioctl(socket.as_raw_fd(), request, ptr::from_mut(argument)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
