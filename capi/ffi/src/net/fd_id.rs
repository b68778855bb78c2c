//! Which of our descriptors a number of the app stands for.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

/// An open file of the system, whatever number it has: an app may have duplicated a descriptor, or closed it, when its
/// number means something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FdId {
    device: libc::dev_t,
    inode: libc::ino_t,
}

impl FdId {
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: there is room for one `stat`.
        if unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was filled.
        let stat = unsafe { stat.assume_init() };
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::{fd::AsFd, unix::net::UnixStream};

    #[test]
    fn duplicates_are_the_same_and_no_others() {
        let (one, other) = UnixStream::pair().unwrap();
        let id = |stream: &UnixStream| FdId::of(stream.as_fd()).unwrap();
        assert_eq!(id(&one), id(&one.try_clone().unwrap()));
        assert_ne!(id(&one), id(&other));
    }
}
