//! wintun.dll: its functions, found in the DLL at run time, and its adapters.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    ffi::{CStr, OsString, c_void},
    fmt, io, mem,
    os::windows::ffi::{OsStrExt, OsStringExt},
    panic::catch_unwind,
    path::{Path, PathBuf},
    ptr::{self, NonNull},
    sync::{Arc, Mutex},
};

use blake2::{Blake2s256, Digest};
use windows_sys::{
    Win32::{
        Foundation::{FreeLibrary, HANDLE, HMODULE},
        System::{
            LibraryLoader::{
                GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                GetModuleFileNameW, GetModuleHandleExW, GetProcAddress, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR,
                LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
            },
            SystemInformation::GetSystemDirectoryW,
        },
    },
    core::{BOOL, GUID, PCWSTR},
};

use crate::{
    error::{Error, ErrorKind, Result},
    sync,
};

/// The name of the DLL.
const FILE: &str = "wintun.dll";

/// The kind of the adapters, which Windows shows.
const KIND: &str = "WireGuard";

/// The maximum length of an adapter's name, in UTF-16 units.
const MAX_NAME: usize = 127;

/// The maximum length of a path, in UTF-16 units.
const MAX_PATH: usize = 32_768;

pub(super) type AdapterHandle = *mut c_void;
pub(super) type SessionHandle = *mut c_void;
type Log = Option<unsafe extern "system" fn(level: i32, time: u64, message: PCWSTR)>;

/// Declares the table of the functions, and how it is filled.
macro_rules! functions {
    ($($field:ident: $name:literal, ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of wintun.dll.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "system" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Finds the functions in a module; fails with the name of one that is missing.
            fn find(module: HMODULE) -> std::result::Result<Self, &'static CStr> {
                Ok(Self { $($field: {
                    // SAFETY: the module is loaded, and the name ends in a zero.
                    let found = unsafe { GetProcAddress(module, $name.as_ptr().cast()) }.ok_or($name)?;
                    // SAFETY: the documentation of Wintun declares the function of this name with this type.
                    unsafe {
                        mem::transmute::<
                            unsafe extern "system" fn() -> isize,
                            unsafe extern "system" fn($($argument),*) $(-> $result)?,
                        >(found)
                    }
                },)* })
            }
        }
    };
}

functions! {
    create_adapter: c"WintunCreateAdapter", (PCWSTR, PCWSTR, *const GUID) -> AdapterHandle;
    open_adapter: c"WintunOpenAdapter", (PCWSTR) -> AdapterHandle;
    close_adapter: c"WintunCloseAdapter", (AdapterHandle);
    delete_driver: c"WintunDeleteDriver", () -> BOOL;
    adapter_luid: c"WintunGetAdapterLUID", (AdapterHandle, *mut u64);
    driver_version: c"WintunGetRunningDriverVersion", () -> u32;
    set_logger: c"WintunSetLogger", (Log);
    start_session: c"WintunStartSession", (AdapterHandle, u32) -> SessionHandle;
    end_session: c"WintunEndSession", (SessionHandle);
    read_event: c"WintunGetReadWaitEvent", (SessionHandle) -> HANDLE;
    receive: c"WintunReceivePacket", (SessionHandle, *mut u32) -> *mut u8;
    release: c"WintunReleaseReceivePacket", (SessionHandle, *const u8);
    allocate: c"WintunAllocateSendPacket", (SessionHandle, u32) -> *mut u8;
    send: c"WintunSendPacket", (SessionHandle, *const u8);
}

/// The loaded wintun.dll. Its messages go to the log. Any thread may use it.
///
/// The DLL is not part of this library: programs come with the signed file from its maker.
pub struct Wintun {
    functions: Functions,
    module: Module,
    path: PathBuf,
}

/// How many values use each loaded module. The DLL has one function for its messages.
static USERS: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

