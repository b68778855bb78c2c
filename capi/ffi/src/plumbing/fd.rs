//! Descriptors of the app.

use std::sync::Arc;

use wg_embed::error::Result;

#[cfg(all(feature = "control", unix))]
pub(crate) use self::unix::lent;
#[cfg(unix)]
pub(crate) use self::unix::{AppFd, above_standard};
#[cfg(all(feature = "netstack", unix))]
pub(crate) use self::unix::{check_open, into_number};
#[cfg(all(feature = "netstack", windows))]
pub(crate) use self::windows::{above_standard, check_open, into_number};

/// A TUN over a descriptor of this system.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) type FdTun = wg_embed::tun::linux::LinuxTun;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
pub(crate) type FdTun = wg_embed::tun::fd::FdTun;

#[cfg(unix)]
mod unix {
    use super::{Arc, FdTun, Result};
    use std::{
        io,
        net::UdpSocket,
        os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    };
    use wg_embed::error::{Error, ErrorKind};

    /// A descriptor of the app that is being adopted. Dropping this restores the descriptor.
    #[derive(Debug)]
    pub(crate) struct AppFd {
        fd: RawFd,
        /// The status flags to restore.
        flags: Option<libc::c_int>,
    }

    impl AppFd {
        /// Checks a number from C.
        pub(crate) fn new(fd: i32) -> Result<Self> {
            match fcntl(fd, libc::F_GETFL, 0) {
                Ok(flags) => Ok(Self { fd, flags: Some(flags) }),
                Err(err) => Err(refused(fd, err)),
            }
        }

        /// A TUN over duplicates of the descriptors of its queues, which is one except on Linux.
        pub(crate) fn tun(fds: &[Self], mtu: u16) -> Result<Arc<FdTun>> {
            let duplicates = fds.iter().map(Self::duplicate).collect::<Result<Vec<_>>>()?;
            #[cfg(any(target_os = "linux", target_os = "android"))]
            let tun = FdTun::adopt_queues(duplicates, mtu);
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            let tun = duplicates.into_iter().next().ok_or_else(|| Error::invalid("there is no descriptor"));
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            let tun = tun.and_then(|duplicate| FdTun::new(duplicate, mtu));
            match fds {
                [fd] => tun.map_err(|err| fd.named(err)).map(Arc::new),
                _ => tun.map_err(|err| err.at("the descriptors of the queues")).map(Arc::new),
            }
        }

        /// Replaces a TUN's descriptor by a duplicate of this one.
        pub(crate) fn replace_in(&self, tun: &FdTun, mtu: u16) -> Result<()> {
            tun.replace(self.duplicate()?, mtu).map_err(|err| self.named(err))
        }

        fn named(&self, err: Error) -> Error {
            err.at(format_args!("descriptor {}", self.fd))
        }

        /// A socket over a duplicate of the descriptor.
        pub(crate) fn socket(&self) -> Result<UdpSocket> {
            self.duplicate().map(UdpSocket::from)
        }

        #[cfg(not(target_os = "android"))]
        pub(crate) fn set_mtu(&self, mtu: u16) -> Result<()> {
            #[cfg(target_os = "linux")]
            return wg_embed::tun::linux::set_mtu(self.duplicate()?, mtu);
            #[cfg(target_vendor = "apple")]
            return wg_embed::tun::apple::set_mtu(self.duplicate()?, mtu);
            #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
            return {
                let _ = mtu;
                Ok(())
            };
        }

        fn duplicate(&self) -> Result<OwnedFd> {
            duplicate(&self.fd).map_err(|err| refused(self.fd, err))
        }

        /// Leaves the descriptor to the app, with the flags that the duplicate needs.
        pub(crate) fn share(mut self) {
            self.flags = None;
        }

        /// Closes the descriptor.
        ///
        /// # Safety
        /// The library owns the descriptor.
        pub(crate) unsafe fn take(mut self) {
            self.flags = None;
            // SAFETY: it is open, and now ours.
            drop(unsafe { OwnedFd::from_raw_fd(self.fd) });
        }
    }

    impl Drop for AppFd {
        fn drop(&mut self) {
            // The duplicate has its flags in common with the original.
            if let Some(flags) = self.flags
                && let Err(err) = fcntl(self.fd, libc::F_SETFL, flags)
            {
                tracing::warn!(fd = self.fd, %err, "the flags of the descriptor stay changed");
            }
        }
    }

