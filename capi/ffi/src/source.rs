//! Where a tunnel's packets come from: a descriptor, an interface that the tunnel creates, or the app.

use std::sync::Arc;

use crate::{
    plumbing::{fd::AppFd, text::borrow_text},
    types::options::wg_options_t,
};
use wg_embed::{
    error::{Error, Result},
    tun::Tun,
};

/// The source of packets that options select.
pub(crate) enum Source<'a> {
    /// `tun_fd`.
    Descriptor(AppFd),
    /// An interface of this name, which does not exist yet.
    Interface(&'a str),
    /// `tun` or `net`.
    App,
}

impl Source<'_> {
    /// Checks that the options select one source. `has_tun` is whether they have a valid `tun`.
    ///
    /// # Safety
    /// `interface_name` is NULL or ends with a zero byte, and does not change during the life of the result.
    pub(crate) unsafe fn of(options: &wg_options_t, has_tun: bool) -> Result<Self> {
        let named = !options.interface_name.is_null();
        let others = [("tun", has_tun), ("net", !options.net.is_null()), ("interface_name", named)];
        let mut set = others.into_iter().filter_map(|(name, is_set)| is_set.then_some(name));
        match (set.next(), set.next()) {
            (None, _) => Ok(Self::Descriptor(AppFd::new(options.tun_fd)?)),
            (Some(one), Some(other)) => Err(Error::invalid(format!("both {one} and {other} are set"))),
            (Some(name), None) if options.tun_fd != -1 => {
                Err(Error::invalid(format!("{name} is set, and tun_fd is {}, not -1", options.tun_fd)))
            }
            (Some(_), None) if named => {
                // SAFETY: it is not NULL, and the caller says the rest.
                let name = unsafe { borrow_text(options.interface_name, "interface_name") };
                name.map(Self::Interface)
            }
            (Some(_), None) => Ok(Self::App),
        }
    }

    /// Returns whether the tunnel is up from the start. On Linux a new interface is down, and takes the tunnel along.
    pub(crate) const fn is_up(&self) -> bool {
        !matches!(self, Self::Interface(_)) || cfg!(windows)
    }
}

/// Creates an interface with this MTU. It is removed when the result is dropped.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn create_interface(name: &str, mtu: u16) -> Result<Arc<dyn Tun>> {
    let tun = wg_embed::tun::linux::LinuxTun::create(name)?;
    if tun.mtu() != mtu {
        tun.set_mtu(mtu)?;
    }
    Ok(Arc::new(tun))
}

/// Creates an adapter of Wintun with this MTU. It is removed when the result is dropped.
#[cfg(windows)]
pub(crate) fn create_interface(name: &str, mtu: u16) -> Result<Arc<dyn Tun>> {
    Ok(Arc::new(wg_embed::tun::windows::WintunTun::create(name, mtu)?))
}

/// Fails: here, interfaces are only created by the system.
#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
pub(crate) fn create_interface(name: &str, _: u16) -> Result<Arc<dyn Tun>> {
    let text = format!("the interface {name} cannot be created on this platform");
    Err(Error::new(wg_embed::error::ErrorKind::Unsupported, text))
}
