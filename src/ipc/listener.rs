//! The socket file: claiming its name, checking whether it is still the same, and removing it.

use std::{
    fmt,
    fs::{self, DirBuilder, Metadata},
    io::{self, ErrorKind::*},
    mem,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::sys;
use crate::error::{Error, ErrorKind, Result};

/// The directory in which wg(8) expects sockets.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// The maximum length of a socket's path in bytes: the system stores a zero byte behind it.
const LONGEST: usize = size_of::<libc::sockaddr_un>() - mem::offset_of!(libc::sockaddr_un, sun_path) - 1;

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The interval between two checks of a socket that may be about to change.
const PAUSE: Duration = Duration::from_millis(50);

/// The time limit for a name that changes its owner repeatedly.
const UNREST: Duration = Duration::from_secs(2);

/// A listening socket and its file. Dropping it closes the socket and removes the file, if that is still the same.
#[derive(Debug)]
pub struct Listener {
    // Fields are dropped in this order, so that a client then finds no socket rather than one that refuses it.
    file: Option<SocketFile>,
    socket: UnixListener,
}

impl Listener {
    /// Listens on `NAME.sock` in `directory`, which is created with mode 0755 if it is missing. The socket has mode
    /// 0600.
    ///
    /// An existing socket is dialled. If no process answers, it was left behind by a process that has ended, and is
    /// replaced. A process that answers gets `patience` to end: a daemon whose interface was just deleted needs a
    /// moment.
    ///
    /// # Errors
    /// `Exists` if a process listens on the name, or a file that is not a socket has it; `Invalid` if it cannot be a
    /// file name, or the path is too long for a socket; errors of the file system.
    pub fn claim(directory: &Path, name: &str, patience: Duration) -> Result<Self> {
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(Error::invalid(format!("{name:?} cannot be the name of a control socket")));
        }
        let path = directory.join(format!("{name}.sock"));
        check_length(&path)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|e| Error::io(format!("cannot make the directory {}", directory.display()), e))?;
        Self::take(&path, patience, sys::bind_private)
    }

    /// Listens on a socket with this path and mode 0600. Its directory must exist. An existing socket is handled as in
    /// [`claim`](Self::claim).
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_private(path: &Path, patience: Duration) -> Result<Self> {
        Self::take(&absolute(path)?, patience, sys::bind_private)
    }

    /// Listens on a socket with this path and the mode that results from the umask. An existing socket is replaced if
    /// no process listens on it.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_path(path: &Path) -> Result<Self> {
        Self::take(&absolute(path)?, Duration::ZERO, |socket, address| socket.bind(address).map(|()| socket))
    }

    fn take(path: &Path, patience: Duration, bind: impl Fn(Socket, &SockAddr) -> io::Result<Socket>) -> Result<Self> {
        let shown = path.display();
        let directory = path.parent().unwrap_or(path);
        let start = Instant::now();
        let mut refused_before = None;
        loop {
            match listen(path, &bind) {
                Err(e) if e.kind() == AddrInUse => {}
                Err(e) => return Err(Error::io(format!("cannot listen on {shown}"), e)),
                Ok((file, socket)) => return Ok(Self { file: Some(file), socket }),
            }
            let waited = start.elapsed();
            let refused = match probe(path)? {
                Found::Live if waited >= patience => {
                    let text = format!("{shown} is in use: another process listens on it");
                    return Err(Error::new(ErrorKind::Exists, text));
                }
                Found::Live | Found::Nothing => None,
                Found::Refusing(id) if refused_before == Some(id) => {
                    remove_stale(directory, path, id)?;
                    refused_before = None;
                    continue;
                }
                // Its owner may not have called listen(2) yet.
                Found::Refusing(id) => Some(id),
            };
            if waited >= patience + UNREST {
                return Err(Error::new(ErrorKind::Busy, format!("{shown} is used by other daemons")));
            }
            refused_before = refused;
            thread::sleep(PAUSE);
        }
    }

    /// Adopts a stream socket that another process has bound for this one, and its file, if any.
    ///
    /// # Errors
    /// `Invalid` if it is not a bound UNIX stream socket, `NotFound` if its file no longer exists.
    pub fn adopt(fd: OwnedFd) -> Result<Self> {
        let socket = Socket::from(fd);
        let unusable = |e| Error::io("the inherited control socket cannot be used", e);
        let address = socket.local_addr().map_err(unusable)?;
        if !address.is_unix() || socket.r#type().map_err(unusable)? != Type::STREAM {
            return Err(Error::invalid("the inherited control socket is not a UNIX stream socket"));
        }
        if address.is_unnamed() {
            return Err(Error::invalid("the inherited control socket is not bound"));
        }
        // It probably listens already; a second call is harmless.
        socket.listen(BACKLOG).map_err(unusable)?;
        socket.set_cloexec(true).map_err(unusable)?;
        let file = match address.as_pathname() {
            None => None,
            Some(path) => {
                let path = std::path::absolute(path).map_err(unusable)?;
                let found = SocketFile::at(&path).map_err(|e| {
                    Error::io(format!("cannot find the inherited control socket {}", path.display()), e)
                })?;
                Some(found)
            }
        };
        Ok(Self { file, socket: OwnedFd::from(socket).into() })
    }

    /// Keeps the file at the end: for a socket whose file belongs to the process that bound it, such as a service
    /// manager.
    #[must_use]
    pub fn leaving_file(mut self) -> Self {
        if let Some(file) = &mut self.file {
            file.end = End::Stay;
        }
        self
    }

    /// Calls `remove` at the end instead of removing the file: for a process that will lack the permission.
    #[must_use]
    pub fn removing_file_with(mut self, remove: impl FnOnce() -> io::Result<()> + Send + 'static) -> Self {
        if let Some(file) = &mut self.file {
            file.end = End::Call(Box::new(remove));
        }
        self
    }

    /// Returns whether this value removes a file at the end.
    #[must_use]
    pub fn removes_file(&self) -> bool {
        self.file.as_ref().is_some_and(|file| matches!(file.end, End::Remove))
    }

    /// Removes the file, if it is still the same.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn remove_file(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), SocketFile::remove)
    }

    /// Changes the owner of the file, if it is still the same.
    ///
    /// # Errors
    /// Errors of the file system.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn give_file_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        self.file
            .as_ref()
            .map_or(Ok(()), |file| sys::change_owner(&file.path, uid, gid, |found| FileId::of(found) == file.id))
    }

    /// Returns the path of the socket's file; `None` without a file, as in Linux' abstract namespace.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// Returns whether the file was removed, moved or replaced, or can no longer be accessed.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.file.as_ref().is_some_and(|file| !file.is_ours())
    }

    /// Returns the listening socket.
    #[must_use]
    pub const fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

