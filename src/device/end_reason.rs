//! The reasons for the end of a tunnel.

use std::{fmt, io};

use crate::error::ErrorKind;

/// The reason for the end of a tunnel. Its `Display` is a text for a log, or for a user.
///
/// ```
/// use wg_embed::{EndReason, ErrorKind};
///
/// let reason = EndReason::failed(ErrorKind::Closed, "the interface was removed");
/// assert_eq!(reason.to_string(), "the interface was removed");
/// assert!(matches!(reason, EndReason::Failed { kind: ErrorKind::Closed, .. }));
/// assert_eq!(EndReason::Stopped.to_string(), "stopped");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// [`Tunnel::stop`](super::Tunnel::stop) was called, or the tunnel was dropped.
    Stopped,
    /// The tunnel was dropped by one of its own threads, for example by the function that receives its events.
    Dropped,
    /// The TUN or the bind has failed, for example because the interface was removed.
    Failed {
        /// The kind of the failure.
        kind: ErrorKind,
        /// What has failed.
        text: String,
    },
    /// A panic was caught: a bug of this library, or in a function of the app.
    Panicked,
}

impl EndReason {
    /// Creates the reason for a failure, for an app that reports the end of its own tunnels by the same type.
    #[must_use]
    pub fn failed(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self::Failed { kind, text: text.into() }
    }
}

impl From<io::Error> for EndReason {
    fn from(error: io::Error) -> Self {
        Self::failed(ErrorKind::of_io(&error), error.to_string())
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Dropped => "dropped",
            Self::Failed { text, .. } => text,
            Self::Panicked => "internal error: a panic was caught",
        })
    }
}
