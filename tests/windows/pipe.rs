//! What wg(8) does with a pipe, in short: open it, check its owner, write a request, read the answer.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::windows::{ffi::OsStrExt, io::AsRawHandle},
    path::Path,
    ptr, thread,
    time::{Duration, Instant},
};

use windows_sys::Win32::{
    Foundation::{ERROR_FILE_NOT_FOUND, ERROR_PIPE_BUSY, LocalFree},
    Security::{
        Authorization::{GetSecurityInfo, SE_FILE_OBJECT},
        IsWellKnownSid, OWNER_SECURITY_INFORMATION, WinLocalSystemSid,
    },
    System::LibraryLoader::{GetModuleHandleW, GetProcAddress},
};

/// Only bounds a hang.
const LIMIT: Duration = Duration::from_secs(300);

/// Opens a pipe, once there is one and it has room.
pub fn open(path: &Path) -> File {
    let begun = Instant::now();
    loop {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(pipe) => return pipe,
            Err(error) => {
                let code = error.raw_os_error().map(|code| code as u32);
                let may_come = matches!(code, Some(ERROR_FILE_NOT_FOUND | ERROR_PIPE_BUSY));
                assert!(may_come && begun.elapsed() < LIMIT, "{}: {error}", path.display());
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Whether the pipe belongs to LocalSystem: only then does wg(8) pass keys.
pub fn belongs_to_the_system(pipe: &File) -> bool {
    let (mut owner, mut descriptor, no) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let (handle, what) = (pipe.as_raw_handle(), OWNER_SECURITY_INFORMATION);
    // SAFETY: the handle is open; the descriptor, which the owner is part of, is freed below.
    let code = unsafe {
        GetSecurityInfo(
            handle,
            SE_FILE_OBJECT,
            what,
            &raw mut owner,
            no,
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut descriptor,
        )
    };
    assert_eq!(code, 0, "the owner cannot be asked for");
    // SAFETY: the owner was just returned.
    let is_system = unsafe { IsWellKnownSid(owner, WinLocalSystemSid) } != 0;
    // SAFETY: it was allocated by the call above.
    unsafe { LocalFree(descriptor) };
    is_system
}

/// Sends a request and reads the answer, up to the empty line.
pub fn ask(mut pipe: &File, request: &str) -> io::Result<String> {
    pipe.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n\n") {
        let mut part = [0; 4096];
        match pipe.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => answer.extend_from_slice(&part[..len]),
        }
    }
    Ok(String::from_utf8(answer).unwrap())
}

/// Whether this is Wine, which lacks some of what Windows has.
pub fn is_wine() -> bool {
    let wide: Vec<u16> = std::ffi::OsStr::new("ntdll.dll").encode_wide().chain([0]).collect();
    // SAFETY: the name ends in a zero; this module is in each process.
    let module = unsafe { GetModuleHandleW(wide.as_ptr()) };
    // SAFETY: the module is loaded, and the name ends in a zero.
    unsafe { GetProcAddress(module, c"wine_get_version".as_ptr().cast()) }.is_some()
}
