//! Windows: two handles, whose numbers are in the environment.
#![allow(unsafe_code, reason = "it calls the system")]

use crate::speaker::Transport;
use std::{
    io,
    os::windows::io::{AsRawHandle, OwnedHandle},
    process::{Child, Command},
    sync::Mutex,
};
use wg_embed::sync::lock;
use windows_sys::Win32::Foundation::{HANDLE_FLAG_INHERIT, SetHandleInformation};

/// What the process reads from, as a decimal number.
const READ: &str = "CODER_VPN_DAEMON_RPC_READ_HANDLE";
/// What it writes to.
const WRITE: &str = "CODER_VPN_DAEMON_RPC_WRITE_HANDLE";

/// The handles are not in the arguments.
pub(super) fn arguments() -> Vec<String> {
    Vec::new()
}

/// Runs the program with its ends of two pipes.
///
/// Windows passes all handles that can be inherited to each process that is started meanwhile: none of ours is, but one
/// that another part of the program starts at that moment would keep the stream open for as long as it runs.
pub(super) fn spawn(mut command: Command) -> io::Result<(Transport, Child)> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    let (their_read, our_write) = io::pipe()?;
    let (our_read, their_write) = io::pipe()?;
    let (their_read, their_write) = (OwnedHandle::from(their_read), OwnedHandle::from(their_write));
    for (name, handle) in [(READ, &their_read), (WRITE, &their_write)] {
        command.env(name, handle.as_raw_handle().addr().to_string());
    }
    let turn = lock(&ONE_AT_A_TIME);
    for handle in [&their_read, &their_write] {
        // SAFETY: the handle is open.
        if unsafe { SetHandleInformation(handle.as_raw_handle(), HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) } == 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let child = command.spawn()?;
    // With these the stream would not end with the process.
    drop((their_read, their_write));
    drop(turn);
    Ok((Transport::from_handles(our_read.into(), our_write.into()), child))
}

/// A process cannot be asked to end.
pub(super) const fn terminate(_: &Child) {}
