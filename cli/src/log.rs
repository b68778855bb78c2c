//! The log: one line on stderr for each event, with its time.

use std::{
    fmt, panic,
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter, span};
use wg_embed::log;

use crate::stderr;

/// Writes events up to a level to stderr. Spans are not kept.
struct StderrLog {
    interface: String,
    level: LevelFilter,
    other: Option<OtherLog>,
}

/// An additional reader of the log, which gets at least the events of INFO unless `LOG_LEVEL` is `silent`.
pub(crate) type Reader = Box<dyn Fn(&Event<'_>) + Send + Sync>;

struct OtherLog {
    level: LevelFilter,
    reader: Reader,
}

/// Starts logging, at the level of `LOG_LEVEL`. No event waits for the log's reader, and nothing is written before
/// [`stderr::start`].
pub(crate) fn init(interface: &str) {
    start(interface, None);
}

/// Does the same as [`init`], and also passes events to `reader`, which must not wait.
pub(crate) fn init_with(interface: &str, reader: Reader) {
    start(interface, Some(reader));
}

fn start(interface: &str, reader: Option<Reader>) {
    let level = match std::env::var("LOG_LEVEL").as_deref() {
        Ok("verbose" | "debug") => LevelFilter::DEBUG,
        Ok("silent") => LevelFilter::OFF,
        // There are no warnings in other implementations: what is a warning here is an error there.
        _ => LevelFilter::WARN,
    };
    let name = interface.to_owned();
    let notice = move |dropped| {
        let text = format!("{dropped} lines of the log were dropped: its reader was behind");
        format_line(SystemTime::now(), Level::WARN, &name, &text)
    };
    stderr::keep(Box::new(notice));
    // The default hook writes to stderr itself, and would wait.
    panic::set_hook(Box::new(|panic| tracing::error!("internal error: {panic}")));
    let least = if level == LevelFilter::OFF { level } else { LevelFilter::INFO };
    let other = reader.map(|reader| OtherLog { level: level.max(least), reader });
    // It can fail only if there already is a log.
    let _ = tracing::subscriber::set_global_default(StderrLog { interface: interface.into(), level, other });
}

impl StderrLog {
    /// Returns the highest level of any reader.
    fn most(&self) -> LevelFilter {
        self.other.as_ref().map_or(self.level, |other| other.level.max(self.level))
    }
}

impl Subscriber for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most())
    }

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        if level <= self.level {
            stderr::line(format_line(SystemTime::now(), level, &self.interface, &log::text(event)));
        }
        if let Some(other) = self.other.as_ref().filter(|other| level <= other.level) {
            (other.reader)(event);
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn format_line(now: SystemTime, level: Level, interface: &str, text: &str) -> String {
    // A peer or a client may have influenced the text, which must remain on its line.
    let text = text.replace(char::is_control, " ");
    format!("{} {level:>5} {interface}: {text}\n", Utc(now))
}

/// A point in time, as in RFC 3339.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Howard Hinnant's civil_from_days: years begin in March, eras are 400 years of 146,097 days.
        let shifted = days + 719_468;
        let (era, day) = (shifted / 146_097, shifted % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at =
            |seconds: u64, millis: u64| Utc(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis)).to_string();
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199, 1), "2024-02-29T23:59:59.001Z");
        assert_eq!(at(1_735_689_599, 0), "2024-12-31T23:59:59.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn an_event_is_one_line() {
        let line = format_line(UNIX_EPOCH, Level::WARN, "wg0", "refused:\nERROR wg0: forged port=1");
        assert_eq!(line, "1970-01-01T00:00:00.000Z  WARN wg0: refused: ERROR wg0: forged port=1\n");
    }
}