impl Wintun {
    /// Loads the DLL with this absolute path, whose names may be separated by slashes as well. What it needs itself is
    /// loaded from its own directory and that of the system only.
    ///
    /// # Errors
    /// `Invalid` if the path is not absolute, `NotFound` if there is no such file, `Unsupported` if a function is
    /// missing in it, and errors of the system. The text names the path.
    pub fn load(path: &Path) -> Result<Arc<Self>> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err(Error::invalid(format!("cannot load {shown}: the path of {FILE} must be absolute")));
        }
        if !path.is_file() {
            return Err(Error::new(ErrorKind::NotFound, format!("cannot load {shown}: there is no such file")));
        }
        let failed = |e| Error::io(format!("cannot load {shown}"), e);
        // With backslashes only, as Windows requires here.
        let path = std::path::absolute(path).map_err(failed)?;
        let module = Module::load(&path).map_err(failed)?;
        let functions = Functions::find(module.0).map_err(|name| {
            let text = format!("cannot use {shown}: it has no function {}", name.to_string_lossy());
            Error::new(ErrorKind::Unsupported, text)
        })?;
        let wintun = Self { functions, module, path };
        wintun.register();
        Ok(Arc::new(wintun))
    }

    /// Loads the DLL from the directory of the module (program or DLL) that this code is in, or else from that of the
    /// program, or else from that of the system.
    ///
    /// # Errors
    /// As [`load`](Self::load); if there is none, the text names all three paths.
    pub fn find() -> Result<Arc<Self>> {
        let program = std::env::current_exe().ok();
        let beside = |file: Option<PathBuf>| file.and_then(|file| file.parent().map(|directory| directory.join(FILE)));
        let candidates = [beside(own_module()), beside(program), system_directory().map(|it| it.join(FILE))];
        let mut tried: Vec<PathBuf> = Vec::new();
        for path in candidates.into_iter().flatten().filter(|path| path.is_absolute()) {
            if path.is_file() {
                return Self::load(&path);
            }
            if !tried.contains(&path) {
                tried.push(path);
            }
        }
        let tried: Vec<_> = tried.iter().map(|path| path.display().to_string()).collect();
        Err(Error::new(ErrorKind::NotFound, format!("there is no {}", tried.join(" and no "))))
    }

    /// Returns the path of the DLL.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the version of the driver, major and minor.
    ///
    /// # Errors
    /// `NotFound` if the driver is not running, which it is while there are adapters.
    pub fn driver_version(&self) -> Result<(u16, u16)> {
        // SAFETY: the module is loaded.
        match unsafe { (self.functions.driver_version)() } {
            0 => Err(Error::io("cannot get the version of Wintun's driver", io::Error::last_os_error())),
            version => Ok(((version >> 16) as u16, version as u16)),
        }
    }

    /// Removes the driver from the system if no adapter uses it.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn delete_driver(&self) -> Result<()> {
        // SAFETY: the module is loaded.
        match unsafe { (self.functions.delete_driver)() } {
            0 => Err(Error::io("cannot remove Wintun's driver", io::Error::last_os_error())),
            _ => Ok(()),
        }
    }

    pub(super) const fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Counts this user of the module; the first one sets the function for messages.
    fn register(&self) {
        let mut users = sync::lock(&USERS);
        let users = users.entry(self.module.0 as usize).or_default();
        *users += 1;
        if *users == 1 {
            // SAFETY: the module is loaded; the function can be called on any thread until it is replaced.
            unsafe { (self.functions.set_logger)(Some(log)) };
        }
    }
}

impl Drop for Wintun {
    fn drop(&mut self) {
        let mut users = sync::lock(&USERS);
        let module = self.module.0 as usize;
        let left = users.get(&module).map_or(0, |users| users - 1);
        if left > 0 {
            users.insert(module, left);
            return;
        }
        users.remove(&module);
        // SAFETY: the module is loaded; this library may be unloaded before it.
        unsafe { (self.functions.set_logger)(None) };
    }
}

impl fmt::Debug for Wintun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wintun").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A reference to a loaded module.
struct Module(HMODULE);

// SAFETY: a module belongs to the process, not to a thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    fn load(path: &Path) -> io::Result<Self> {
        let path: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
        let search = LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32;
        // SAFETY: the path ends in a zero and is absolute; no file is passed.
        let module = unsafe { LoadLibraryExW(path.as_ptr(), ptr::null_mut(), search) };
        if module.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(module)) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it was loaded once for this value, and nothing uses its functions any more.
        unsafe { FreeLibrary(self.0) };
    }
}

