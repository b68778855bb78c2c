//! Output to the terminal, or a file or pipe in its place.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::{Failure, Result};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(crate) const CYAN: Style = AnsiColor::Cyan.on_default();
pub(crate) const RED: Style = AnsiColor::Red.on_default();
pub(crate) const BLUE: Style = AnsiColor::Blue.on_default();

/// Formats a text in a style, which is only used for a terminal.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes a text to the standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| not_written(&error))
}

/// Writes bytes as they are.
pub(crate) fn print_raw(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| not_written(&error))
}

/// Writes a value as JSON, and a line feed.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(format!("cannot write JSON: {e}")))?;
    text.push('\n');
    print_raw(text.as_bytes())
}

/// Writes a line to the standard error.
pub(crate) fn complain(text: &str) {
    // There is no other place to report this failure.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

fn not_written(error: &io::Error) -> Failure {
    // The reader, often a pager, needs no more.
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::reported();
    }
    Failure::io("cannot write the output", error)
}
