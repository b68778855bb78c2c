//! Callbacks of the app.

pub(crate) mod custom_io;
pub(crate) mod event_queue;
pub(crate) mod events;
pub(crate) mod protect;
pub(crate) mod resolve;
#[cfg(feature = "control")]
pub(crate) mod wireproto;
