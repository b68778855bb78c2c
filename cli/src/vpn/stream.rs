//! The stream to the manager, whose ends the manager has opened, and the requests of others to end.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use unix::{End, Ends, KIND, READ, WRITE, is_valid, open};
#[cfg(windows)]
pub(super) use windows::{End, Ends, KIND, READ, WRITE, is_valid, open};
