//! The text protocol of `wg(8)`.
//!
//! ```
//! use wg_embed::uapi::{Limits, parse_set, set_text};
//!
//! let text = "listen_port=51820\nreplace_peers=true\n";
//! let update = parse_set(text, Limits::default())?;
//! assert_eq!((update.listen_port, update.replace_peers), (Some(51820), true));
//! assert_eq!(set_text(&update)?.as_str(), text);
//! # Ok::<(), wg_embed::Error>(())
//! ```
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
///
/// ```
/// use wg_embed::{Result, Update, config::snapshot::{InterfaceSnapshot, Snapshot}, uapi::{Backend, get_text}};
///
/// struct Empty;
/// impl Backend for Empty {
///     fn apply(&self, _: Update) -> Result<()> {
///         Ok(())
///     }
///     fn snapshot(&self) -> Snapshot<'_> {
///         let mut interface = InterfaceSnapshot::default();
///         interface.listen_port = 51820;
///         Snapshot::new(interface, std::iter::empty())
///     }
/// }
/// assert_eq!(get_text(Empty.snapshot())?.as_str(), "listen_port=51820\n");
/// # Ok::<(), wg_embed::Error>(())
/// ```
pub trait Backend {
    /// Applies a whole change set, or none of it.
    ///
    /// # Errors
    /// Errors of the device; its state is then unchanged.
    fn apply(&self, update: Update) -> Result<()>;

    /// Returns the current state.
    fn snapshot(&self) -> Snapshot<'_>;
}
