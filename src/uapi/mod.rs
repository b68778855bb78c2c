//! The text protocol of `wg(8)`.
//!
//! Source: wireguard.com/xplatform, and what wg(8) and wireguard-go do.

use crate::{
    config::{Update, snapshot::Snapshot},
    error::Result,
};

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
