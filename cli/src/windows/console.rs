//! Events of the console, which Windows reports on threads of its own.
#![allow(unsafe_code)]

use std::{
    io,
    sync::{OnceLock, mpsc::Sender},
    thread,
};

use windows_sys::{
    Win32::System::Console::{
        CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT, SetConsoleCtrlHandler,
    },
    core::BOOL,
};

const HANDLED: BOOL = 1;
const NOT_HANDLED: BOOL = 0;

/// The function that Windows calls has no other way to get at it.
static ENDS: OnceLock<Sender<String>> = OnceLock::new();

/// Sends "interrupted" for Ctrl-C and Ctrl-Break, and when the console's window is closed or the system shuts down.
/// Nothing is sent when a user logs off: a process of LocalSystem gets that event for any user.
///
/// # Errors
/// `AlreadyExists` after the first call; errors of the system.
pub(crate) fn watch(ends: Sender<String>) -> io::Result<()> {
    ENDS.set(ends).map_err(|_| io::ErrorKind::AlreadyExists)?;
    // SAFETY: the function can be called on any thread until the process ends.
    match unsafe { SetConsoleCtrlHandler(Some(on_event), 1) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

extern "system" fn on_event(event: u32) -> BOOL {
    match event {
        CTRL_C_EVENT | CTRL_BREAK_EVENT => interrupt(),
        CTRL_CLOSE_EVENT | CTRL_SHUTDOWN_EVENT => {
            interrupt();
            // Windows ends the process when this returns, or after some seconds; the daemon ends it before.
            loop {
                thread::park();
            }
        }
        CTRL_LOGOFF_EVENT => {}
        _ => return NOT_HANDLED,
    }
    HANDLED
}

fn interrupt() {
    if let Some(ends) = ENDS.get() {
        // Nothing receives it if the daemon is ending already.
        let _ = ends.send("interrupted".into());
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    /// Only bounds a hang.
    const LIMIT: Duration = Duration::from_secs(300);

    #[test]
    fn all_events_but_that_of_a_user_who_logs_off_end_the_daemon() {
        let (sender, ends) = mpsc::channel();
        watch(sender.clone()).unwrap();
        assert_eq!(watch(sender).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((on_event(CTRL_LOGOFF_EVENT), on_event(u32::MAX)), (HANDLED, NOT_HANDLED));
        assert!(ends.try_recv().is_err());
        for event in [CTRL_C_EVENT, CTRL_BREAK_EVENT] {
            assert_eq!(on_event(event), HANDLED);
            assert_eq!(ends.try_recv().unwrap(), "interrupted");
        }
        for event in [CTRL_CLOSE_EVENT, CTRL_SHUTDOWN_EVENT] {
            // It does not return.
            thread::spawn(move || on_event(event));
            assert_eq!(ends.recv_timeout(LIMIT).unwrap(), "interrupted");
        }
    }
}
