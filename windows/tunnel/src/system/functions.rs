//! The functions of iphlpapi.dll that change interfaces, found at run time: older versions of Windows, and Wine, lack
//! some, and a program that is linked to them does not start there.
#![allow(unsafe_code)]

use std::{io, ptr};

use wg_embed::error::{Error, ErrorKind, Result};
use windows_sys::{
    Win32::{
        Foundation::{HMODULE, WIN32_ERROR},
        NetworkManagement::IpHelper::{
            DNS_INTERFACE_SETTINGS, MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW, MIB_UNICASTIPADDRESS_ROW,
        },
        System::LibraryLoader::{GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW},
    },
    core::{GUID, w},
};

/// A function that is given a row to fill in.
pub(super) type Initialize<T> = unsafe extern "system" fn(row: *mut T);
/// A function that creates, changes or removes what a row describes.
pub(super) type Act<T> = unsafe extern "system" fn(row: *const T) -> WIN32_ERROR;
/// A function that reads or changes what a row describes, and may write to the row.
pub(super) type Exchange<T> = unsafe extern "system" fn(row: *mut T) -> WIN32_ERROR;
/// A function that sets the name servers of the interface with a GUID.
pub(super) type SetDns = unsafe extern "system" fn(GUID, *const DNS_INTERFACE_SETTINGS) -> WIN32_ERROR;

/// The functions, each under its name in Windows.
#[derive(Clone, Copy)]
#[allow(non_snake_case)]
pub(super) struct Functions {
    pub(super) InitializeUnicastIpAddressEntry: Initialize<MIB_UNICASTIPADDRESS_ROW>,
    pub(super) CreateUnicastIpAddressEntry: Act<MIB_UNICASTIPADDRESS_ROW>,
    pub(super) DeleteUnicastIpAddressEntry: Act<MIB_UNICASTIPADDRESS_ROW>,
    pub(super) InitializeIpForwardEntry: Initialize<MIB_IPFORWARD_ROW2>,
    pub(super) CreateIpForwardEntry2: Act<MIB_IPFORWARD_ROW2>,
    pub(super) DeleteIpForwardEntry2: Act<MIB_IPFORWARD_ROW2>,
    pub(super) InitializeIpInterfaceEntry: Initialize<MIB_IPINTERFACE_ROW>,
    pub(super) GetIpInterfaceEntry: Exchange<MIB_IPINTERFACE_ROW>,
    pub(super) SetIpInterfaceEntry: Exchange<MIB_IPINTERFACE_ROW>,
    /// Since Windows 10, version 2004.
    pub(super) SetInterfaceDnsSettings: Option<SetDns>,
}

/// Finds the function that a field is named after, if there is one.
macro_rules! function {
    ($library:expr, $name:ident) => {
        // SAFETY: the type of the field is that of the function of this name.
        unsafe { find($library, concat!(stringify!($name), "\0")) }
    };
}

/// Finds the function that a field is named after, or fails.
macro_rules! needed {
    ($library:expr, $name:ident) => {
        function!($library, $name).ok_or_else(|| missing(stringify!($name)))?
    };
}

impl Functions {
    /// Finds them in the iphlpapi.dll of the system's folder.
    pub(super) fn load() -> Result<Self> {
        // SAFETY: the name ends with a zero.
        let library = unsafe { LoadLibraryExW(w!("iphlpapi.dll"), ptr::null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32) };
        if library.is_null() {
            return Err(Error::io("cannot load iphlpapi.dll", io::Error::last_os_error()));
        }
        Ok(Self {
            InitializeUnicastIpAddressEntry: needed!(library, InitializeUnicastIpAddressEntry),
            CreateUnicastIpAddressEntry: needed!(library, CreateUnicastIpAddressEntry),
            DeleteUnicastIpAddressEntry: needed!(library, DeleteUnicastIpAddressEntry),
            InitializeIpForwardEntry: needed!(library, InitializeIpForwardEntry),
            CreateIpForwardEntry2: needed!(library, CreateIpForwardEntry2),
            DeleteIpForwardEntry2: needed!(library, DeleteIpForwardEntry2),
            InitializeIpInterfaceEntry: needed!(library, InitializeIpInterfaceEntry),
            GetIpInterfaceEntry: needed!(library, GetIpInterfaceEntry),
            SetIpInterfaceEntry: needed!(library, SetIpInterfaceEntry),
            SetInterfaceDnsSettings: function!(library, SetInterfaceDnsSettings),
        })
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("network settings: this system has no {name}"))
}

/// # Safety
/// `F` is the type of the function. The name ends with a zero.
unsafe fn find<F: Copy>(library: HMODULE, name: &'static str) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    // SAFETY: the library stays loaded, and the name ends with a zero.
    let function = unsafe { GetProcAddress(library, name.as_ptr()) }?;
    // SAFETY: both are addresses of a function, of the type that the caller names.
    Some(unsafe { std::mem::transmute_copy(&function) })
}
