//! System calls that neither std nor socket2 has: ioctls of TUN and of interfaces, and rtnetlink.
#![allow(unsafe_code)]

use crate::{error::check, netlink};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// Bytes of an interface's name, including the final zero.
pub(super) const NAME_LEN: usize = libc::IFNAMSIZ;

/// `struct ifreq`: a name, and a union that is accessed manually.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
struct IfReq {
    name: [u8; NAME_LEN],
    data: [u8; 24],
}

const _: () = assert!(mem::size_of::<IfReq>() >= mem::size_of::<libc::ifreq>());

impl IfReq {
    /// Creates a request; a name that is too long is an error, and not truncated.
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

    /// Performs an ioctl whose argument is an `ifreq`.
    fn call(&mut self, fd: impl AsFd, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the callers' requests read and write one `struct ifreq`, and `Self` is at least that.
        check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut *self) })?;
        Ok(())
    }
}

/// Attaches `fd`, which is /dev/net/tun, to the interface `name`.
pub(super) fn set_interface(fd: impl AsFd, name: &str, flags: u16) -> io::Result<()> {
    let mut request = IfReq::new(name)?;
    request.data[..2].copy_from_slice(&flags.to_ne_bytes());
    request.call(fd, libc::TUNSETIFF)
}

/// Returns the name and flags of a TUN.
pub(super) fn interface(fd: impl AsFd) -> io::Result<(String, u16)> {
    let mut request = IfReq::default();
    request.call(fd, libc::TUNGETIFF)?;
    Ok((request.name(), request.flags()))
}

/// Sets the offloads that the reader of a TUN can undo.
pub(super) fn set_offload(fd: impl AsFd, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number, not a pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })?;
    Ok(())
}

/// Returns the length of a TUN's virtio-net headers.
pub(super) fn vnet_header_len(fd: impl AsFd) -> io::Result<usize> {
    let mut len: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut len) })?;
    usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Returns the network namespace of a TUN. Needs CAP_NET_ADMIN there.
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

/// Returns an interface's index. `socket` may be of any kind; its network namespace is queried.
pub(super) fn index(socket: impl AsFd, name: &str) -> io::Result<i32> {
    let mut request = IfReq::new(name)?;
    request.call(socket, libc::SIOCGIFINDEX as libc::Ioctl)?;
    Ok(request.int())
}

/// Returns whether an interface is up.
pub(super) fn is_up(socket: impl AsFd, name: &str) -> io::Result<bool> {
    let mut request = IfReq::new(name)?;
    request.call(socket, libc::SIOCGIFFLAGS as libc::Ioctl)?;
    Ok(i32::from(request.flags()) & libc::IFF_UP != 0)
}

/// Returns an interface's MTU.
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

/// Returns how many packets a queue of an interface holds.
pub(super) fn queue_len(socket: impl AsFd, name: &str) -> io::Result<i32> {
    let mut request = IfReq::new(name)?;
    request.call(socket, libc::SIOCGIFTXQLEN as libc::Ioctl)?;
    Ok(request.int())
}

/// Sets how many packets a queue of an interface holds.
pub(super) fn set_queue_len(socket: impl AsFd, name: &str, len: i32) -> io::Result<()> {
    let mut request = IfReq::new(name)?;
    request.set_int(len);
    request.call(socket, libc::SIOCSIFTXQLEN as libc::Ioctl)
}

/// Opens a non-blocking rtnetlink socket for messages about interfaces of the calling thread's network namespace.
pub(super) fn link_socket() -> io::Result<OwnedFd> {
    const RTMGRP_LINK: u32 = 1;
    netlink::open(RTMGRP_LINK)
}

/// Lets a netlink socket receive messages of every network namespace that has an id in its own. Needs
/// CAP_NET_BROADCAST.
pub(super) fn listen_to_all_namespaces(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of one int, which lives.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_LISTEN_ALL_NSID,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Returns the id of another network namespace in that of the calling thread; assigns one if there is none.
pub(super) fn namespace_id(namespace: impl AsFd) -> io::Result<i32> {
    const NETNSA_NSID: u16 = 1;
    const NETNSA_FD: u16 = 3;
    const CHOOSE: i32 = -1;
    let mut asker = netlink::Asker::open()?;
    let fd = namespace.as_fd().as_raw_fd();
    let request = |kind, flags, attributes: &[(u16, i32)]| {
        // `struct rtgenmsg`: the address family, which is unspecified.
        let request = netlink::Request::new(kind, flags, &[libc::AF_UNSPEC as u8]);
        let with = |request: netlink::Request, (kind, value): &(u16, i32)| request.with(*kind, &value.to_ne_bytes());
        attributes.iter().fold(request, with)
    };
    let mut answer = [0; 256];
    // It may already have one, or we may not assign one: then the request below fails.
    let attributes = [(NETNSA_NSID, CHOOSE), (NETNSA_FD, fd)];
    asker.ask(request(libc::RTM_NEWNSID, libc::NLM_F_ACK, &attributes), &mut answer)?;
    let answer = asker.ask(request(libc::RTM_GETNSID, 0, &[(NETNSA_FD, fd)]), &mut answer)?;
    // `struct rtgenmsg` with its padding, and then the first attribute, which is the id.
    let id = Some(answer)
        .filter(|message| message.kind == libc::RTM_NEWNSID)
        .and_then(|message| netlink::attributes(message.body.get(4..)?).next())
        .and_then(|(_, value)| value.first_chunk().map(|id| i32::from_ne_bytes(*id)));
    id.filter(|id| *id >= 0).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
}

/// The result of [`receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// The length, which may exceed the buffer.
    pub(super) len: usize,
    /// The sender; 0 is the kernel.
    pub(super) sender: u32,
    /// The id of the network namespace that it concerns; `None` for the socket's own.
    pub(super) namespace: Option<i32>,
}

/// Receives a netlink message.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut address = no_address();
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a C struct of numbers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = mem::size_of_val(&address) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: all that the message points to lives, and has the length that is given with it.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    let Ok(len) = usize::try_from(len) else {
        return Err(io::Error::last_os_error());
    };
    let control = &control.0[..control.0.len().min(message.msg_controllen as usize)];
    Ok(Received { len, sender: address.nl_pid, namespace: namespace_in(control) })
}

/// A buffer for control messages, which must be aligned.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Returns the namespace id in a control message; no other kind is requested.
fn namespace_in(control: &[u8]) -> Option<i32> {
    // `struct cmsghdr` of the kernel: a length, a level, a type.
    const LEVEL: usize = mem::size_of::<usize>();
    let word = |at: usize| control.get(at..)?.first_chunk().map(|b| i32::from_ne_bytes(*b));
    let is_id = word(LEVEL)? == libc::SOL_NETLINK && word(LEVEL + 4)? == libc::NETLINK_LISTEN_ALL_NSID;
    word(LEVEL + 8).filter(|_| is_id)
}

fn no_address() -> libc::sockaddr_nl {
    // SAFETY: a C struct of numbers, for which zeros are valid.
    unsafe { mem::zeroed() }
}
