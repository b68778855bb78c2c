//! The failure of a command, and its exit code.

use std::{fmt, io, process::ExitCode};

use wg_embed::ErrorKind;

/// A result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The kinds of failures that scripts can distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A failure without its own code, or problems that were found.
    Failed = 1,
    /// The arguments are invalid.
    Usage = 2,
    /// No daemon answers for the tunnel, or a file is missing.
    NotFound = 3,
    /// The user lacks the permission.
    Permission = 4,
}

/// A failure with a message for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The attempted operation and the reason; empty if everything was printed already.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, text: text.into() }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, text: text.into() }
    }

    /// Returns a failure about which everything has been printed.
    pub(crate) fn reported() -> Self {
        Self::new("")
    }

    /// Returns a failure of the system; `context` is the attempted operation.
    pub(crate) fn io(context: impl fmt::Display, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Failed,
        };
        Self { exit, text: format!("{context}: {error}") }
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl From<wg_embed::Error> for Failure {
    fn from(error: wg_embed::Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Permission => Exit::Permission,
            _ => Exit::Failed,
        };
        Self { exit, text: error.to_string() }
    }
}
