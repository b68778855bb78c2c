//! Ownership of a descriptor.

use wg_embed::error::{Error, Result};

/// Ownership of a descriptor.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_fd_ownership_t {
    /// The library takes ownership of the descriptor if, and only if, the call succeeds.
    WG_FD_TAKE = 1,
    /// The library uses a duplicate. The caller keeps the descriptor, and may close it at any time.
    WG_FD_DUP = 2,
}

pub use wg_fd_ownership_t::*;

/// Whether C gives a descriptor away.
pub(crate) fn takes(fd_ownership: u32) -> Result<bool> {
    match fd_ownership {
        take if take == WG_FD_TAKE as u32 => Ok(true),
        dup if dup == WG_FD_DUP as u32 => Ok(false),
        other => Err(Error::invalid(format!("fd_ownership is {other}, not WG_FD_TAKE or WG_FD_DUP"))),
    }
}