/// Passes a message of the DLL to the log.
unsafe extern "system" fn log(level: i32, _time: u64, message: PCWSTR) {
    // SAFETY: the DLL passes a text that ends in a zero.
    let text = unsafe { from_wide(message) };
    // A panic must not reach the DLL.
    let _ = catch_unwind(|| match level {
        0 => tracing::debug!(%text, "Wintun"),
        _ => tracing::warn!(%text, "Wintun"),
    });
}

/// Copies a text that ends in a zero; of NULL, nothing.
///
/// # Safety
/// The pointer is NULL or to such a text.
unsafe fn from_wide(text: PCWSTR) -> String {
    let mut units = Vec::new();
    while !text.is_null() {
        let next = text.wrapping_add(units.len());
        // SAFETY: no unit before this one is the zero, so this one is part of the text.
        match unsafe { *next } {
            0 => break,
            unit => units.push(unit),
        }
    }
    String::from_utf16_lossy(&units)
}

/// Returns the file of the program or DLL that this code is in.
fn own_module() -> Option<PathBuf> {
    let flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    let (here, mut module) = (own_module as fn() -> Option<PathBuf>, ptr::null_mut());
    // SAFETY: with this flag the second argument is an address inside the module; one handle is written.
    if unsafe { GetModuleHandleExW(flags, here as *const u16, &raw mut module) } == 0 {
        return None;
    }
    let mut path = vec![0; MAX_PATH];
    // SAFETY: the room is as large as is said.
    let len = unsafe { GetModuleFileNameW(module, path.as_mut_ptr(), path.len() as u32) };
    as_path(&path, len)
}

fn system_directory() -> Option<PathBuf> {
    let mut path = vec![0; MAX_PATH];
    // SAFETY: the room is as large as is said.
    let len = unsafe { GetSystemDirectoryW(path.as_mut_ptr(), path.len() as u32) };
    as_path(&path, len)
}

/// A length of 0 is a failure, and one without room for the zero is that of a path that was truncated.
fn as_path(path: &[u16], len: u32) -> Option<PathBuf> {
    let len = usize::try_from(len).ok().filter(|len| (1..path.len()).contains(len))?;
    Some(OsString::from_wide(&path[..len]).into())
}

/// Returns the GUID that adapters of this name should have: Windows keeps the settings and the network profile of an
/// adapter by its GUID.
#[must_use]
pub fn guid_of(name: &str) -> u128 {
    let hash = Blake2s256::new().chain_update(b"wg-embed adapter GUID v1\0").chain_update(name).finalize();
    let mut guid = [0; 16];
    guid.copy_from_slice(&hash[..16]);
    let guid = u128::from_be_bytes(guid);
    // The version is 8, that of GUIDs with contents of their own, and the variant that of RFC 9562.
    (guid & !(0xf << 76) & !(0x3 << 62)) | (0x8 << 76) | (0x2 << 62)
}

/// A network adapter of Wintun. Dropping it removes an adapter that this value has created.
pub struct Adapter {
    wintun: Arc<Wintun>,
    handle: NonNull<c_void>,
    name: String,
}

// SAFETY: Wintun's functions may be called on any thread with any adapter.
unsafe impl Send for Adapter {}
// SAFETY: as above.
unsafe impl Sync for Adapter {}

impl Adapter {
    /// Creates an adapter with this name and GUID; with `None`, Windows chooses a GUID. This takes up to some seconds,
    /// and installs the driver if necessary. See [`guid_of`].
    ///
    /// # Errors
    /// `Invalid` if the name is empty, has a NUL, or more than 127 UTF-16 units; errors of the system, for example
    /// `Permission` without administrator rights.
    pub fn create(wintun: &Arc<Wintun>, name: &str, guid: Option<u128>) -> Result<Self> {
        let wide = wide_name(name)?;
        let kind: Vec<u16> = KIND.encode_utf16().chain([0]).collect();
        let guid = guid.map(GUID::from_u128);
        let guid = guid.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the module is loaded; both texts end in a zero and live, and so does the GUID if there is one.
        let handle = unsafe { (wintun.functions.create_adapter)(wide.as_ptr(), kind.as_ptr(), guid) };
        Self::new(wintun, name, handle).map_err(|e| Error::io(format!("cannot create the adapter {name}"), e))
    }

