//! A replacement for the userspace network where it is not built.

use std::sync::Arc;

use crate::types::options::wg_options_t;
use wg_embed::{
    error::{Error, ErrorKind, Result},
    tun::Tun,
};

/// A network that does not exist.
pub(crate) enum Net {}

impl Net {
    /// Refuses a network.
    ///
    /// # Safety
    /// None.
    pub(crate) unsafe fn open(options: &wg_options_t, _handle: i32) -> Result<Option<Arc<Self>>> {
        if options.net.is_null() {
            return Ok(None);
        }
        Err(Error::new(ErrorKind::Unsupported, "net is set: this library was built without the userspace network"))
    }

    pub(crate) fn tun(&self) -> Arc<dyn Tun> {
        match *self {}
    }

    pub(crate) fn set_mtu(&self, _mtu: u16) -> Result<()> {
        match *self {}
    }

    pub(crate) fn memory(&self) -> usize {
        match *self {}
    }

    pub(crate) fn close(&self, _is_served: bool) {
        match *self {}
    }

    pub(crate) fn take_functions(&self) {
        match *self {}
    }
}
