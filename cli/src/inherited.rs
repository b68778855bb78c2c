//! Descriptors that the caller or a service manager has opened for the daemon, named in the environment.
#![allow(unsafe_code)]

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// The inherited descriptors.
pub(crate) struct Inherited {
    /// `WG_TUN_FD`: a TUN.
    pub(crate) tun: Option<OwnedFd>,
    /// A listening control socket.
    pub(crate) uapi: Option<Uapi>,
}

/// A control socket that another process bound.
pub(crate) enum Uapi {
    /// `WG_UAPI_FD`: the daemon removes its file at the end.
    Ours(OwnedFd),
    /// `LISTEN_FDS`, see sd_listen_fds(3): its file belongs to the service manager.
    Manager(OwnedFd),
}

impl AsFd for Uapi {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ours(fd) | Self::Manager(fd) => fd.as_fd(),
        }
    }
}

/// The first descriptor from a service manager.
const FIRST: RawFd = 3;

/// The name that selects one of several descriptors from a service manager.
const NAME: &str = "uapi";

impl Inherited {
    /// Takes the descriptors named in the environment. To be called once, before anything else is opened.
    pub(crate) fn take() -> Result<Self, String> {
        let tun = number("WG_TUN_FD")?;
        let uapi = number("WG_UAPI_FD")?;
        if tun.is_some() && tun == uapi {
            return Err("WG_TUN_FD and WG_UAPI_FD are the same descriptor".into());
        }
        // A value that is not UTF-8 is not a number, nor one of our names.
        let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let variables = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(variable);
        let given = from_manager(variables.each_ref().map(Option::as_deref), std::process::id())?;
        let listen = given.as_ref().map(|given| given.ours);
        if uapi.is_some() && listen.is_some() {
            return Err("WG_UAPI_FD and LISTEN_FDS both give a control socket".into());
        }
        if tun.is_some() && tun == listen {
            return Err("WG_TUN_FD and LISTEN_FDS are the same descriptor".into());
        }
        for fd in given.into_iter().flat_map(|given| given.all) {
            close_on_exec(fd).map_err(|e| format!("LISTEN_FDS: descriptor {fd}: {e}"))?;
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

/// The descriptors from a service manager.
#[derive(Debug, PartialEq, Eq)]
struct PassedFds {
    all: Range<RawFd>,
    /// The only one, or the one named [`NAME`].
    ours: RawFd,
}

/// Returns the descriptors from a service manager for the process `own`. The variables are `LISTEN_PID`, `LISTEN_FDS`
/// and `LISTEN_FDNAMES`.
///
/// The rules are those of sd_listen_fds(3): there are none if one of the first two is unset or the process is another
/// one; an invalid process number, or number of descriptors, is an error. Unlike there, 0 descriptors are not an error.
fn from_manager([process, count, names]: [Option<&str>; 3], own: u32) -> Result<Option<PassedFds>, String> {
    let Some(process) = process else {
        return Ok(None);
    };
    let id = process.parse::<i32>().ok().filter(|id| *id > 0);
    let id = id.ok_or_else(|| format!("LISTEN_PID={process}: not the number of a process"))?;
    let Some(count) = count.filter(|_| id.unsigned_abs() == own) else {
        return Ok(None);
    };
    let end = count.parse::<u32>().ok().and_then(|count| FIRST.checked_add_unsigned(count));
    let all = FIRST..end.ok_or_else(|| format!("LISTEN_FDS={count}: not a number of descriptors"))?;
    let ours = match all.len() {
        0 => return Ok(None),
        1 => FIRST,
        _ => {
            let mut named = all.clone().zip(names.unwrap_or_default().split(':'));
            let ours = named.find(|(_, name)| *name == NAME).map(|(fd, _)| fd);
            ours.ok_or_else(|| format!("LISTEN_FDS={count}: LISTEN_FDNAMES calls none of them {NAME}"))?
        }
    };
    Ok(Some(PassedFds { all, ours }))
}

/// Returns the number in a variable; `None` if it is unset or empty.
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

/// Takes ownership of a descriptor of the caller, which `variable` names. To be called once for each, before anything
/// else is opened.
pub(crate) fn own(variable: &str, fd: RawFd) -> Result<OwnedFd, String> {
    close_on_exec(fd).map_err(|e| format!("{variable}={fd}: {e}"))?;
    // SAFETY: it is open, and as we have opened nothing yet, it came from the caller, and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets close-on-exec; fails for a descriptor that is not open.
fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl(2) with F_SETFD takes numbers.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn taken(process: Option<&str>, count: Option<&str>, names: Option<&str>) -> Result<Option<RawFd>, String> {
        from_manager([process, count, names], 7).map(|given| given.map(|given| given.ours))
    }

    #[test]
    fn a_service_managers_socket_is_the_only_one_or_named() {
        assert_eq!(taken(Some("7"), Some("0"), None), Ok(None));
        assert_eq!(taken(Some("7"), Some("1"), Some("any")), Ok(Some(3)));
        assert_eq!(taken(Some("7"), Some("3"), Some("a:b:uapi")), Ok(Some(5)));
        assert!(taken(Some("7"), Some("2"), Some("a:b:uapi")).unwrap_err().contains("none of them uapi"));
        assert!(taken(Some("7"), Some("2"), None).is_err());
        let all = from_manager([Some("7"), Some("3"), Some("a:uapi")], 7).unwrap();
        assert_eq!(all, Some(PassedFds { all: 3..6, ours: 4 }));
    }

    #[test]
    fn without_both_variables_or_for_another_process_nothing_is_given() {
        for count in [None, Some("1"), Some(""), Some("x")] {
            assert_eq!(taken(None, count, None), Ok(None), "{count:?}");
            assert_eq!(taken(Some("8"), count, None), Ok(None), "{count:?}");
        }
        assert_eq!(taken(Some("7"), None, None), Ok(None));
        assert_eq!(taken(Some("7"), None, Some("uapi")), Ok(None));
    }

    #[test]
    fn what_cannot_be_a_number_is_refused() {
        for process in ["", "x", "7x", "-7", "0", "2147483648", "99999999999999999999", "\u{fffd}"] {
            for count in [None, Some("1")] {
                let error = taken(Some(process), count, None).unwrap_err();
                assert_eq!(error, format!("LISTEN_PID={process}: not the number of a process"));
            }
        }
        for count in ["", "x", "1x", "-1", "2147483645", "4294967295", "99999999999999999999", "\u{fffd}"] {
            let error = taken(Some("7"), Some(count), None).unwrap_err();
            assert_eq!(error, format!("LISTEN_FDS={count}: not a number of descriptors"));
        }
    }
}
