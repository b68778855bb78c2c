//! Windows: two handles that this process has inherited, and Ctrl-C.
#![allow(unsafe_code)]

use std::{
    io,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    ptr,
    sync::mpsc::{self, Receiver},
};

use wg_embed_manager::speaker::Transport;
use windows_sys::Win32::{
    Foundation::{HANDLE_FLAG_INHERIT, SetHandleInformation},
    Storage::FileSystem::{FILE_TYPE_PIPE, GetFileType},
};

use crate::windows::console;

/// The option and the variable for what is read from.
pub(crate) const READ: (&str, &str) = ("rpc-read-handle", "CODER_VPN_DAEMON_RPC_READ_HANDLE");
/// Those for what is written to.
pub(crate) const WRITE: (&str, &str) = ("rpc-write-handle", "CODER_VPN_DAEMON_RPC_WRITE_HANDLE");

/// The number of an end of a pipe.
pub(crate) type End = usize;

/// What such a number stands for.
pub(crate) const KIND: &str = "handle";

/// Returns whether a number may be one.
pub(crate) const fn is_valid(end: End) -> bool {
    end != 0 && end != usize::MAX
}

/// Opens the stream. To be called once, before anything else is opened.
pub(crate) fn open(read: End, write: End) -> Result<Transport, String> {
    Ok(Transport::from_handles(own(READ.0, read)?, own(WRITE.0, write)?))
}

/// Takes ownership of a handle of the caller.
fn own(option: &str, end: End) -> Result<OwnedHandle, String> {
    let handle = ptr::with_exposed_provenance_mut(end);
    // SAFETY: it takes any number, and fails if it is not an open handle.
    if unsafe { GetFileType(handle) } != FILE_TYPE_PIPE {
        return Err(format!("--{option}={end}: not an open pipe"));
    }
    // SAFETY: it is open, and as we have opened no pipe yet, it came from the caller, and has no other owner.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    // SAFETY: the handle is open.
    match unsafe { SetHandleInformation(handle.as_raw_handle(), HANDLE_FLAG_INHERIT, 0) } {
        0 => Err(format!("--{option}={end}: {}", io::Error::last_os_error())),
        _ => Ok(handle),
    }
}

/// Events of the console that end the tunnel.
pub(crate) struct Ends(Receiver<String>);

impl Ends {
    /// Replaces Windows' own reaction, which ends the process.
    pub(crate) fn watch() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        console::watch(sender)?;
        Ok(Self(receiver))
    }

    /// Waits for an event, and returns the reason to end.
    pub(crate) fn wait(&self) -> io::Result<String> {
        self.0.recv().map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
