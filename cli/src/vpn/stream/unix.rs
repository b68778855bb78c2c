//! Unix: two descriptors, and signals.

use std::{io, os::fd::RawFd};

use wg_embed_manager::speaker::Transport;

use crate::{inherited, signals::Signals};

/// The option and the variable for what is read from.
pub(crate) const READ: (&str, &str) = ("rpc-read-fd", "CODER_VPN_DAEMON_RPC_READ_FD");
/// Those for what is written to.
pub(crate) const WRITE: (&str, &str) = ("rpc-write-fd", "CODER_VPN_DAEMON_RPC_WRITE_FD");

/// The number of an end of a pipe.
pub(crate) type End = RawFd;

/// What such a number stands for.
pub(crate) const KIND: &str = "descriptor";

/// Returns whether a number may be one.
pub(crate) const fn is_valid(end: End) -> bool {
    end >= 0
}

/// Opens the stream. To be called once, before anything else is opened.
pub(crate) fn open(read: End, write: End) -> Result<Transport, String> {
    let (read, write) = (inherited::own("--rpc-read-fd", read)?, inherited::own("--rpc-write-fd", write)?);
    Transport::from_descriptors(read, write).map_err(|e| format!("cannot open the stream: {e}"))
}

/// Signals that end the tunnel.
pub(crate) struct Ends(Signals);

impl Ends {
    /// Blocks them, on this thread and those that it starts.
    pub(crate) fn watch() -> io::Result<Self> {
        Signals::block().map(Self)
    }

    /// Waits for a signal, and returns its name.
    pub(crate) fn wait(&self) -> io::Result<String> {
        self.0.wait().map(Into::into)
    }
}
