//! Changes the user, and drops capabilities, permanently.
//!
//! All of this affects only the calling thread: to be called while there is no other.
#![allow(unsafe_code)]

use std::{ffi::c_int, io};

/// A capability: its number and its name.
#[derive(Clone, Copy)]
pub(crate) struct Capability(u32, &'static str);

const CHOWN: Capability = Capability(0, "CAP_CHOWN");
const DAC_OVERRIDE: Capability = Capability(1, "CAP_DAC_OVERRIDE");
const FOWNER: Capability = Capability(3, "CAP_FOWNER");
const SETGID: Capability = Capability(6, "CAP_SETGID");
const SETUID: Capability = Capability(7, "CAP_SETUID");
const SETPCAP: Capability = Capability(8, "CAP_SETPCAP");
const NET_BIND_SERVICE: Capability = Capability(10, "CAP_NET_BIND_SERVICE");
const NET_ADMIN: Capability = Capability(12, "CAP_NET_ADMIN");

/// The capabilities that a tunnel always needs: for marks, buffers and the MTU, and for ports below 1024.
pub(crate) const FOR_A_TUNNEL: [Capability; 2] = [NET_ADMIN, NET_BIND_SERVICE];

/// The capabilities to remove a file from any directory.
pub(crate) const TO_REMOVE_A_FILE: [Capability; 2] = [DAC_OVERRIDE, FOWNER];

/// The capabilities to become another user with the capabilities for a tunnel.
pub(crate) const TO_CHANGE_USER: [Capability; 6] = [CHOWN, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_ADMIN];

const VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    /// 0: this thread.
    pid: c_int,
}

/// `struct __user_cap_data_struct`: one for the capabilities below 32, one for the others.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Returns the names of those that are not in effect.
pub(crate) fn missing(wanted: &[Capability]) -> io::Result<Vec<&'static str>> {
    let [low, _] = get()?;
    Ok(wanted.iter().filter(|Capability(bit, _)| low.effective >> bit & 1 == 0).map(|wanted| wanted.1).collect())
}

/// Changes the user and the groups, and keeps the permitted capabilities. Programs that are executed later gain no
/// privileges, and processes of the user cannot read the memory of this one.
pub(crate) fn change_user(uid: libc::uid_t, gid: libc::gid_t, groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: prctl(2) takes numbers here.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })?;
    gain_nothing()?;
    // SAFETY: the groups live, and their number is given.
    check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })?;
    // SAFETY: setresgid(2) takes numbers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: setresuid(2) takes numbers.
    check(unsafe { libc::setresuid(uid, uid, uid) })?;
    // SAFETY: prctl(2) takes numbers here.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0) })?;
    // This is the default, but an administrator may have changed it.
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// Empties the bounding and the ambient set. To be called with CAP_SETPCAP.
pub(crate) fn gain_nothing() -> io::Result<()> {
    // SAFETY: prctl(2) takes numbers here; it fails for a capability that the kernel does not know.
    let has = |bit: libc::c_ulong| unsafe { libc::prctl(libc::PR_CAPBSET_READ, bit, 0, 0, 0) };
    for bit in (0..64).take_while(|bit| has(*bit) >= 0) {
        if has(bit) == 1 {
            // SAFETY: prctl(2) takes numbers here.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) })?;
        }
    }
    // A kernel older than 4.3 has no such set.
    // SAFETY: prctl(2) takes numbers here.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Drops all capabilities except these; those of them that are permitted are then in effect.
pub(crate) fn keep(kept: &[Capability]) -> io::Result<()> {
    let [low, _] = get()?;
    let permitted = low.permitted & kept.iter().fold(0, |mask, Capability(bit, _)| mask | 1 << bit);
    let data = [Data { effective: permitted, permitted, inheritable: 0 }, Data::default()];
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: capset(2) reads a header and, with this version, two structs of data, all of which live.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(result as c_int)
}

fn get() -> io::Result<[Data; 2]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: capget(2) writes to a header and, with this version, two structs of data, all of which live.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(result as c_int).map(|()| data)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
