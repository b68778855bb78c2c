//! The text protocol of `wg(8)`.
//!
//! Source: wireguard.com/xplatform, and the behaviour of wg(8) and wireguard-go. [`parse`] reads a `set`,
//! [`mod@format`] writes the reply to a `get`, [`stream`] serves one connection.

pub mod format;
pub mod parse;
pub mod stream;

use crate::{
    config::{Update, snapshot::Snapshot},
    error::Result,
};

pub use format::{get_public_text, get_text, set_text};
pub use parse::{Limits, Parser, parse_set};
pub use stream::{Options, serve};

/// The object that a connection controls: a running device, or a substitute in tests.
pub trait Backend {
    /// Applies a whole change set, or none of it.
    ///
    /// # Errors
    /// Errors of the device; its state is then unchanged.
    fn apply(&self, update: Update) -> Result<()>;

    /// Returns the current state.
    fn snapshot(&self) -> Snapshot<'_>;
}
