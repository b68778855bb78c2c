//! Binding a socket that only its owner can ever connect to, checking for a waiting client, and taking turns in a
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

/// The time limit for a turn, which normally takes no time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until no other process has the turn in this directory; the turn ends when the value is dropped.
///
/// Any process that can read the directory could keep the turn forever. Therefore `None` is returned after a second:
/// the turn is a courtesy among daemons that start at the same moment.
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

/// Returns whether a client waits to be accepted. Unlike accept(2), this needs no free descriptor.
pub(super) fn client_waits(listener: impl AsFd) -> bool {
    poll_now(listener, libc::POLLIN) != 0
}

/// Returns whether the other side of a connection has closed it.
pub(super) fn has_hung_up(stream: impl AsFd) -> bool {
    poll_now(stream, 0) & libc::POLLHUP != 0
}

/// Returns the present events of a descriptor, by poll(2).
fn poll_now(fd: impl AsFd, events: libc::c_short) -> libc::c_short {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: poll(2) writes to one `pollfd`, which lives; the descriptor is borrowed.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        // The following call on the descriptor returns the reason.
        -1 => events,
        _ => poll.revents,
    }
}

/// Changes the owner of a file if it `is_meant`. The file is kept open in between, so that no other file can be
/// changed.
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

/// Binds a socket whose file has mode 0600 from the beginning.
///
/// Linux derives the file's mode from that of the socket, so the umask, which belongs to the whole process, is not
/// used.
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

/// Binds a socket whose file has mode 0600 from the beginning.
///
/// This changes the umask for a moment: files that other threads create at the time are private as well.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn bind_private(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    use crate::sync;
    use std::sync::Mutex;

    // Otherwise one thread would restore the umask of another.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = sync::lock(&ONE_AT_A_TIME);
    // SAFETY: umask(2) takes a number and cannot fail.
    let old = unsafe { libc::umask(0o177) };
    let bound = socket.bind(address);
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    bound.map(|()| socket)
}