    /// A duplicate that is closed by exec(), and not below 3, as these numbers are standard streams.
    fn duplicate(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
        let duplicate = fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3)?;
        // SAFETY: it was just made, and has no other owner.
        Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
    }

    /// A descriptor of the same object that is not the standard input, output or error, which programs write to.
    pub(crate) fn above_standard<T: AsRawFd + From<OwnedFd>>(owner: T) -> io::Result<T> {
        match owner.as_raw_fd() {
            0..3 => duplicate(&owner).map(T::from),
            _ => Ok(owner),
        }
    }

    /// Borrows a number from C, if it is open.
    ///
    /// # Safety
    /// It is not closed while it is borrowed.
    #[cfg(feature = "netstack")]
    pub(crate) unsafe fn check_open<'a>(fd: i32) -> Result<std::os::fd::BorrowedFd<'a>> {
        fcntl(fd, libc::F_GETFD, 0).map_err(|err| refused(fd, err))?;
        // SAFETY: it is open, and so not -1; the caller says the rest.
        Ok(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })
    }

    /// The number of a descriptor that C gets.
    #[cfg(feature = "netstack")]
    pub(crate) fn into_number(fd: OwnedFd) -> i32 {
        std::os::fd::IntoRawFd::into_raw_fd(fd)
    }

    /// A duplicate of a descriptor of the app, whose mode stays unchanged.
    #[cfg(feature = "control")]
    pub(crate) fn lent(fd: i32) -> Result<OwnedFd> {
        duplicate(&fd).map_err(|err| refused(fd, err))
    }

    fn refused(fd: RawFd, err: io::Error) -> Error {
        match err.raw_os_error() {
            Some(libc::EBADF) => Error::invalid(format!("descriptor {fd} is not open")),
            Some(libc::EMFILE) => Error::new(ErrorKind::Resources, "there are no more file descriptors"),
            _ => Error::io(format!("cannot use descriptor {fd}"), err),
        }
    }

    fn fcntl(fd: RawFd, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: these commands take a number; a descriptor that is not open is an error.
        match unsafe { libc::fcntl(fd, command, argument) } {
            -1 => Err(io::Error::last_os_error()),
            result => Ok(result),
        }
    }
}

/// Without Unix there are no descriptors.
#[cfg(not(unix))]
#[derive(Debug)]
pub(crate) struct AppFd;

/// Any other TUN will do.
#[cfg(not(unix))]
pub(crate) type FdTun = wg_embed::tun::mem::MemTun;

#[cfg(not(unix))]
impl AppFd {
    pub(crate) fn new(_: i32) -> Result<Self> {
        let text = "nothing can be made from a file descriptor on this platform";
        Err(wg_embed::error::Error::new(wg_embed::error::ErrorKind::Unsupported, text))
    }

    pub(crate) fn tun(_: &[Self], _: u16) -> Result<Arc<FdTun>> {
        Self::new(0).map(|_| unreachable!("there is no such thing"))
    }

    pub(crate) fn replace_in(&self, _: &FdTun, _: u16) -> Result<()> {
        Self::new(0).map(drop)
    }

    pub(crate) fn socket(&self) -> Result<std::net::UdpSocket> {
        Self::new(0).map(|_| unreachable!("there is no such thing"))
    }

    pub(crate) fn share(self) {}

    /// # Safety
    /// None.
    pub(crate) unsafe fn take(self) {}
}

/// On Windows the descriptors of a userspace network are SOCKETs. Handles of Windows have 32 significant bits.
#[cfg(all(feature = "netstack", windows))]
mod windows {
    use super::Result;
    use std::{
        io,
        os::windows::io::{BorrowedSocket, IntoRawSocket, OwnedSocket, RawSocket},
    };
    use wg_embed::error::Error;

    /// There are no sockets with the numbers of standard streams.
    #[allow(clippy::unnecessary_wraps)] // As on Unix.
    pub(crate) fn above_standard<T>(owner: T) -> io::Result<T> {
        Ok(owner)
    }

    /// Borrows a number from C, if it is an open socket.
    ///
    /// # Safety
    /// It is not closed while it is borrowed.
    pub(crate) unsafe fn check_open<'a>(fd: i32) -> Result<BorrowedSocket<'a>> {
        let closed = || Error::invalid(format!("socket {fd} is not open"));
        if fd == -1 {
            return Err(closed());
        }
        // SAFETY: it is not INVALID_SOCKET. If it is not open, it is only used for the call that finds that out. The
        // caller says the rest.
        let socket = unsafe { BorrowedSocket::borrow_raw(i64::from(fd) as RawSocket) };
        socket2::SockRef::from(&socket).r#type().map_err(|_| closed())?;
        Ok(socket)
    }

    /// The number of a socket that C gets.
    pub(crate) fn into_number(socket: OwnedSocket) -> i32 {
        socket.into_raw_socket() as i32
    }
}
