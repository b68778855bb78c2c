//! One instance of a named pipe. Its calls wait on the calling thread, until an event or the time limit ends them.
//!
//! There are no buffers of a library in between, so keys are only in memory that the caller wipes.
#![allow(unsafe_code)]

use std::{
    io,
    os::windows::{
        ffi::OsStrExt,
        io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle},
    },
    path::Path,
    ptr,
    sync::Mutex,
    time::Duration,
};

use windows_sys::{
    Win32::{
        Foundation::{
            ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_INVALID_OWNER, ERROR_IO_PENDING, ERROR_NO_DATA,
            ERROR_OPERATION_ABORTED, ERROR_PIPE_BUSY, ERROR_PIPE_CONNECTED, ERROR_PIPE_NOT_CONNECTED,
            INVALID_HANDLE_VALUE, LocalFree,
        },
        Security::{
            Authorization::{ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1},
            PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES,
        },
        Storage::FileSystem::{
            FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX, ReadFile, WriteFile,
        },
        System::{
            IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED},
            Pipes::{
                ConnectNamedPipe, CreateNamedPipeW, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE,
                PIPE_UNLIMITED_INSTANCES, PIPE_WAIT, PeekNamedPipe,
            },
        },
    },
    core::BOOL,
};

use crate::sync::{
    self,
    event::{Event, wait_any},
};

/// Owner and access rights: LocalSystem owns the pipe, it and administrators have all access, and processes of a lower
/// integrity level than theirs have none.
const SECURITY: &str = "O:SYD:P(A;;GA;;;SY)(A;;GA;;;BA)S:(ML;;NWNRNX;;;HI)";

/// The size of each direction's buffer in the system, in bytes.
const BUFFER: u32 = 65_536;

/// An instance of a pipe.
#[derive(Debug)]
pub(super) struct Instance {
    pipe: OwnedHandle,
    /// Set when the operation in progress is done; locked while there is one.
    done: Mutex<Event>,
}

/// Returns whether another process has the name, or this one may not have it: the system has one error for both.
pub(super) fn is_taken(error: &io::Error) -> bool {
    is(error, ERROR_ACCESS_DENIED) || is(error, ERROR_PIPE_BUSY)
}

/// Returns whether this process may not give the pipe to its owner.
pub(super) fn is_owner_refused(error: &io::Error) -> bool {
    is(error, ERROR_INVALID_OWNER)
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code as i32)
}

impl Instance {
    /// Creates the first instance; fails if the name has instances.
    pub(super) fn first(path: &Path) -> io::Result<Self> {
        Self::create(path, FILE_FLAG_FIRST_PIPE_INSTANCE)
    }

    /// Creates another instance.
    pub(super) fn another(path: &Path) -> io::Result<Self> {
        Self::create(path, 0)
    }

