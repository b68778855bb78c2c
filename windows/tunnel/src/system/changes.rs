//! Reports that interfaces or routes have changed.
#![allow(unsafe_code)]

use std::{ffi::c_void, ptr};

use crossbeam_channel::{Receiver, Sender, bounded};
use wg_embed::error::Result;
use windows_sys::Win32::{
    Foundation::HANDLE,
    NetworkManagement::IpHelper::{
        CancelMibChangeNotify2, MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE,
        NotifyIpInterfaceChange, NotifyRouteChange2,
    },
    Networking::WinSock::AF_UNSPEC,
};

use super::addresses::check;

/// A registration for changes. Dropping it ends it, and waits for a report that is being made.
pub struct Changes {
    registrations: Vec<HANDLE>,
    /// Behind a pointer that Windows has.
    sender: *mut Sender<()>,
}

impl Changes {
    /// Begins to report changes to the receiver: one that was not received yet stands for any number of them.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn new() -> Result<(Self, Receiver<()>)> {
        let (sender, receiver) = bounded(1);
        let mut changes = Self { registrations: Vec::with_capacity(2), sender: Box::into_raw(Box::new(sender)) };
        let (context, mut handle): (*const c_void, HANDLE) = (changes.sender.cast(), ptr::null_mut());
        let failed = || "cannot watch the network".into();
        // SAFETY: the function takes the context, which lives until the registration has ended.
        let code = unsafe { NotifyIpInterfaceChange(AF_UNSPEC, Some(on_interface), context, false, &raw mut handle) };
        check(code, failed)?;
        changes.registrations.push(handle);
        // SAFETY: as above.
        let code = unsafe { NotifyRouteChange2(AF_UNSPEC, Some(on_route), context, false, &raw mut handle) };
        check(code, failed)?;
        changes.registrations.push(handle);
        Ok((changes, receiver))
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        for handle in self.registrations.drain(..) {
            // SAFETY: it is a registration, which ends once. The call waits for a function that is running.
            unsafe { CancelMibChangeNotify2(handle) };
        }
        // SAFETY: it came from `into_raw`, and Windows no longer has it.
        drop(unsafe { Box::from_raw(self.sender) });
    }
}

/// # Safety
/// `context` is the sender of live [`Changes`].
unsafe extern "system" fn on_interface(
    context: *const c_void,
    _: *const MIB_IPINTERFACE_ROW,
    _: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: the caller's contract is the same.
    unsafe { tell(context) };
}

/// # Safety
/// As [`on_interface`].
unsafe extern "system" fn on_route(context: *const c_void, _: *const MIB_IPFORWARD_ROW2, _: MIB_NOTIFICATION_TYPE) {
    // SAFETY: the caller's contract is the same.
    unsafe { tell(context) };
}

/// # Safety
/// As [`on_interface`].
unsafe fn tell(context: *const c_void) {
    // SAFETY: it is live, says the caller.
    let sender = unsafe { &*context.cast::<Sender<()>>() };
    // It is full if there is a report already, and closed if the service ends.
    let _ = sender.try_send(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_begins_and_ends() {
        let (changes, receiver) = Changes::new().unwrap();
        // SAFETY: it is the sender, which is live.
        unsafe { tell(changes.sender.cast()) };
        // SAFETY: as above.
        unsafe { tell(changes.sender.cast()) };
        assert_eq!(receiver.recv(), Ok(()));
        drop(changes);
        while receiver.try_recv().is_ok() {}
        assert!(receiver.recv().is_err(), "the sender is gone");
    }
}
