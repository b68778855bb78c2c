//! Two sockets of one user on one port, for the moment in which one takes the other's place.

use socket2::{SockRef, Socket};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
};

/// Lets `bare`, which is not bound yet, have the port of `bound`, and every other socket of the same user; false if
/// they are of two users. With `SO_REUSEADDR` instead, every local user could take the port in that moment.
pub(in crate::bind) fn share_port(bound: &SockRef<'_>, bare: &Socket) -> io::Result<bool> {
    let same = user(bound.as_fd())? == user(bare.as_fd())?;
    if same {
        bound.set_reuse_port(true)?;
        bare.set_reuse_port(true)?;
    }
    Ok(same)
}

/// Keeps the port for this socket alone again.
pub(in crate::bind) fn stop_sharing_port(bound: &SockRef<'_>) -> io::Result<()> {
    bound.set_reuse_port(false)
}

/// The user whom the kernel takes a socket to belong to: whose it was when it was made.
fn user(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(File::from(socket.try_clone_to_owned()?).metadata()?.uid())
}
