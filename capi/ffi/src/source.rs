//! Where a tunnel's packets come from: a descriptor, an interface that the tunnel creates, or the app.

use std::{slice, sync::Arc};

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
    /// `tun_fd`, and those of `queue_fds`.
    Descriptors(Vec<AppFd>),
    /// An interface of this name, which does not exist yet.
    Interface(&'a str),
    /// `tun` or `net`.
    App,
}

impl Source<'_> {
    /// Checks that the options select one source, with this number of queues. `has_tun` is whether they have a valid
    /// `tun`.
    ///
    /// # Safety
    /// `interface_name` is NULL or ends with a zero byte, and does not change during the life of the result;
    /// `queue_fds` is NULL or has as many numbers as there are further queues.
    pub(crate) unsafe fn of(options: &wg_options_t, has_tun: bool, queues: usize) -> Result<Self> {
        let named = !options.interface_name.is_null();
        let others = [("tun", has_tun), ("net", !options.net.is_null()), ("interface_name", named)];
        let mut set = others.into_iter().filter_map(|(name, is_set)| is_set.then_some(name));
        let (first, second) = (set.next(), set.next());
        let wants_fds = first.is_none() && queues > 1;
        if wants_fds == options.queue_fds.is_null() {
            return Err(Error::invalid(match wants_fds {
                true => format!("queue_fds is NULL, and queues is {queues}"),
                false => "queue_fds is set, and there are no further queues of tun_fd".into(),
            }));
        }
        match (first, second) {
            (None, _) => {
                let further = match queues {
                    1 => &[][..],
                    // SAFETY: it is not NULL, and the caller says the rest.
                    queues => unsafe { slice::from_raw_parts(options.queue_fds, queues - 1) },
                };
                let fds: Vec<_> = [options.tun_fd].into_iter().chain(further.iter().copied()).collect();
                // Each is closed once, and read by one thread.
                if let Some(twice) = fds.iter().enumerate().find_map(|(i, fd)| fds[..i].contains(fd).then_some(fd)) {
                    return Err(Error::invalid(format!("descriptor {twice} is that of two queues")));
                }
                fds.into_iter().map(AppFd::new).collect::<Result<_>>().map(Self::Descriptors)
            }
            (Some(one), Some(other)) => Err(Error::invalid(format!("both {one} and {other} are set"))),
            (Some(name), None) if options.tun_fd != -1 => {
                Err(Error::invalid(format!("{name} is set, and tun_fd is {}, not -1", options.tun_fd)))
            }
            (Some(_), None) if named => {
                // SAFETY: it is not NULL, and the caller says the rest.
                let name = unsafe { borrow_text(options.interface_name, "interface_name") };
                name.map(Self::Interface)
            }
            (Some(name), None) if queues > 1 => {
                Err(Error::invalid(format!("{name} is set, and there are {queues} queues, not 1")))
            }
            (Some(_), None) => Ok(Self::App),
        }
    }

    /// Returns whether the tunnel is up from the start. On Linux a new interface is down, and takes the tunnel along.
    pub(crate) const fn is_up(&self) -> bool {
        !matches!(self, Self::Interface(_)) || cfg!(windows)
    }
}

/// Creates an interface with this MTU and number of queues. It is removed when the result is dropped.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn create_interface(name: &str, mtu: u16, queues: usize) -> Result<Arc<dyn Tun>> {
    let tun = wg_embed::tun::linux::LinuxTun::create_with_queues(name, queues)?;
    if tun.mtu() != mtu {
        tun.set_mtu(mtu)?;
    }
    Ok(Arc::new(tun))
}

/// Creates an adapter of Wintun with this MTU. It is removed when the result is dropped.
#[cfg(windows)]
pub(crate) fn create_interface(name: &str, mtu: u16, _: usize) -> Result<Arc<dyn Tun>> {
    Ok(Arc::new(wg_embed::tun::windows::WintunTun::create(name, mtu)?))
}

/// Fails: here, interfaces are only created by the system.
#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
pub(crate) fn create_interface(name: &str, _: u16, _: usize) -> Result<Arc<dyn Tun>> {
    let text = format!("the interface {name} cannot be created on this platform");
    Err(Error::new(wg_embed::error::ErrorKind::Unsupported, text))
}
