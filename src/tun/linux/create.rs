//! Creating an interface: its name, its queues, and the errors of that.

use super::{
    IFF_MULTI_QUEUE, MAX_QUEUES,
    link::{self, Link},
    sys,
};
use crate::error::{Error, ErrorKind, Result};
use std::{
    fs::OpenOptions,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
};

const DEVICE: &str = "/dev/net/tun";
/// Refuses an interface that exists.
const IFF_TUN_EXCL: u16 = libc::IFF_TUN_EXCL as u16;
/// The number of packets that may wait in a queue of an interface that is created here: as many as may wait for
/// encryption in the kernel's WireGuard (MAX_QUEUED_PACKETS in its `messages.h`). The TUN driver's 500 overflow while a
/// program that sends small packets has the processor for a time slice.
const QUEUE_LEN: i32 = 1024;
/// The TUN driver's own number (TUN_READQ_SIZE in the kernel's `tun.c`).
const DRIVER_QUEUE_LEN: i32 = 500;

pub(super) fn check_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() >= sys::NAME_LEN {
        "is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "is a directory"
    } else if name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control()) {
        "has a '/', ':', '%', white space or control character in it"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("the interface name {name:?} {reason}")))
}

pub(super) fn check_queues(number: usize) -> Result<()> {
    if !(1..=MAX_QUEUES).contains(&number) {
        return Err(Error::invalid(format!("{number} queues: an interface has 1 to {MAX_QUEUES}")));
    }
    Ok(())
}

/// Opens the first queue of the interface `name`, which is created, or exists and is unused.
pub(super) fn open_first_queue(name: &str, flags: u16) -> Result<OwnedFd> {
    if flags & IFF_MULTI_QUEUE == 0 {
        return open_queue(name, flags);
    }
    // The kernel lets any program join an interface with several queues, and take a part of its packets.
    match open_queue(name, flags | IFF_TUN_EXCL) {
        Err(err) if err.kind() == ErrorKind::Exists => match link::is_attached(name) {
            Ok(false) => open_queue(name, flags),
            _ => Err(err),
        },
        result => result,
    }
}

/// Opens a queue of the interface `name`, which is created for the first.
pub(super) fn open_queue(name: &str, flags: u16) -> Result<OwnedFd> {
    let fd: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(|err| Error::io(format!("cannot open {DEVICE}"), err))?
        .into();
    sys::set_interface(&fd, name, flags).map_err(|err| creation_error(name, err))?;
    Ok(fd)
}

/// Makes room for more packets in the queues of an interface, unless its owner has chosen their length.
pub(super) fn lengthen_queues(link: &Link, name: &str) {
    let lengthened = match sys::queue_len(link, name) {
        Ok(DRIVER_QUEUE_LEN) => sys::set_queue_len(link, name, QUEUE_LEN),
        found => found.map(drop),
    };
    if let Err(err) = lengthened {
        tracing::debug!(%err, name, "the interface keeps the length of its queue");
    }
}

/// Returns the error for an interface that could not be created.
fn creation_error(name: &str, err: io::Error) -> Error {
    match err.raw_os_error() {
        Some(libc::EPERM) => Error::io(format!("cannot make interface {name} without CAP_NET_ADMIN"), err),
        // In use as a TUN, or there is another kind of interface with this name.
        Some(libc::EBUSY) => Error::new(ErrorKind::Exists, format!("interface {name} is in use")),
        Some(libc::EINVAL | libc::EEXIST) if Link::open(name).is_ok() => {
            Error::new(ErrorKind::Exists, format!("an interface {name} already exists"))
        }
        _ => Error::io(format!("cannot make interface {name}"), err),
    }
}
