//! Unix: two descriptors, whose numbers are arguments.

use crate::speaker::Transport;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io,
    os::fd::OwnedFd,
    process::{Child, Command},
};

/// What the process reads from.
const READ: i32 = 3;
/// What it writes to.
const WRITE: i32 = 4;
/// A TUN of the manager.
pub(super) const TUN: i32 = 5;

/// The arguments that name the descriptors.
pub(super) fn arguments() -> Vec<String> {
    vec!["--rpc-read-fd".into(), READ.to_string(), "--rpc-write-fd".into(), WRITE.to_string()]
}

/// Runs the program with its ends of two pipes, and a TUN.
pub(super) fn spawn(mut command: Command, tun: Option<OwnedFd>) -> io::Result<(Transport, Child)> {
    let (their_read, our_write) = io::pipe()?;
    let (our_read, their_write) = io::pipe()?;
    let transport = Transport::from_descriptors(our_read.into(), our_write.into())?;
    let mut passed = vec![
        FdMapping { parent_fd: their_read.into(), child_fd: READ },
        FdMapping { parent_fd: their_write.into(), child_fd: WRITE },
    ];
    passed.extend(tun.map(|tun| FdMapping { parent_fd: tun, child_fd: TUN }));
    command.fd_mappings(passed).map_err(io::Error::other)?;
    let child = command.spawn()?;
    // It has our copies of the other ends: with them the stream would not end with the process.
    drop(command);
    Ok((transport, child))
}

/// Asks a process to end.
pub(super) fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended.
        let _ = kill_process(pid, Signal::TERM);
    }
}
