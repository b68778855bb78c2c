//! A replacement for the proxies where they are not built: `wg-embed-proxy` is for Unix.

use std::net::SocketAddr;

use super::Net;
use wg_embed::error::{Error, ErrorKind, Result};

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Socks5,
    Http,
}

/// The arguments for a proxy that does not exist.
pub(crate) enum Wanted {}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "there are no proxies on this platform")
}

impl Wanted {
    pub(crate) fn new(_: Protocol, _: Option<&str>, _: Option<&str>, _: Option<&str>, _: u32) -> Result<Self> {
        Err(unsupported())
    }
}

/// No proxies.
#[derive(Default)]
pub(super) struct Proxies {}

impl Proxies {
    pub(super) fn close(&self) {}
}

impl Net {
    pub(crate) fn start_proxy(&self, wanted: Wanted) -> Result<(i32, SocketAddr)> {
        match wanted {}
    }

    pub(crate) fn stop_proxy(&self, _: i32) -> Result<()> {
        Err(unsupported())
    }
}
