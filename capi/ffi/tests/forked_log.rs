//! A child of `fork()` that has inherited the lock of tracing's registry: no call may wait for it.
#![cfg(unix)]
#![allow(unsafe_code, clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may fail loudly")]

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing::{Dispatch, Event, Metadata, Subscriber, span, subscriber::Interest};
use wg_embed_ffi::*;

/// Only bounds a hang.
const LIMIT: Duration = Duration::from_secs(300);

/// The target of the event at whose registration a thread stops, with the lock.
const STOP: &str = "stop";

/// Says that a thread has come there, and waits until the test has ended.
struct Stops(Mutex<(mpsc::Sender<()>, mpsc::Receiver<()>)>);

impl Subscriber for Stops {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == STOP {
            let channels = self.0.lock().unwrap();
            channels.0.send(()).unwrap();
            let _ = channels.1.recv();
        }
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Runs `body` in a child, which has failed if it panics or does not end.
fn in_child(body: fn(i32, i32), tunnel: i32, bind: i32) {
    // SAFETY: the child touches nothing that a thread of this process could have locked, or else the test is to fail.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: alarm(2) takes a number.
        unsafe { libc::alarm(LIMIT.as_secs() as u32) };
        let outcome = std::panic::catch_unwind(|| body(tunnel, bind));
        // SAFETY: it ends this process, without what the parent would do at its end.
        unsafe { libc::_exit(outcome.is_err().into()) };
    }
    let mut status = 0;
    // SAFETY: the status is written to a number that lives. The child ends by its alarm at the latest.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((ended, status), (child, 0));
}

/// A tunnel between whose ends nothing passes.
fn turn_on() -> i32 {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written to an array that lives.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, ends.as_mut_ptr()) }, 0);
    // SAFETY: the text is constant; the descriptor is the tunnel's from now on.
    let handle = unsafe { wg_turn_on(ends[0], c"listen_port=0\n".as_ptr()) };
    assert!(handle > 0, "{handle}");
    handle
}

unsafe extern "C" fn line(lines: *mut c_void, _: i32, _: i32, text: *const c_char) {
    // SAFETY: the text ends with a zero byte.
    assert!(!unsafe { CStr::from_ptr(text) }.is_empty());
    // SAFETY: it is the counter below.
    unsafe { &*lines.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
}

/// What is its parent's is refused at once, and so is what it asks for in vain itself.
fn is_a_child(tunnel: i32, bind: i32) {
    static LINES: AtomicUsize = AtomicUsize::new(0);
    let refused = wg_result_t::WG_ERR_FORKED;
    let none = ptr::null_mut();
    let mut text = ptr::null_mut();
    // SAFETY: the text is constant.
    assert_eq!(unsafe { wg_set_config(tunnel, c"".as_ptr()) }, refused);
    // SAFETY: there is room for a pointer.
    assert_eq!(unsafe { wg_get_config(tunnel, &raw mut text) }, refused);
    let ends = [wg_turn_off(tunnel), wg_turn_off_within(tunnel, 1), wg_udp_close(bind)];
    assert_eq!(ends, [refused; 3]);
    // SAFETY: the function does not look at what it gets before it is called.
    assert_eq!(unsafe { wg_set_tunnel_log_callback(tunnel, Some(line), none, None) }, refused);
    // SAFETY: there are no datagrams.
    assert_eq!(unsafe { wg_udp_recv(bind, WG_IPV4 as u32, ptr::null_mut(), 0, -1) }, refused as i32);
    assert_eq!(wg_turn_off(i32::MAX), wg_result_t::WG_ERR_UNKNOWN_HANDLE);
    let lines = ptr::from_ref(&LINES).cast_mut().cast();
    // SAFETY: the counter lives for ever.
    assert_eq!(unsafe { wg_set_log_callback(Some(line), lines, None) }, wg_result_t::WG_OK);
    // SAFETY: there is no such descriptor, and the text is constant.
    let failed = unsafe { wg_turn_on(-1, c"".as_ptr()) };
    assert!(failed < 0, "{failed}");
}

#[test]
fn a_child_waits_for_no_lock_of_its_parents_log() {
    let tunnel = turn_on();
    // SAFETY: NULL stands for the usual options.
    let bind = unsafe { wg_udp_open(ptr::null(), ptr::null_mut()) };
    assert!(bind > 0, "{bind}");
    let ((has_come, comes), (goes_on, go_on)) = (mpsc::channel(), mpsc::channel::<()>());
    let _stops = Dispatch::new(Stops(Mutex::new((has_come, go_on))));
    let stopped = thread::spawn(|| tracing::trace!(target: STOP, "this thread has the lock now"));
    comes.recv_timeout(LIMIT).unwrap();
    in_child(is_a_child, tunnel, bind);
    drop(goes_on);
    stopped.join().unwrap();
    assert_eq!([wg_turn_off(tunnel), wg_udp_close(bind)], [wg_result_t::WG_OK; 2]);
}
