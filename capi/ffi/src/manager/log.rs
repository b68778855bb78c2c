//! The log: to the callback of the app, and as lines for the manager.

use std::sync::{Arc, Mutex};

use crate::plumbing::log::{Forwarder, OwnLog, WG_LOG_OFF, check_level, level_of};
use tracing::{Dispatch, Event, Metadata, Subscriber, span, subscriber::Interest};
use wg_embed::{error::Result, process::between_forks, sync};
use wg_embed_manager::tunnel::Handle;

/// The lines that a manager is sent.
#[derive(Debug)]
pub(super) struct Lines {
    level: i32,
    /// Populated while the stream is open.
    manager: Mutex<Option<Handle>>,
}

impl Lines {
    pub(super) fn new(level: i32) -> Result<Self> {
        Ok(Self { level: check_level(level, WG_LOG_OFF)?, manager: Mutex::default() })
    }

    /// Sends them from now on; `None`: no longer.
    pub(super) fn set(&self, manager: Option<Handle>) {
        // The last handle waits for threads of the stream, which may log: it must not be dropped under the lock.
        let _before = std::mem::replace(&mut *sync::lock(&self.manager), manager);
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        level_of(metadata) <= self.level
    }

    fn send(&self, event: &Event<'_>) {
        let manager = sync::lock(&self.manager).clone();
        if let (Some(manager), Some(line)) = (manager, wg_embed_tunnel::log::line(event)) {
            manager.log(line);
        }
    }
}

/// A log whose lines go to `own` under this handle, or where those of the process go, and to a manager.
pub(super) fn dispatch_to(own: Arc<OwnLog>, handle: i32, lines: Arc<Lines>) -> Dispatch {
    between_forks(|| Dispatch::new(Both { app: Forwarder::new(handle, own), lines }))
}

struct Both {
    app: Forwarder,
    lines: Arc<Lines>,
}

impl Subscriber for Both {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lines.wants(metadata) || self.app.enabled(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        if self.lines.wants(event.metadata()) {
            self.lines.send(event);
        }
        if self.app.enabled(event.metadata()) {
            self.app.event(event);
        }
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
