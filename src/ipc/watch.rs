//! Watches a file for changes: by inotify on Linux, by periodic checks elsewhere, and if a user has no inotify instance
//! or watch left.
//!
//! Both only report when to check. The owner of the file determines the change.
#![allow(unsafe_code)]

pub(super) use imp::Watch;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod imp {
    use crate::error::check;
    use std::{
        ffi::CString,
        io,
        os::{
            fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
            unix::ffi::OsStrExt,
        },
        path::Path,
        time::Duration,
    };

    /// The size of a buffer for several events: those of a directly watched file have no name.
    const BUFFER: usize = 1024;

    /// The interval between two checks of a file that cannot be watched. Each is a wake-up.
    const LOOK: Duration = Duration::from_secs(10);

    /// A file that is watched, or else checked periodically.
    #[derive(Debug)]
    pub(crate) struct Watch(Option<OwnedFd>);

    impl Watch {
        /// Watches the file that has this name now.
        pub(crate) fn new(path: &Path) -> Self {
            let watch = Self::inotify(path);
            if let Err(error) = &watch {
                let (path, seconds) = (path.display(), LOOK.as_secs());
                tracing::warn!(%error, %path, seconds, "cannot watch the control socket: looking at it now and then");
            }
            Self(watch.ok())
        }

        /// Returns the interval of checks without a report.
        pub(crate) fn interval(&self) -> Option<Duration> {
            self.0.is_none().then_some(LOOK)
        }

        fn inotify(path: &Path) -> io::Result<OwnedFd> {
            // An open socket keeps its inode: the removal of its last name is reported as a change of attributes.
            const EVENTS: u32 = libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF | libc::IN_DONT_FOLLOW;
            let path = CString::new(path.as_os_str().as_bytes())?;
            // SAFETY: inotify_init1(2) takes a number.
            let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
            // SAFETY: inotify_init1(2) opened this descriptor for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: the text ends in a zero and lives.
            check(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), EVENTS) })?;
            Ok(fd)
        }

        /// Returns a descriptor that becomes readable when it is time to check.
        pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
            self.0.as_ref().map(AsFd::as_fd)
        }

        /// Consumes all reports so far. Call it before a check.
        pub(crate) fn drain(&self) {
            let Some(fd) = &self.0 else {
                return;
            };
            let mut buffer = [0_u8; BUFFER];
            // SAFETY: the buffer lives, and its length is given. The descriptor does not block.
            while unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), BUFFER) } > 0 {}
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod imp {
    use std::{os::fd::BorrowedFd, path::Path, time::Duration};

    /// A watched file.
    #[derive(Debug)]
    pub(crate) struct Watch;

    impl Watch {
        /// Watches the file that has this name now.
        pub(crate) fn new(_: &Path) -> Self {
            Self
        }

        /// Returns the interval of checks without a report.
        #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "elsewhere it depends")]
        pub(crate) fn interval(&self) -> Option<Duration> {
            Some(Duration::from_secs(1))
        }

        /// Returns a descriptor that becomes readable when it is time to check.
        #[allow(clippy::unused_self, reason = "elsewhere there is one")]
        pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        /// Consumes all reports so far. Call it before a check.
        #[allow(clippy::unused_self, reason = "elsewhere there is something to take")]
        pub(crate) fn drain(&self) {}
    }
}
