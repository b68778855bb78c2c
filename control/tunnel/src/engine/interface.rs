//! The inside of a tunnel.

use std::{net::IpAddr, sync::Arc};

use wg_embed::{
    config::wgquick::Conf,
    tun::{DEFAULT_MTU, Tun},
};
use wg_embed_netstack::{Netstack, Options};

/// The inner side of a tunnel.
pub(super) struct Interface {
    pub(super) tun: Arc<dyn Tun>,
    /// Whether the system's network has to be configured for it; it has a name in that case.
    pub(super) is_system: bool,
    /// Populated for a userspace network.
    pub(super) stack: Option<Netstack>,
}

impl Interface {
    /// A duplicate of the manager's descriptor.
    #[cfg(unix)]
    pub(super) fn adopt(descriptor: i32, conf: &Conf) -> Result<Self, String> {
        let say = |error: &dyn std::fmt::Display| format!("the manager's descriptor {descriptor}: {error}");
        let duplicate = duplicate(descriptor).map_err(|e| say(&e))?;
        let mtu = conf.interface.mtu.unwrap_or(0);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let tun = wg_embed::tun::linux::LinuxTun::adopt(duplicate, mtu).map_err(|e| say(&e))?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let tun = wg_embed::tun::fd::FdTun::new(duplicate, mtu).map_err(|e| say(&e))?;
        // On Android the system has configured it before passing the descriptor on.
        let is_system = !tun.name().is_empty() && !cfg!(target_os = "android");
        Ok(Self { tun: Arc::new(tun), is_system, stack: None })
    }

    /// A duplicate of the manager's descriptor.
    #[cfg(not(unix))]
    pub(super) fn adopt(descriptor: i32, _: &Conf) -> Result<Self, String> {
        Err(format!("the manager's descriptor {descriptor}: there are none on this system"))
    }

    /// A new interface, which is removed when this is dropped.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn create(name: &str) -> Result<Self, String> {
        let tun = wg_embed::tun::linux::LinuxTun::create(name).map_err(|e| e.to_string())?;
        Ok(Self { tun: Arc::new(tun), is_system: true, stack: None })
    }

    /// Creates an adapter of Wintun. It is removed with this.
    #[cfg(windows)]
    pub(super) fn create(name: &str) -> Result<Self, String> {
        let tun = wg_embed::tun::windows::WintunTun::create(name, 0).map_err(|e| e.to_string())?;
        Ok(Self { tun: Arc::new(tun), is_system: true, stack: None })
    }

    /// Creates a new interface.
    #[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
    pub(super) fn create(name: &str) -> Result<Self, String> {
        Err(format!("{name}: interfaces cannot be made on this system yet"))
    }

    /// Creates a userspace network with the addresses of the configuration.
    pub(super) fn userspace(conf: &Conf) -> Result<Self, String> {
        let stack =
            Netstack::new(Options::from(&conf.interface)).map_err(|e| format!("the network in userspace: {e}"))?;
        Ok(Self { tun: stack.tun(), is_system: false, stack: Some(stack) })
    }
}

/// Returns its own addresses.
pub(super) fn addresses(conf: &Conf) -> Vec<IpAddr> {
    conf.interface.addresses.iter().map(ipnet::IpNet::addr).collect()
}

/// Returns the MTU of a userspace network.
pub(super) fn mtu(conf: &Conf) -> u16 {
    conf.interface.mtu.unwrap_or(DEFAULT_MTU)
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "a message has the number of a descriptor")]
fn duplicate(descriptor: i32) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::BorrowedFd;

    if descriptor < 0 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it is only duplicated, which fails if it is not open; the manager keeps it open until the response.
    let manager = unsafe { BorrowedFd::borrow_raw(descriptor) };
    manager.try_clone_to_owned()
}
