//! What every function of C is made of.

pub(crate) mod callback;
pub(crate) mod calls;
pub(crate) mod cancel;
pub(crate) mod fd;
pub(crate) mod guard;
pub(crate) mod handle;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod result;
pub(crate) mod sized;
pub(crate) mod text;
