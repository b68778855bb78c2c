//! The lines that are logged on a thread.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

use std::{cell::RefCell, sync::Once};

use tracing::{Event, Level, Metadata, Subscriber, span};
use wg_embed::log;

thread_local! {
    /// What is collected on this thread, and up to which level.
    static COLLECTED: RefCell<Option<(Level, Vec<String>)>> = const { RefCell::new(None) };
}

/// Lines up to a level that this thread has logged since this was made, until it is dropped.
pub struct Lines(());

impl Lines {
    pub fn collect(level: Level) -> Self {
        static INSTALLED: Once = Once::new();
        // One for all threads: of several, `tracing` may ask that of a thread which collects nothing whether a line is
        // wanted at all.
        INSTALLED.call_once(|| tracing::subscriber::set_global_default(Collector).unwrap());
        // Each time: what another thread logged for the first time while that was under way has found no subscriber.
        tracing::callsite::rebuild_interest_cache();
        COLLECTED.set(Some((level, Vec::new())));
        Self(())
    }

    /// The lines since this was called last.
    pub fn take(&self) -> Vec<String> {
        COLLECTED.with_borrow_mut(|collected| std::mem::take(&mut collected.as_mut().unwrap().1))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        COLLECTED.set(None);
    }
}

struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let level = event.metadata().level();
        COLLECTED.with_borrow_mut(|collected| {
            if let Some((_, lines)) = collected.as_mut().filter(|(most, _)| level <= most) {
                lines.push(format!("{level} {}", log::text(event)));
            }
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
