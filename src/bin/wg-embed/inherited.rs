//! Descriptors that the caller or a service manager opened for us, named in the environment.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// What was handed over.
pub(crate) struct Inherited {
    /// `WG_TUN_FD`: a TUN.
    pub(crate) tun: Option<OwnedFd>,
    /// A listening control socket.
    pub(crate) uapi: Option<Uapi>,
}

/// A control socket that another process bound.
pub(crate) enum Uapi {
    /// `WG_UAPI_FD`: its file ends with the daemon.
    Ours(OwnedFd),
    /// `LISTEN_FDS`, see sd_listen_fds(3): its file is the service manager's.
    Manager(OwnedFd),
}

impl AsFd for Uapi {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ours(fd) | Self::Manager(fd) => fd.as_fd(),
        }
    }
}

/// The first descriptor of a service manager.
const FIRST: RawFd = 3;

/// The name that picks one of several descriptors of a service manager.
const NAME: &str = "uapi";

impl Inherited {
    /// Takes what the environment names. To be called once, before anything else is opened.
    pub(crate) fn take() -> Result<Self, String> {
        let tun = number("WG_TUN_FD")?;
        let uapi = number("WG_UAPI_FD")?;
        if tun.is_some() && tun == uapi {
            return Err("WG_TUN_FD and WG_UAPI_FD are the same descriptor".into());
        }
        let variables = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|name| std::env::var(name).ok());
        let listen = from_manager(variables.each_ref().map(Option::as_deref), std::process::id())?;
        if uapi.is_some() && listen.is_some() {
            return Err("WG_UAPI_FD and LISTEN_FDS both give a control socket".into());
        }
        if tun.is_some() && tun == listen {
            return Err("WG_TUN_FD and LISTEN_FDS are the same descriptor".into());
        }
        let tun = tun.map(|fd| own("WG_TUN_FD", fd)).transpose()?;
        let uapi = match (uapi, listen) {
            (Some(fd), _) => Some(Uapi::Ours(own("WG_UAPI_FD", fd)?)),
            (None, Some(fd)) => Some(Uapi::Manager(own("LISTEN_FDS", fd)?)),
            (None, None) => None,
        };
        Ok(Self { tun, uapi })
    }
}

/// The descriptor that a service manager gives: the only one, or the one with our [`NAME`]. The variables are
/// `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`; those for another process name nothing.
fn from_manager([process, count, names]: [Option<&str>; 3], own: u32) -> Result<Option<RawFd>, String> {
    if process.and_then(|id| id.parse().ok()) != Some(own) {
        return Ok(None);
    }
    let count = count.unwrap_or_default();
    match count.parse::<u16>() {
        Ok(0) => Ok(None),
        Ok(1) => Ok(Some(FIRST)),
        Ok(several) => {
            let mut named = (FIRST..).zip(names.unwrap_or_default().split(':')).take(several.into());
            let ours = named.find(|(_, name)| *name == NAME).map(|(fd, _)| fd);
            ours.map(Some).ok_or_else(|| format!("LISTEN_FDS={count}: LISTEN_FDNAMES calls none of them {NAME}"))
        }
        Err(_) => Err(format!("LISTEN_FDS={count}: not a number of descriptors")),
    }
}

/// The number in a variable; unset and empty ones name nothing.
fn number(variable: &str) -> Result<Option<RawFd>, String> {
    let Some(text) = std::env::var_os(variable).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let fd = text.to_str().filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok());
    match fd {
        None => Err(format!("{variable}={}: not the number of a descriptor", text.display())),
        // Going to the background replaces these.
        Some(0..=2) => Err(format!("{variable}={}: standard input and output cannot be used", text.display())),
        Some(fd) => Ok(Some(fd)),
    }
}

fn own(variable: &str, fd: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: fcntl(2) with F_SETFD takes numbers, and fails for what is not an open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(format!("{variable}={fd}: {}", io::Error::last_os_error()));
    }
    // SAFETY: it is open, and as we have opened nothing yet, it was given to us by the caller; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_service_managers_socket_is_the_only_one_or_named() {
        let taken = |process, count, names| from_manager([process, count, names], 7);
        assert_eq!(taken(None, Some("1"), None), Ok(None));
        assert_eq!(taken(Some("8"), Some("1"), None), Ok(None), "for another process");
        assert_eq!(taken(Some("7"), Some("0"), None), Ok(None));
        assert_eq!(taken(Some("7"), Some("1"), Some("any")), Ok(Some(3)));
        assert_eq!(taken(Some("7"), Some("3"), Some("a:b:uapi")), Ok(Some(5)));
        assert!(taken(Some("7"), Some("2"), Some("a:b:uapi")).unwrap_err().contains("none of them uapi"));
        assert!(taken(Some("7"), Some("2"), None).is_err());
        assert!(taken(Some("7"), Some("x"), None).unwrap_err().contains("not a number"));
    }
}
