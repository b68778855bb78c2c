//! A stream over two handles of Windows: pipes that are read and written synchronously, such as anonymous ones.
#![allow(unsafe_code, reason = "it calls the system")]

use super::transport::{Stop, Transport};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};
use wg_embed::sync::{lock, wait_timeout};
use windows_sys::Win32::System::{
    IO::CancelSynchronousIo,
    Threading::{GetCurrentThreadId, OpenThread, THREAD_TERMINATE},
};

/// The time for a thread to leave an operation that is being cancelled, before the cancellation is repeated: the
/// operation may not have begun at the time of the first one.
const AGAIN: Duration = Duration::from_millis(1);

/// The time limit for these attempts.
const PATIENCE: Duration = Duration::from_secs(10);

impl Transport {
    /// Creates a transport that reads from one handle and writes to another. The pipes must not have been opened for
    /// overlapped I/O. Both are closed when the stream ends.
    #[must_use]
    pub fn from_handles(read: OwnedHandle, write: OwnedHandle) -> Self {
        let (reads, writes) = (Arc::new(Operation::default()), Arc::new(Operation::default()));
        Self {
            reader: Box::new(Half { file: read.into(), operation: reads.clone() }),
            writer: Box::new(Half { file: write.into(), operation: writes.clone() }),
            stop: Arc::new(move || {
                reads.stop();
                writes.stop();
            }),
        }
    }
}

/// A read or a write that may be cancelled. There is at most one at a time.
#[derive(Default)]
struct Operation {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    /// The thread that is inside it.
    thread: Option<OwnedHandle>,
    is_stopped: bool,
}

impl Operation {
    fn perform<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let thread = current_thread()?;
        {
            let mut state = lock(&self.state);
            if state.is_stopped {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state.thread = Some(thread);
        }
        let result = operation();
        let mut state = lock(&self.state);
        state.thread = None;
        let is_stopped = state.is_stopped;
        drop(state);
        self.left.notify_all();
        if is_stopped { result.map_err(|_| io::ErrorKind::ConnectionAborted.into()) } else { result }
    }
}

impl Stop for Operation {
    fn stop(&self) {
        let mut state = lock(&self.state);
        state.is_stopped = true;
        let began = Instant::now();
        while let Some(thread) = &state.thread {
            // SAFETY: the handle is open, and of a thread that is between the two locks of `perform`, where nothing but
            // that operation can be cancelled.
            unsafe { CancelSynchronousIo(thread.as_raw_handle()) };
            if began.elapsed() > PATIENCE {
                tracing::error!("a pipe cannot be interrupted");
                return;
            }
            state = wait_timeout(&self.left, state, AGAIN);
        }
    }
}

/// Returns a handle of the calling thread with which its operations can be cancelled.
fn current_thread() -> io::Result<OwnedHandle> {
    // SAFETY: it has no requirements.
    let number = unsafe { GetCurrentThreadId() };
    // SAFETY: it takes a number, of a thread that runs.
    let thread = unsafe { OpenThread(THREAD_TERMINATE, 0, number) };
    if thread.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just opened, and nothing else owns it.
    Ok(unsafe { OwnedHandle::from_raw_handle(thread) })
}

/// One direction.
struct Half {
    file: File,
    operation: Arc<Operation>,
}

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.operation.perform(|| self.file.read(buffer))
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.operation.perform(|| self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
