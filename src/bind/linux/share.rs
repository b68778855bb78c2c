//! Sharing of a port by two sockets of one user, while one replaces the other.

use socket2::{SockRef, Socket};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
};

/// Lets `bare`, which is not yet bound, share the port of `bound`, and every other socket of the same user; false if
/// they are of two users. With `SO_REUSEADDR`, every local user could take the port at that moment.
pub(in crate::bind) fn share_port(bound: &SockRef<'_>, bare: &Socket) -> io::Result<bool> {
    let same = user(bound.as_fd())? == user(bare.as_fd())?;
    if same {
        bound.set_reuse_port(true)?;
        bare.set_reuse_port(true)?;
    }
    Ok(same)
}

/// Makes the port exclusive to this socket again.
pub(in crate::bind) fn stop_sharing_port(bound: &SockRef<'_>) -> io::Result<()> {
    bound.set_reuse_port(false)
}

/// Returns the user that the kernel considers the owner of a socket: its creator.
fn user(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(File::from(socket.try_clone_to_owned()?).metadata()?.uid())
}
