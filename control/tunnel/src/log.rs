//! Events of the library as lines of the protocol's log.

use std::{error, fmt};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};
use wg_embed_manager::{
    messages::{Log, log},
    tunnel::{quote, value},
};

/// The target of the protocol's own events: sending them as lines would cause further ones.
const PROTOCOL: &str = "wg_embed_manager";

/// Converts an event to a line. The loggers are the parts of its target, and fields are formatted by [`value`]. Returns
/// `None` for events of the protocol's own code.
#[must_use]
pub fn line(event: &Event<'_>) -> Option<Log> {
    let metadata = event.metadata();
    let logger_names: Vec<_> = metadata.target().split("::").map(str::to_owned).collect();
    if logger_names.first().is_some_and(|first| first == PROTOCOL) {
        return None;
    }
    let level = match *metadata.level() {
        Level::TRACE | Level::DEBUG => log::Level::Debug,
        Level::INFO => log::Level::Info,
        Level::WARN => log::Level::Warn,
        Level::ERROR => log::Level::Error,
    };
    let mut line = Line(Log { level: level.into(), logger_names, ..Log::default() });
    event.record(&mut line);
    Some(line.0)
}

struct Line(Log);

impl Line {
    fn add(&mut self, field: &Field, value: String) {
        self.0.fields.push(log::Field { name: field.name().to_owned(), value });
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => text.clone_into(&mut self.0.message),
            _ => self.add(field, value(text)),
        }
    }

    fn record_bytes(&mut self, field: &Field, bytes: &[u8]) {
        self.add(field, quote(bytes));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn error::Error + 'static)) {
        self.record_str(field, &error.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };
    use tracing::{Metadata, Subscriber, span};

    struct Lines(Arc<Mutex<Vec<Option<Log>>>>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(line(event));
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    fn lines(body: impl FnOnce()) -> Vec<Option<Log>> {
        let lines = Arc::default();
        tracing::subscriber::with_default(Lines(Arc::clone(&lines)), body);
        lines.lock().unwrap().drain(..).collect()
    }

    #[test]
    fn fields_have_the_forms_of_the_protocol() {
        let error = io::Error::other("two words");
        let raw: &[u8] = b"\xff";
        let address: std::net::IpAddr = "::1".parse().unwrap();
        let all = lines(|| {
            tracing::info!(
                target: "wg_embed::device::tunnel",
                url = "https://coder.example.com",
                mtu = 1280,
                up = true,
                empty = "",
                raw,
                error = &error as &(dyn error::Error + 'static),
                %address,
                list = ?[1, 2],
                "starting up"
            );
        });
        let line = all[0].as_ref().unwrap();
        assert_eq!((line.level(), line.message.as_str()), (log::Level::Info, "starting up"));
        assert_eq!(line.logger_names, ["wg_embed", "device", "tunnel"]);
        let fields: Vec<_> = line.fields.iter().map(|field| (field.name.as_str(), field.value.as_str())).collect();
        assert_eq!(
            fields,
            [
                ("url", "https://coder.example.com"),
                ("mtu", "1280"),
                ("up", "true"),
                ("empty", "\"\""),
                ("raw", "\"\\xff\""),
                ("error", "\"two words\""),
                ("address", "::1"),
                ("list", "\"[1, 2]\""),
            ]
        );
    }

    #[test]
    fn levels_are_those_of_the_protocol_and_its_own_events_are_left_out() {
        let all = lines(|| {
            tracing::trace!("a");
            tracing::debug!("a");
            tracing::warn!("a");
            tracing::error!("a");
            tracing::error!(target: "wg_embed_manager::speaker", "a");
            tracing::error!(target: "wg_embed_manager", "a");
        });
        let levels: Vec<_> = all.iter().map(|line| line.as_ref().map(Log::level)).collect();
        let [debug, warn, error] = [log::Level::Debug, log::Level::Warn, log::Level::Error].map(Some);
        assert_eq!(levels, [debug, debug, warn, error, None, None]);
    }
}
