//! Writing to the descriptor of standard error.
#![allow(unsafe_code)]

use std::{io, time::Instant};

/// Writes everything, for as long as that takes, or until `until`. Returns false if the time was too short. If it
/// fails, there is no reader any more.
pub(super) fn write(mut bytes: &[u8], until: Option<Instant>) -> bool {
    while !bytes.is_empty() {
        let mut len = bytes.len();
        if until.is_some() {
            // A pipe accepts this amount at once if it accepts anything.
            len = len.min(libc::PIPE_BUF);
            if !becomes_writable(until) {
                return false;
            }
        }
        // SAFETY: the bytes live, and there are at least as many.
        let written = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), len) };
        match usize::try_from(written) {
            Ok(written) => bytes = &bytes[written..],
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                // Another process has made the descriptor non-blocking.
                io::ErrorKind::WouldBlock => {
                    becomes_writable(until);
                }
                _ => return true,
            },
        }
    }
    true
}

/// Waits until something can be written, or the time is over.
fn becomes_writable(until: Option<Instant>) -> bool {
    let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_millis();
    let timeout = until.map_or(-1, |until| left(until).try_into().unwrap_or(libc::c_int::MAX));
    let mut poll = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: poll(2) writes to one `pollfd`, which lives.
    unsafe { libc::poll(&raw mut poll, 1, timeout) > 0 }
}
