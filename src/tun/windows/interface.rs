//! The MTU of an adapter's interface, which Windows has once for each address family, and its changes.
//!
//! The functions are found at run time: Wine does not have all of them.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_void},
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, OnceLock},
};

use windows_sys::{
    Win32::{
        Foundation::{ERROR_NOT_FOUND, HANDLE, NO_ERROR},
        NetworkManagement::{
            IpHelper::{
                CancelMibChangeNotify2, MIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE, MibAddInstance,
                NotifyIpInterfaceChange,
            },
            Ndis::NET_LUID_LH,
        },
        Networking::WinSock::{ADDRESS_FAMILY, AF_INET, AF_INET6, AF_UNSPEC},
        System::LibraryLoader::{GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW},
    },
    w,
};

/// The smallest MTU of IPv6, below which Windows accepts none for it.
const MIN_MTU_V6: u16 = 1280;

type EntryFunction = unsafe extern "system" fn(row: *mut MIB_IPINTERFACE_ROW) -> u32;

/// Functions that read and write the entry of an interface and family.
struct Entries {
    get: EntryFunction,
    set: EntryFunction,
}

impl Entries {
    /// Returns the functions, `None` if the system does not have them.
    fn system() -> Option<&'static Self> {
        static FOUND: OnceLock<Option<Entries>> = OnceLock::new();
        FOUND
            .get_or_init(|| Some(Self { get: find(c"GetIpInterfaceEntry")?, set: find(c"SetIpInterfaceEntry")? }))
            .as_ref()
    }

    fn read(&self, luid: u64, family: ADDRESS_FAMILY) -> io::Result<MIB_IPINTERFACE_ROW> {
        let luid = NET_LUID_LH { Value: luid };
        let mut row = MIB_IPINTERFACE_ROW { Family: family, InterfaceLuid: luid, ..MIB_IPINTERFACE_ROW::default() };
        // SAFETY: the row lives, and names one interface.
        check(unsafe { (self.get)(&raw mut row) }).map(|()| row)
    }

    fn set_mtu(&self, luid: u64, family: ADDRESS_FAMILY, mtu: u16) -> io::Result<()> {
        let mut row = self.read(luid, family)?;
        if family == AF_INET {
            // Windows wants it so.
            row.SitePrefixLength = 0;
        }
        row.NlMtu = if family == AF_INET6 { mtu.max(MIN_MTU_V6) } else { mtu }.into();
        // SAFETY: the row was just filled by the system.
        check(unsafe { (self.set)(&raw mut row) })
    }
}

fn find(name: &CStr) -> Option<EntryFunction> {
    // SAFETY: the name ends in a zero; the module, which is the system's own, stays loaded.
    let module = unsafe { LoadLibraryExW(w!("iphlpapi.dll"), ptr::null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32) };
    if module.is_null() {
        return None;
    }
    // SAFETY: the module is loaded, and the name ends in a zero.
    let found = unsafe { GetProcAddress(module, name.as_ptr().cast()) }?;
    // SAFETY: Windows' documentation declares both functions with this type.
    Some(unsafe { mem::transmute::<unsafe extern "system" fn() -> isize, EntryFunction>(found) })
}

fn check(code: u32) -> io::Result<()> {
    if code == NO_ERROR { Ok(()) } else { Err(io::Error::from_raw_os_error(code as i32)) }
}

/// Returns the smaller MTU of both families; `None` if it cannot be read.
fn mtu(luid: u64) -> Option<u16> {
    let entries = Entries::system()?;
    let of = |family| entries.read(luid, family).ok().map(|row| u16::try_from(row.NlMtu).unwrap_or(u16::MAX));
    [AF_INET, AF_INET6].into_iter().filter_map(of).min()
}

/// Sets the MTU of each family that the interface has; that of IPv6 to at least 1280.
pub(super) fn set_mtu(luid: u64, mtu: u16) -> io::Result<()> {
    let entries = Entries::system().ok_or(io::ErrorKind::Unsupported)?;
    let set = [AF_INET, AF_INET6].map(|family| entries.set_mtu(luid, family, mtu));
    let is_missing = |error: &io::Error| error.raw_os_error() == Some(ERROR_NOT_FOUND as i32);
    match set {
        [Ok(()), Ok(())] => Ok(()),
        // A family that is disabled has no entry.
        [Ok(()), Err(error)] | [Err(error), Ok(())] if is_missing(&error) => Ok(()),
        [Err(error), _] | [_, Err(error)] => Err(error),
    }
}

/// What is told of an interface's changes, on a thread of the system.
pub(super) trait Observer: Send + Sync {
    /// A family was added to the interface: its MTU is not the tunnel's yet.
    fn added(&self);

    /// The MTU is this one now; perhaps it was before.
    fn mtu(&self, mtu: u16);
}

/// Tells an observer of changes until it is dropped.
pub(super) struct Watch {
    registration: HANDLE,
    /// The system's pointer to it is in use until the registration has ended.
    _target: Arc<Target>,
}

// SAFETY: a registration belongs to the process, not to a thread.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

struct Target {
    luid: u64,
    observer: Arc<dyn Observer>,
}

impl Watch {
    /// Starts to watch. It must not be dropped inside a call of the observer.
    pub(super) fn new(luid: u64, observer: Arc<dyn Observer>) -> io::Result<Self> {
        let target = Arc::new(Target { luid, observer });
        let (context, mut registration) = (Arc::as_ptr(&target).cast(), ptr::null_mut());
        let registered = &raw mut registration;
        // SAFETY: the target lives until the registration has ended; one handle is written.
        check(unsafe { NotifyIpInterfaceChange(AF_UNSPEC, Some(changed), context, false, registered) })?;
        Ok(Self { registration, _target: target })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.registration.is_null() {
            // SAFETY: it is registered. The call waits for calls of `changed` that are in progress.
            unsafe { CancelMibChangeNotify2(self.registration) };
        }
    }
}

unsafe extern "system" fn changed(
    context: *const c_void,
    row: *const MIB_IPINTERFACE_ROW,
    kind: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: the context is that of the registration, whose target lives until it has ended.
    let target = unsafe { &*context.cast::<Target>() };
    // SAFETY: the system passes a row, or NULL, and keeps it during the call.
    let Some(row) = (unsafe { row.as_ref() }) else {
        return;
    };
    // SAFETY: every member of the union is a number of the same bits.
    if unsafe { row.InterfaceLuid.Value } != target.luid {
        return;
    }
    // A panic must not reach the system.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if kind == MibAddInstance {
            target.observer.added();
        }
        if let Some(mtu) = mtu(target.luid) {
            target.observer.mtu(mtu);
        }
    }));
}
