//! The end of the process: an app that leaves tunnels on finds its functions called no more.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{
    bind::Bound,
    callback,
    handle::{self, Entry},
    log, ports,
    tunnel::Running,
};
use crate::thread;

/// How long the process waits for calls that are under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits for the calls of one callback, until some time at the most.
pub(super) type Wait = Box<dyn FnOnce(Instant)>;

/// cbindgen:ignore
#[cfg(unix)]
mod system {
    unsafe extern "C" {
        pub(super) safe fn atexit(function: extern "C" fn()) -> std::ffi::c_int;
    }
}

/// Has the app's functions given up when the process ends by exit(), or main() returns. Idempotent.
pub(super) fn watch() {
    static WATCHES: AtomicBool = AtomicBool::new(false);
    if !WATCHES.swap(true, Ordering::Relaxed) {
        #[cfg(unix)]
        if system::atexit(at_exit) != 0 {
            tracing::debug!("functions of the app may be called while the process ends");
        }
    }
}

/// Runs before what the app has given to atexit() earlier, and before its static objects are destroyed that are older than
/// its first tunnel. In a child it finds nothing: what its parent has is not its business.
#[cfg_attr(not(unix), allow(dead_code))]
extern "C" fn at_exit() {
    let mut waits: Vec<Wait> = ports::abandon();
    handle::visit(|tunnel: &Entry<Running>| waits.extend(tunnel.abandon()));
    handle::visit(|bind: &Entry<Bound>| waits.extend(bind.abandon()));
    waits.extend(log::abandon());
    if !callback::is_inside() && !thread::is_ours() {
        let until = Instant::now() + PATIENCE;
        waits.into_iter().for_each(|wait| wait(until));
    }
}
