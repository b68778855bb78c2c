//! The control socket through which wg(8) and other programs configure a tunnel: a socket file on Unix, a named pipe on
//! Windows.
//!
//! The mode of the socket's file, or the security descriptor of the pipe, determines who may connect; the protocol is
//! [`uapi`], or another [`Dialogue`]. A tunnel is served through [`uapi::Backend`], which [`Device`] and [`Tunnel`]
//! implement.

#[cfg(unix)]
mod listener;
#[cfg(windows)]
mod named_pipe;
#[cfg(all(test, any(unix, windows)))]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod recorder;
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