/// Distinguishes a file from another one that later has its name or its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    /// Populated if the file system provides it.
    born: Option<SystemTime>,
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() }
    }
}

/// A socket's file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: FileId,
    end: End,
}

/// The treatment of a file when its [`SocketFile`] is dropped.
enum End {
    /// Removes it, if it is still the same.
    Remove,
    Stay,
    /// Calls the function, which removes it.
    Call(Box<dyn FnOnce() -> io::Result<()> + Send>),
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remove => "Remove",
            Self::Stay => "Stay",
            Self::Call(_) => "Call",
        })
    }
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { id: FileId::of(&fs::symlink_metadata(path)?), path: path.into(), end: End::Remove })
    }

    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|now| FileId::of(&now) == self.id)
    }

    fn remove(&self) -> io::Result<()> {
        if self.is_ours() { remove(&self.path) } else { Ok(()) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let outcome = match mem::replace(&mut self.end, End::Stay) {
            End::Remove => self.remove(),
            End::Stay => Ok(()),
            End::Call(remove) => remove(),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
    }
}

/// Returns the absolute path of a socket.
fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)
        .map_err(|e| Error::io(format!("cannot make the path {} absolute", path.display()), e))?;
    check_length(&path)?;
    Ok(path)
}

fn check_length(path: &Path) -> Result<()> {
    if path.as_os_str().len() > LONGEST {
        return Err(Error::invalid(format!("the socket's path {} is longer than {LONGEST} bytes", path.display())));
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == NotFound => Ok(()),
        other => other,
    }
}

/// Removes a socket on which no process listens, unless another process has just replaced it for the same reason.
fn remove_stale(directory: &Path, path: &Path, id: FileId) -> Result<()> {
    let _turn = sys::lock_directory(directory);
    if matches!(probe(path)?, Found::Refusing(now) if now == id) {
        tracing::debug!(path = %path.display(), "no process listens on this socket any more: replacing it");
        remove(path).map_err(|e| Error::io(format!("cannot remove the stale socket {}", path.display()), e))?;
    }
    Ok(())
}

fn listen(
    path: &Path,
    bind: impl Fn(Socket, &SockAddr) -> io::Result<Socket>,
) -> io::Result<(SocketFile, UnixListener)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let socket = bind(socket, &SockAddr::unix(path)?)?;
    let file = SocketFile::at(path)?;
    socket.listen(BACKLOG)?;
    Ok((file, OwnedFd::from(socket).into()))
}

/// The present owner of the name.
enum Found {
    Nothing,
    /// A socket on which a process listens.
    Live,
    /// A socket that refuses connections.
    Refusing(FileId),
}

fn probe(path: &Path) -> Result<Found> {
    let cannot = |e| Error::io(format!("cannot check the owner of {}", path.display()), e);
    let metadata = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == NotFound => return Ok(Found::Nothing),
        other => other.map_err(cannot)?,
    };
    if !metadata.file_type().is_socket() {
        let text = format!("{} is there, but is not a socket; it was left alone", path.display());
        return Err(Error::new(ErrorKind::Exists, text));
    }
    let dialled = SockAddr::unix(path).and_then(|address| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A listener with a full backlog would block.
        socket.set_nonblocking(true)?;
        socket.connect(&address)
    });
    match dialled.map_err(|e| (e.kind(), e)) {
        Ok(()) | Err((WouldBlock, _)) => Ok(Found::Live),
        Err((ConnectionRefused, _)) => Ok(Found::Refusing(FileId::of(&metadata))),
        Err((NotFound, _)) => Ok(Found::Nothing),
        Err((_, e)) => Err(cannot(e)),
    }
}
