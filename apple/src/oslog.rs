//! The log of Apple's systems, where Console and `log stream` show it.

use std::ffi::{CStr, c_char, c_void};

use wg_embed::error::{Error, ErrorKind, Result};
use wg_embed_ffi::{
    self as ffi,
    leaf::guard,
    wg_log_level_t::{WG_LOG_ERROR, WG_LOG_INFO, WG_LOG_WARN},
    wg_result_t::{self, WG_OK},
};

#[cfg(not(target_vendor = "apple"))]
use elsewhere as system;

/// # Safety
/// `subsystem` is NULL or ends with a zero byte.
pub(super) unsafe fn set(subsystem: *const c_char) -> wg_result_t {
    let mut sink = None;
    let result: wg_result_t = guard(|| {
        if subsystem.is_null() {
            return Err(Error::new(ErrorKind::Null, "subsystem is NULL"));
        }
        // SAFETY: it ends with a zero byte, says the caller.
        let subsystem = unsafe { CStr::from_ptr(subsystem) };
        let subsystem = subsystem.to_str().map_err(|_| Error::invalid("subsystem is not UTF-8"))?;
        sink = Some(Box::new(system::Log::open(subsystem)?));
        Ok(())
    });
    let Some(sink) = sink.filter(|_| result == WG_OK) else { return result };
    // SAFETY: `line` only reads the log, on any thread, and `destroy` is called once, after the last line.
    unsafe { ffi::wg_set_log_callback(Some(line), Box::into_raw(sink).cast(), Some(destroy)) }
}

/// # Safety
/// `log` is a [`system::Log`], and the text ends with a zero byte.
unsafe extern "C" fn line(log: *mut c_void, _: i32, level: i32, text: *const c_char) {
    // SAFETY: it lives until `destroy`.
    let log = unsafe { &*log.cast::<system::Log>() };
    // SAFETY: the caller says so.
    let text = unsafe { CStr::from_ptr(text) };
    log.write(Kind::of(level), &text.to_string_lossy());
}

/// # Safety
/// `log` is a [`system::Log`] of a box, and this is the only call.
unsafe extern "C" fn destroy(log: *mut c_void) {
    // SAFETY: it came from `into_raw`.
    drop(unsafe { Box::from_raw(log.cast::<system::Log>()) });
}

/// The system's kinds of lines. It keeps the first two on disk, and the last two in memory at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    Default,
    Info,
    Debug,
}

impl Kind {
    /// The kind of a line of a [`ffi::wg_log_level_t`].
    const fn of(level: i32) -> Self {
        const ERROR: i32 = WG_LOG_ERROR as i32;
        const WARN: i32 = WG_LOG_WARN as i32;
        const INFO: i32 = WG_LOG_INFO as i32;
        match level {
            ..=ERROR => Self::Error,
            WARN => Self::Default,
            INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}

#[cfg(target_vendor = "apple")]
mod system {
    use super::{Kind, Result};

    pub(super) struct Log(oslog::OsLog);

    impl Log {
        /// `Err` on other systems only.
        #[allow(clippy::unnecessary_wraps)]
        pub(super) fn open(subsystem: &str) -> Result<Self> {
            Ok(Self(oslog::OsLog::new(subsystem, "wg-embed")))
        }

        pub(super) fn write(&self, kind: Kind, text: &str) {
            let level = match kind {
                Kind::Error => oslog::Level::Error,
                Kind::Default => oslog::Level::Default,
                Kind::Info => oslog::Level::Info,
                Kind::Debug => oslog::Level::Debug,
            };
            self.0.with_level(level, text);
        }
    }
}

/// Other systems have no such log. In tests, lines are kept for them.
#[cfg(not(target_vendor = "apple"))]
mod elsewhere {
    use super::{Error, ErrorKind, Kind, Result};

    pub(super) struct Log;

    impl Log {
        pub(super) fn open(_subsystem: &str) -> Result<Self> {
            if cfg!(test) {
                Ok(Self)
            } else {
                Err(Error::new(ErrorKind::Unsupported, "only Apple's systems have that log"))
            }
        }

        #[cfg(not(test))]
        pub(super) fn write(&self, _: Kind, _: &str) {}

        #[cfg(test)]
        pub(super) fn write(&self, kind: Kind, text: &str) {
            super::tests::LINES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((kind, text.to_owned()));
        }
    }
}

#[cfg(all(test, not(target_vendor = "apple")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        os::{fd::AsRawFd, unix::net::UnixDatagram},
        ptr,
        sync::Mutex,
    };

    pub(super) static LINES: Mutex<Vec<(Kind, String)>> = Mutex::new(Vec::new());

    #[test]
    fn lines_reach_the_system_until_another_sink_is_set() {
        use crate::{wgTurnOff, wgTurnOn};
        // SAFETY: the text ends with a zero byte.
        assert_eq!(unsafe { set(c"com.example.vpn".as_ptr()) }, WG_OK);
        let (fd, _app) = UnixDatagram::pair().unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { wgTurnOn(c"listen_port=x\n".as_ptr(), fd.as_raw_fd()) }, -1);
        // SAFETY: as above.
        let handle = unsafe { wgTurnOn(ptr::null(), fd.as_raw_fd()) };
        wgTurnOff(handle);
        let lines = std::mem::take(&mut *LINES.lock().unwrap());
        assert!(lines.iter().any(|(kind, text)| *kind == Kind::Error && text.contains("listen_port")), "{lines:?}");
        assert!(lines.contains(&(Kind::Info, "the interface is up".into())), "{lines:?}");

        // SAFETY: there is nothing to call.
        assert_eq!(unsafe { ffi::wg_set_log_callback(None, ptr::null_mut(), None) }, WG_OK);
        // SAFETY: as above.
        wgTurnOff(unsafe { wgTurnOn(ptr::null(), fd.as_raw_fd()) });
        assert!(LINES.lock().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_subsystem_is_refused() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { set(ptr::null()) }, wg_result_t::WG_ERR_NULL);
        // SAFETY: the text ends with a zero byte.
        assert_eq!(unsafe { set(c"\xff".as_ptr()) }, wg_result_t::WG_ERR_INVALID);
    }

    #[test]
    fn each_level_has_a_kind() {
        use ffi::wg_log_level_t::{WG_LOG_DEBUG, WG_LOG_TRACE};
        let levels = [WG_LOG_ERROR, WG_LOG_WARN, WG_LOG_INFO, WG_LOG_DEBUG, WG_LOG_TRACE];
        let kinds = levels.map(|level| Kind::of(level as i32));
        assert_eq!(kinds, [Kind::Error, Kind::Default, Kind::Info, Kind::Debug, Kind::Debug]);
    }
}
