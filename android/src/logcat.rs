//! Android's log, where apps of wireguard-android have their tunnels' lines.
//!
//! On other systems there is none, and lines go where `wg_set_log_callback` sends them.

use std::ffi::{CStr, CString, c_char, c_void};

use wg_embed_ffi::{WG_LOG_ERROR, leaf::tell_failure, wg_last_error, wg_options_t};

/// Whether there is such a log. In tests something else stands in for it.
const PRESENT: bool = cfg!(any(target_os = "android", test));

/// The tag of the lines of one interface.
pub(super) struct Tag(CString);

impl Tag {
    /// The original's tag for an interface.
    pub(super) fn new(interface: &CStr) -> Self {
        let tag = [b"WireGuard/GoBackend/", interface.to_bytes()].concat();
        // There is no zero byte in it, as there is none in either part.
        Self(CString::new(tag).unwrap_or_default())
    }

    /// Writes why the last call of this thread has failed.
    pub(super) fn failed(&self) {
        if !PRESENT {
            return tell_failure(0);
        }
        // SAFETY: the text is this thread's, and there is no other call meanwhile.
        write(WG_LOG_ERROR as i32, &self.0, unsafe { CStr::from_ptr(wg_last_error()) });
    }

    /// Sends all lines of the tunnel that is turned on with these options there: `line` only reads the tag, on any
    /// thread, and `destroy` is called once, after the last line.
    pub(super) fn log_of(&self, options: &mut wg_options_t) {
        if PRESENT {
            options.log = Some(line);
            options.log_user = self.0.clone().into_raw().cast();
            options.log_destroy = Some(destroy);
        }
    }
}

/// # Safety
/// `user` is the tag, and the text ends with a zero byte.
unsafe extern "C" fn line(user: *mut c_void, _: i32, level: i32, text: *const c_char) {
    // SAFETY: it was a `CString`'s, and is alive until `destroy`.
    let tag = unsafe { CStr::from_ptr(user.cast()) };
    // SAFETY: the caller says so.
    write(level, tag, unsafe { CStr::from_ptr(text) });
}

/// # Safety
/// `user` is the tag, and this is the only call.
unsafe extern "C" fn destroy(user: *mut c_void) {
    // SAFETY: it came from `into_raw`.
    drop(unsafe { CString::from_raw(user.cast()) });
}

/// Android's number for a level: ours count down from errors, Android's up to them.
const fn priority(level: i32) -> i32 {
    const ANDROID_LOG_ERROR: i32 = 6;
    ANDROID_LOG_ERROR + WG_LOG_ERROR as i32 - level
}

#[cfg(target_os = "android")]
fn write(level: i32, tag: &CStr, text: &CStr) {
    // SAFETY: both end with a zero byte, and are only read. That a line cannot be logged is nothing to log.
    unsafe { android_log_sys::__android_log_write(priority(level), tag.as_ptr(), text.as_ptr()) };
}

#[cfg(all(test, not(target_os = "android")))]
use tests::write;

#[cfg(not(any(target_os = "android", test)))]
fn write(level: i32, _: &CStr, _: &CStr) {
    let _ = priority(level);
}

#[cfg(all(test, not(target_os = "android")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{
        super::go::{go_string, wgTurnOff, wgTurnOn},
        *,
    };
    use std::{
        os::{fd::IntoRawFd, unix::net::UnixDatagram},
        sync::Mutex,
    };

    static LOG: Mutex<Vec<(i32, String, String)>> = Mutex::new(Vec::new());

    pub(super) fn write(level: i32, tag: &CStr, text: &CStr) {
        let owned = |text: &CStr| text.to_str().unwrap().to_owned();
        LOG.lock().unwrap().push((priority(level), owned(tag), owned(text)));
    }

    /// Turns a tunnel on and off, and returns the number that it had, and what was logged under its tag.
    fn lines(interface: &CStr, settings: &CStr) -> (i32, Vec<(i32, String)>) {
        let text = |text: &CStr| go_string { str: text.as_ptr(), n: text.count_bytes() as _ };
        let (fd, _app) = UnixDatagram::pair().unwrap();
        // SAFETY: the texts live, and the descriptor is given away.
        let number = unsafe { wgTurnOn(text(interface), fd.into_raw_fd(), text(settings)) };
        wgTurnOff(number);
        let tag = format!("WireGuard/GoBackend/{}", interface.to_str().unwrap());
        let mut log = LOG.lock().unwrap();
        let lines = log.extract_if(.., |line| line.1 == tag).map(|line| (line.0, line.2)).collect();
        (number, lines)
    }

    #[test]
    fn a_tunnel_logs_under_its_tag() {
        const INFO: i32 = 4;
        let (number, lines) = lines(c"tun7", c"listen_port=0\n");
        assert!(number >= 0);
        // Also what is logged before there is a number.
        for line in ["the interface is up", "the interface is down"] {
            assert!(lines.contains(&(INFO, line.into())), "{lines:?}");
        }
        let levels: Vec<_> = [1, 2, 3, 4, 5].map(priority).into();
        assert_eq!(levels, [6, 5, 4, 3, 2]);
    }

    #[test]
    fn the_reason_of_a_failure_is_logged_under_the_tag() {
        const ERROR: i32 = 6;
        let (number, lines) = lines(c"tun8", c"listen_port=x\n");
        assert_eq!(number, -1);
        let [(ERROR, reason)] = &lines[..] else { panic!("{lines:?}") };
        assert!(reason.contains("listen_port"), "{reason}");
    }
}
