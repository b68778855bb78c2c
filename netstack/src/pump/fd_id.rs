//! What a descriptor stands for.

use std::{io, os::fd::BorrowedFd};

/// An open file of the system, whatever number it has: a program may have duplicated a descriptor, or closed it, when
/// its number means something else. Once the file is closed, another one may get its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FdId {
    /// The systems disagree about its type.
    device: i128,
    inode: u64,
}

impl FdId {
    /// Returns that of `fd`.
    ///
    /// # Errors
    /// As the system says.
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
