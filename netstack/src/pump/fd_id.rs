//! The identity of an open file.

use std::{io, os::fd::BorrowedFd};

/// An open file of the system, independent of descriptor numbers: a program may have duplicated a descriptor, or closed
/// it, so that its number has another meaning. Once the file is closed, its id may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FdId {
    /// Its type differs between systems.
    device: i128,
    inode: u64,
}

impl FdId {
    /// Returns the id of the file behind `fd`.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self { device: stat.st_dev.into(), inode: stat.st_ino })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixStream};

    use super::*;

    #[test]
    fn duplicates_are_the_same_and_no_others() {
        let (one, other) = UnixStream::pair().unwrap();
        let id = |stream: &UnixStream| FdId::of(stream.as_fd()).unwrap();
        assert_eq!(id(&one), id(&one.try_clone().unwrap()));
        assert_ne!(id(&one), id(&other));
    }
}
