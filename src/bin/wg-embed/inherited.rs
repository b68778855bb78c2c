//! Descriptors that the caller opened for us, named in the environment.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// What was handed over.
pub(crate) struct Inherited {
    /// `WG_TUN_FD`: a TUN.
    pub(crate) tun: Option<OwnedFd>,
    /// `WG_UAPI_FD`: a listening control socket.
    pub(crate) uapi: Option<OwnedFd>,
}

impl Inherited {
    /// Takes what the environment names. To be called once, before anything else is opened.
    pub(crate) fn take() -> Result<Self, String> {
        let tun = number("WG_TUN_FD")?;
        let uapi = number("WG_UAPI_FD")?;
        if tun.is_some() && tun == uapi {
            return Err("WG_TUN_FD and WG_UAPI_FD are the same descriptor".into());
        }
        Ok(Self {
            tun: tun.map(|fd| own("WG_TUN_FD", fd)).transpose()?,
            uapi: uapi.map(|fd| own("WG_UAPI_FD", fd)).transpose()?,
        })
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
