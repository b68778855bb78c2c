//! The lock of a log: only its holder writes the file. Readers need none.
#![cfg_attr(windows, allow(unsafe_code))]

use std::{fs::File, io};

/// A lock that is held until it is dropped, or its process ends.
pub(super) struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    /// Waits until no other open file has the lock.
    pub(super) fn wait(file: &'a File) -> io::Result<Self> {
        lock(file)?;
        Ok(Self(file))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        unlock(self.0);
    }
}

/// Elsewhere a lock is for those only that ask for it, and may be that of the file.
#[cfg(not(windows))]
fn lock(file: &File) -> io::Result<()> {
    file.lock()
}

#[cfg(not(windows))]
fn unlock(file: &File) {
    // It can only fail if the file is not locked.
    let _ = file.unlock();
}

/// On Windows a lock keeps others from reading what is locked: it is on the byte after the end.
#[cfg(windows)]
fn place() -> windows_sys::Win32::System::IO::OVERLAPPED {
    let mut place = windows_sys::Win32::System::IO::OVERLAPPED::default();
    place.Anonymous.Anonymous.Offset = super::SIZE as u32;
    place
}

#[cfg(windows)]
fn lock(file: &File) -> io::Result<()> {
    use std::os::windows::io::AsRawHandle;
    use windows_sys::Win32::Storage::FileSystem::{LOCKFILE_EXCLUSIVE_LOCK, LockFileEx};
    // SAFETY: the file is open, and not for overlapped operations: the function returns when it has the lock.
    match unsafe { LockFileEx(file.as_raw_handle(), LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, &mut place()) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(windows)]
fn unlock(file: &File) {
    use std::os::windows::io::AsRawHandle;
    use windows_sys::Win32::Storage::FileSystem::UnlockFileEx;
    // SAFETY: the file is open, and has the lock.
    unsafe { UnlockFileEx(file.as_raw_handle(), 0, 1, 0, &mut place()) };
}