    fn create(path: &Path, flags: u32) -> io::Result<Self> {
        let done = Mutex::new(Event::lasting()?);
        let security = Security::new()?;
        let attributes = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: security.0,
            bInheritHandle: 0,
        };
        let path: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
        let open = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | flags;
        let mode = PIPE_TYPE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS;
        let (most, path, attributes) = (PIPE_UNLIMITED_INSTANCES, path.as_ptr(), &raw const attributes);
        // SAFETY: the path ends in a zero; it, the attributes and the descriptor live.
        let pipe = unsafe { CreateNamedPipeW(path, open, mode, most, BUFFER, BUFFER, 0, attributes) };
        if pipe == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was just created for us.
        Ok(Self { pipe: unsafe { OwnedHandle::from_raw_handle(pipe) }, done })
    }

    /// Waits for a client, and returns whether there is one. `wake` ends the wait.
    pub(super) fn connect(&self, wake: &Event, timeout: Option<Duration>) -> io::Result<bool> {
        // SAFETY: the operation is over when `complete` returns, until when `overlapped` lives.
        let connect = |overlapped| unsafe { ConnectNamedPipe(self.pipe.as_raw_handle(), overlapped) };
        match self.complete(wake, timeout, connect) {
            Ok(_) => Ok(true),
            // It has come before the call. With the second error it has also left, which the next read reports.
            Err(error) if is(&error, ERROR_PIPE_CONNECTED) || is(&error, ERROR_NO_DATA) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads available bytes, and waits if there are none; 0 if the client has closed the connection.
    pub(super) fn read(&self, into: &mut [u8], ended: &Event, timeout: Option<Duration>) -> io::Result<usize> {
        let (buffer, room) = (into.as_mut_ptr(), into.len().try_into().unwrap_or(u32::MAX));
        let read = |overlapped| {
            // SAFETY: the operation is over when `complete` returns, until when buffer and `overlapped` live.
            unsafe { ReadFile(self.pipe.as_raw_handle(), buffer, room, ptr::null_mut(), overlapped) }
        };
        match self.complete(ended, timeout, read) {
            Err(error) if is(&error, ERROR_BROKEN_PIPE) || is(&error, ERROR_PIPE_NOT_CONNECTED) => Ok(0),
            outcome => outcome,
        }
    }

    /// Writes, and waits until the system or the client has taken everything.
    pub(super) fn write(&self, bytes: &[u8], ended: &Event, timeout: Option<Duration>) -> io::Result<usize> {
        let (buffer, len) = (bytes.as_ptr(), bytes.len().try_into().unwrap_or(u32::MAX));
        self.complete(ended, timeout, |overlapped| {
            // SAFETY: the operation is over when `complete` returns, until when the bytes and `overlapped` live.
            unsafe { WriteFile(self.pipe.as_raw_handle(), buffer, len, ptr::null_mut(), overlapped) }
        })
    }

    /// Returns whether the client has closed the connection.
    pub(super) fn has_hung_up(&self) -> bool {
        let (pipe, none) = (self.pipe.as_raw_handle(), ptr::null_mut());
        // SAFETY: nothing is asked for but whether it works.
        unsafe { PeekNamedPipe(pipe, ptr::null_mut(), 0, none, none, none) == 0 }
    }

    /// Starts an operation, and waits for its end. If `cancel` is set first, or after the time limit, it is cancelled,
    /// and the error is `ConnectionAborted` or `TimedOut`. In any case the operation has ended when this returns.
    fn complete(
        &self,
        cancel: &Event,
        timeout: Option<Duration>,
        start: impl FnOnce(*mut OVERLAPPED) -> BOOL,
    ) -> io::Result<usize> {
        let done = sync::lock(&self.done);
        done.reset()?;
        let mut overlapped = OVERLAPPED { hEvent: done.as_handle().as_raw_handle(), ..OVERLAPPED::default() };
        if start(&raw mut overlapped) == 0 {
            let error = io::Error::last_os_error();
            if !is(&error, ERROR_IO_PENDING) {
                return Err(error);
            }
        }
        // An earlier request to end has priority over available bytes.
        let waited = wait_any(&[cancel.as_handle(), done.as_handle()], timeout);
        if !matches!(waited, Ok(Some(1))) {
            // SAFETY: the operation was started on this handle with this structure. It may be done already.
            unsafe { CancelIoEx(self.pipe.as_raw_handle(), &raw const overlapped) };
        }
        let mut bytes = 0;
        let (pipe, operation) = (self.pipe.as_raw_handle(), &raw const overlapped);
        // SAFETY: as above; the call waits until the system has done with the structure and the operation's buffer.
        if unsafe { GetOverlappedResult(pipe, operation, &raw mut bytes, 1) } != 0 {
            return Ok(bytes as usize);
        }
        let error = io::Error::last_os_error();
        if !is(&error, ERROR_OPERATION_ABORTED) {
            return Err(error);
        }
        match waited? {
            Some(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// The security descriptor of a pipe.
struct Security(PSECURITY_DESCRIPTOR);

impl Security {
    fn new() -> io::Result<Self> {
        let text: Vec<u16> = SECURITY.encode_utf16().chain([0]).collect();
        let (text, mut descriptor) = (text.as_ptr(), ptr::null_mut());
        let (revision, no_size) = (SDDL_REVISION_1, ptr::null_mut());
        // SAFETY: the text ends in a zero; one pointer is written, and its memory is freed below.
        let done = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(text, revision, &raw mut descriptor, no_size)
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(descriptor)) }
    }
}

impl Drop for Security {
    fn drop(&mut self) {
        // SAFETY: the system has allocated it with this allocator, and it is freed once.
        unsafe { LocalFree(self.0) };
    }
}
