//! The system calls that neither std nor socket2 has: ioctls of TUN and of interfaces, and rtnetlink.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// Bytes of an interface's name, with the zero at its end.
pub(super) const NAME_LEN: usize = libc::IFNAMSIZ;

/// `struct ifreq`: a name, and a union that is read by hand.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
struct IfReq {
    name: [u8; NAME_LEN],
    data: [u8; 24],
}

const _: () = assert!(mem::size_of::<IfReq>() >= mem::size_of::<libc::ifreq>());

impl IfReq {
    /// A name that is too long is an error of its own, not another name.
    fn new(name: &str) -> io::Result<Self> {
        let mut request = Self::default();
        if name.len() >= NAME_LEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }

    fn name(&self) -> String {
        let len = self.name.iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
        String::from_utf8_lossy(&self.name[..len]).into_owned()
    }

    fn set_int(&mut self, value: i32) {
        self.data[..4].copy_from_slice(&value.to_ne_bytes());
    }

    fn int(&self) -> i32 {
        i32::from_ne_bytes([self.data[0], self.data[1], self.data[2], self.data[3]])
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.data[0], self.data[1]])
    }

    /// Does an ioctl whose argument is an `ifreq`.
    fn call(&mut self, fd: impl AsFd, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the callers' requests read and write one `struct ifreq`, and `Self` is at least that.
        check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut *self) })?;
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes `fd`, which is /dev/net/tun, the interface `name`.
pub(super) fn set_interface(fd: impl AsFd, name: &str, flags: u16) -> io::Result<()> {
    let mut request = IfReq::new(name)?;
    request.data[..2].copy_from_slice(&flags.to_ne_bytes());
    request.call(fd, libc::TUNSETIFF)
}

/// The name and flags of a TUN.
pub(super) fn interface(fd: impl AsFd) -> io::Result<(String, u16)> {
    let mut request = IfReq::default();
    request.call(fd, libc::TUNGETIFF)?;
    Ok((request.name(), request.flags()))
}

/// Says which offloads the reader of a TUN can undo.
pub(super) fn set_offload(fd: impl AsFd, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number, not a pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })?;
    Ok(())
}

/// Length of a TUN's virtio-net headers.
pub(super) fn vnet_header_len(fd: impl AsFd) -> io::Result<usize> {
    let mut len: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut len) })?;
    usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The network namespace that a TUN is in. Needs CAP_NET_ADMIN there.
pub(super) fn namespace(fd: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS has no argument.
    let fd = check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNGETDEVNETNS) })?;
    // SAFETY: the ioctl opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Moves the calling thread into a network namespace.
pub(super) fn enter_namespace(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: setns(2) takes numbers.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

/// An interface's index. `socket` may be of any kind; its network namespace is asked.
pub(super) fn index(socket: impl AsFd, name: &str) -> io::Result<i32> {
    let mut request = IfReq::new(name)?;
    request.call(socket, libc::SIOCGIFINDEX as libc::Ioctl)?;
    Ok(request.int())
}

/// Whether an interface is up.
pub(super) fn is_up(socket: impl AsFd, name: &str) -> io::Result<bool> {
    let mut request = IfReq::new(name)?;
    request.call(socket, libc::SIOCGIFFLAGS as libc::Ioctl)?;
    Ok(i32::from(request.flags()) & libc::IFF_UP != 0)
}

/// An interface's MTU.
pub(super) fn mtu(socket: impl AsFd, name: &str) -> io::Result<u32> {
    let mut request = IfReq::new(name)?;
    request.call(socket, libc::SIOCGIFMTU as libc::Ioctl)?;
    Ok(request.int().unsigned_abs())
}

/// Sets an interface's MTU.
pub(super) fn set_mtu(socket: impl AsFd, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = IfReq::new(name)?;
    request.set_int(mtu.into());
    request.call(socket, libc::SIOCSIFMTU as libc::Ioctl)
}

/// A non-blocking rtnetlink socket that is told about interfaces of the calling thread's network namespace.
pub(super) fn link_socket() -> io::Result<OwnedFd> {
    const RTMGRP_LINK: u32 = 1;
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes numbers.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_ROUTE) })?;
    // SAFETY: socket(2) opened this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut address = no_address();
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = RTMGRP_LINK;
    // SAFETY: the pointer and the length are those of one `sockaddr_nl`, which lives.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t) })?;
    Ok(socket)
}

/// Receives a netlink message: its length, which may be more than there was room for, and its sender; 0 is the kernel.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut address = no_address();
    let mut address_len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: both buffers live, and their lengths are given.
    let len = unsafe {
        libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC,
            (&raw mut address).cast(),
            &raw mut address_len,
        )
    };
    match usize::try_from(len) {
        Ok(len) => Ok((len, address.nl_pid)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn no_address() -> libc::sockaddr_nl {
    // SAFETY: a C struct of numbers, for which zeros are valid.
    unsafe { mem::zeroed() }
}
