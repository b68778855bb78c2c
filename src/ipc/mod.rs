//! The control socket through which wg(8) and other programs configure a tunnel: a socket file on Unix, a named pipe on
//! Windows.
//!
//! Who may connect is a matter of the socket file's mode, or of the pipe's security descriptor; what is said, of
//! [`uapi`], or of another [`Dialogue`]. A tunnel is served through [`uapi::Backend`], which [`Device`] and [`Tunnel`]
//! are.

#[cfg(unix)]
mod listener;
#[cfg(windows)]
mod named_pipe;
#[cfg(any(unix, windows))]
mod server;
#[cfg(unix)]
mod sys;
#[cfg(unix)]
mod unix_socket;
#[cfg(unix)]
mod watch;

#[cfg(unix)]
pub use listener::{DIRECTORY, Listener};
#[cfg(windows)]
pub use named_pipe::{DIRECTORY, Listener};
#[cfg(any(unix, windows))]
pub use server::{Dialogue, EndHook, Options, Server, Stream, Work};

#[cfg(windows)]
use named_pipe as system;
#[cfg(unix)]
use unix_socket as system;

use crate::{
    config::{Update, snapshot::Snapshot},
    device::{Device, Tunnel},
    error::Result,
    uapi,
};

impl uapi::Backend for Device {
    fn apply(&self, update: Update) -> Result<()> {
        Self::apply(self, update)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Self::snapshot(self)
    }
}

impl uapi::Backend for Tunnel {
    fn apply(&self, update: Update) -> Result<()> {
        Self::apply(self, update)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Self::snapshot(self)
    }
}