    /// Opens an adapter that exists, and that another program keeps.
    ///
    /// # Errors
    /// `NotFound` if there is no such adapter of Wintun; otherwise as [`create`](Self::create).
    pub fn open(wintun: &Arc<Wintun>, name: &str) -> Result<Self> {
        let wide = wide_name(name)?;
        // SAFETY: the module is loaded; the text ends in a zero and lives.
        let handle = unsafe { (wintun.functions.open_adapter)(wide.as_ptr()) };
        Self::new(wintun, name, handle).map_err(|e| Error::io(format!("cannot open the adapter {name}"), e))
    }

    fn new(wintun: &Arc<Wintun>, name: &str, handle: AdapterHandle) -> io::Result<Self> {
        let handle = NonNull::new(handle).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { wintun: wintun.clone(), handle, name: name.into() })
    }

    /// Returns the name that it was created or opened with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its LUID (`NET_LUID.Value`), by which Windows' functions for addresses and routes know it.
    #[must_use]
    pub fn luid(&self) -> u64 {
        let mut luid = 0;
        // SAFETY: the adapter is open; one number is written.
        unsafe { (self.wintun.functions.adapter_luid)(self.handle.as_ptr(), &raw mut luid) };
        luid
    }

    pub(super) const fn wintun(&self) -> &Arc<Wintun> {
        &self.wintun
    }

    pub(super) const fn handle(&self) -> AdapterHandle {
        self.handle.as_ptr()
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // SAFETY: the adapter is open, and is not used any more.
        unsafe { (self.wintun.functions.close_adapter)(self.handle.as_ptr()) };
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("name", &self.name).field("wintun", &self.wintun).finish_non_exhaustive()
    }
}

fn wide_name(name: &str) -> Result<Vec<u16>> {
    let mut wide: Vec<u16> = name.encode_utf16().collect();
    if wide.is_empty() || wide.len() > MAX_NAME || wide.contains(&0) {
        return Err(Error::invalid(format!("{name:?} cannot be the name of an adapter")));
    }
    wide.push(0);
    Ok(wide)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_guid() {
        assert_eq!(guid_of("wg0"), guid_of("wg0"));
        assert_ne!(guid_of("wg0"), guid_of("wg1"));
        let guid = GUID::from_u128(guid_of("wg0"));
        assert_eq!((guid.data3 >> 12, guid.data4[0] >> 6), (8, 2));
    }

    #[test]
    fn names_fit_into_what_windows_has_for_them() {
        assert_eq!(wide_name("wg0").unwrap(), [119, 103, 48, 0]);
        assert_eq!(wide_name(&"x".repeat(MAX_NAME)).unwrap().len(), MAX_NAME + 1);
        for name in ["", "a\0b", &"x".repeat(MAX_NAME + 1), &"\u{1f600}".repeat(64)] {
            assert_eq!(wide_name(name).unwrap_err().kind(), ErrorKind::Invalid, "{name:?}");
        }
    }

    #[test]
    fn a_dll_that_cannot_be_loaded_is_named() {
        let error = Wintun::load(Path::new("wintun.dll")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let missing = std::env::temp_dir().join("wg-embed no such directory").join(FILE);
        let error = Wintun::load(&missing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&missing.display().to_string()), "{error}");
        // A DLL, but not this one.
        let other = system_directory().unwrap().join("kernel32.dll");
        let error = Wintun::load(&other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("WintunCreateAdapter"), "{error}");
        // A file, but not a DLL.
        let text = std::env::temp_dir().join(format!("wg-embed-{}.dll", std::process::id()));
        std::fs::write(&text, "no DLL").unwrap();
        let error = Wintun::load(&text).unwrap_err();
        std::fs::remove_file(&text).unwrap();
        assert!(error.to_string().contains(&text.display().to_string()), "{error}");
    }

    #[test]
    fn the_module_of_this_code_is_the_program() {
        let canonical = |path: PathBuf| std::fs::canonicalize(path).unwrap();
        assert_eq!(canonical(own_module().unwrap()), canonical(std::env::current_exe().unwrap()));
    }
}
