//! The text protocol of `wg(8)`.
//!
//! Source: wireguard.com/xplatform, and what wg(8) and wireguard-go do. [`parse`] reads a `set`, [`mod@format`] writes
//! a `get`, [`stream`] holds the dialogue of one connection.

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

/// What the dialogue speaks for: a running device, or a test's stand-in.
pub trait Backend {
    /// Applies a whole change set, or none of it.
    ///
    /// # Errors
    /// As the device reports them; the state is then as before.
    fn apply(&self, update: Update) -> Result<()>;

    /// Reads the state.
    fn snapshot(&self) -> Snapshot<'_>;
}
