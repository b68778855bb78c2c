//! Binding a socket whose file only its owner may ever connect to, asking whether a client waits, and taking turns in a
//! directory.
#![allow(unsafe_code)] // fchownat(2), flock(2), poll(2), umask(2)

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use socket2::{SockAddr, Socket};

/// For how long to wait for a turn. Those who take turns are done in no time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until no other process that asks for a turn in this directory has it; the turn ends with the value.
///
/// Any process that may read the directory can keep the turn for ever. So after a second it is not waited for any
/// longer, and `None` returned: to have it is a courtesy among daemons that start at the same moment.
pub(super) fn lock_directory(directory: &Path) -> Option<File> {
    let turn = File::open(directory).ok()?;
    let start = Instant::now();
    // SAFETY: flock(2) takes numbers.
    while unsafe { libc::flock(turn.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        if start.elapsed() >= PATIENCE {
            tracing::warn!(directory = %directory.display(), "another process keeps this directory locked");
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Some(turn)
}

/// Whether a client waits to be accepted. Unlike accept(2), this needs no free descriptor.
pub(super) fn client_waits(listener: impl AsFd) -> bool {
    poll_now(listener, libc::POLLIN) != 0
}

/// Whether the other side of a connection has closed it.
pub(super) fn has_hung_up(stream: impl AsFd) -> bool {
    poll_now(stream, 0) & libc::POLLHUP != 0
}

/// What poll(2) says of a descriptor at this moment.
fn poll_now(fd: impl AsFd, events: libc::c_short) -> libc::c_short {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: poll(2) writes to one `pollfd`, which lives; the descriptor is borrowed.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        // The call that is asked about tells the reason.
        -1 => events,
        _ => poll.revents,
    }
}

/// Changes the owner of a file if it `is_meant`. The file is held in between, so that no other can take its name.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn change_owner(
    path: &Path,
    uid: u32,
    gid: u32,
    is_meant: impl FnOnce(&std::fs::Metadata) -> bool,
) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let file = File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    if !is_meant(&file.metadata()?) {
        return Ok(());
    }
    // SAFETY: the empty path ends in a zero and lives.
    match unsafe { libc::fchownat(file.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Binds; the file's mode is 0600 from its first moment on.
///
/// Linux takes the file's mode from the socket's own, so the umask, which belongs to the whole process, is left alone.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn bind_private(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    use std::{
        fs::Permissions,
        os::{fd::OwnedFd, unix::fs::PermissionsExt},
    };

    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(address)?;
    Ok(socket)
}

/// Binds; the file's mode is 0600 from its first moment on.
///
/// This goes through the umask: files that other threads create in this moment are just as private.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn bind_private(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    use crate::sync;
    use std::sync::Mutex;

    // Or else one would put back the other's umask.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = sync::lock(&ONE_AT_A_TIME);
    // SAFETY: umask(2) takes a number and cannot fail.
    let old = unsafe { libc::umask(0o177) };
    let bound = socket.bind(address);
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    bound.map(|()| socket)
}
