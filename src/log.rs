//! What an event of the log says, for those that show it: they add the time, the level, and whom it is about.

use std::{
    fmt::{self, Display, Write as _},
    net::SocketAddr,
};

use tracing::{
    Event,
    field::{Field, Visit},
};

/// The message of an event, and its other fields behind it, each as ` name=value`. A peer or a client may have had a hand
/// in it: it may be of several lines.
#[must_use]
pub fn text(event: &Event<'_>) -> String {
    let mut line = Line::default();
    event.record(&mut line);
    line.message + &line.fields
}

/// The target of the events below: not this module, which is not where they come from.
const TARGET: &str = "wg_embed";

// What is logged in many places has a function for each kind of event: a macro of `tracing` takes half a KB of the
// library, with what it keeps about itself.

/// Something has happened that an app's user may want to know.
#[cold]
#[inline(never)]
pub(crate) fn info(text: &str) {
    tracing::info!(target: TARGET, "{text}");
}

/// Something has happened.
#[cold]
#[inline(never)]
pub(crate) fn debug(text: &str) {
    tracing::debug!(target: TARGET, "{text}");
}

/// Something failed that matters little.
#[cold]
#[inline(never)]
pub(crate) fn debug_failure(err: &dyn Display, text: &str) {
    tracing::debug!(target: TARGET, %err, "{text}");
}

/// Something failed, and the library goes on without it.
#[cold]
#[inline(never)]
pub(crate) fn warn_failure(err: &dyn Display, text: &str) {
    tracing::warn!(target: TARGET, %err, "{text}");
}

/// Something happens with a peer.
#[cold]
#[inline(never)]
pub(crate) fn debug_peer(peer: &dyn Display, text: &str) {
    tracing::debug!(target: TARGET, %peer, "{text}");
}

/// Something came from a peer.
#[cold]
#[inline(never)]
pub(crate) fn debug_from_peer(peer: &dyn Display, from: SocketAddr, text: &str) {
    tracing::debug!(target: TARGET, %peer, %from, "{text}");
}

/// Something goes to a peer.
#[cold]
#[inline(never)]
pub(crate) fn debug_to_peer(peer: &dyn Display, to: SocketAddr, text: &str) {
    tracing::debug!(target: TARGET, %peer, %to, "{text}");
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    // What prints fractions takes 23 KB, and no field is one.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record_i64(field, value as i64);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{io, sync::Mutex};
    use tracing::{Metadata, Subscriber, span};

    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Lines;

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn event(&self, event: &Event<'_>) {
            let (level, target) = (event.metadata().level(), event.metadata().target());
            LINES.lock().unwrap().push(format!("{level} {target}: {}", text(event)));
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn events_have_their_text_and_fields_of_their_own() {
        let peer = "its key";
        let address = SocketAddr::from(([192, 0, 2, 1], 7));
        let err = io::Error::other("it is full");
        tracing::subscriber::with_default(Lines, || {
            info("it is up");
            debug("it is here");
            debug_failure(&err, "cannot do {this}");
            warn_failure(&err, "cannot do that");
            debug_peer(&peer, "it is there");
            debug_from_peer(&peer, address, "it came");
            debug_to_peer(&peer, address, "it goes");
        });
        let expected = [
            "INFO wg_embed: it is up",
            "DEBUG wg_embed: it is here",
            "DEBUG wg_embed: cannot do {this} err=it is full",
            "WARN wg_embed: cannot do that err=it is full",
            "DEBUG wg_embed: it is there peer=its key",
            "DEBUG wg_embed: it came peer=its key from=192.0.2.1:7",
            "DEBUG wg_embed: it goes peer=its key to=192.0.2.1:7",
        ];
        assert_eq!(*LINES.lock().unwrap(), expected);
    }
}
