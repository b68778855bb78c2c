//! The text of log events, for subscribers, which add the time, the level and the object.

use std::fmt::{self, Write as _};

use tracing::{
    Event,
    field::{Field, Visit},
};

/// Returns the message of an event, followed by its other fields as ` name=value`. Peers and clients can influence the
/// text; it may have several lines.
#[must_use]
pub fn text(event: &Event<'_>) -> String {
    let mut line = Line::default();
    event.record(&mut line);
    line.message + &line.fields
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    // Code to print fractions takes 23 KB, and no field is one.
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
