//! Closes the descriptors of the caller.
#![allow(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

/// Releases the caller's directory and stdio: they are then `/` and `/dev/null`.
pub(crate) fn release_stdio() -> io::Result<()> {
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for standard in 0..=2 {
        // SAFETY: dup2(2) takes numbers. Rust's own stdio expects nothing of what is behind them.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes every descriptor except stdio and `kept`.
///
/// To be called where nothing else in this process owns a descriptor.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    if !close_between(&kept) {
        close_listed(&kept);
    }
}

/// Closes the ranges between the descriptors in `kept`, which needs no descriptor itself. Returns whether the system
/// supports this.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn close_between(kept: &[RawFd]) -> bool {
    let mut first = 3;
    let mut supported = true;
    for fd in kept.iter().map(|fd| fd.unsigned_abs()).chain([libc::c_uint::MAX]) {
        if first < fd {
            // SAFETY: close_range(2) takes numbers. Nothing in this process owns the descriptors, by the caller's
            // contract.
            supported &= unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) } == 0;
        }
        first = first.max(fd.saturating_add(1));
    }
    supported
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn close_between(_: &[RawFd]) -> bool {
    false
}

/// Closes the descriptors that the system lists, if it cannot close ranges.
fn close_listed(kept: &[RawFd]) {
    let Ok(entries) = fs::read_dir("/dev/fd") else {
        return;
    };
    let open: Vec<RawFd> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // SAFETY: nothing in this process owns it, as the caller says. The listing itself is closed already, and
        // closing a number that is not open does nothing.
        unsafe { libc::close(fd) };
    }
}
