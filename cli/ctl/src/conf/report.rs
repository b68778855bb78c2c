//! A finding about a file, with its place, the line, a marker, and a suggestion.

use std::{ops::Range, path::Path};

use anstyle::Style;
use serde::Serialize;
use wg_embed::config::wgquick::Line;

use crate::output::{BLUE, BOLD, CYAN, RED, YELLOW, styled};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// The file cannot be used.
    Error,
    /// It can be used, but probably does not do what was intended.
    Warning,
    /// It may be intended.
    Note,
}

#[derive(Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// The number of the line, from 1; 0 for the whole file.
    pub(super) line: usize,
    /// The range of bytes in the line.
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Formats a finding as JSON, without the text of the line, which may contain a key.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    severity: Severity,
    line: usize,
    column: usize,
    end_column: usize,
    message: &'a str,
    hint: Option<&'a str>,
}

impl Finding {
    pub(super) fn json<'a>(&'a self, lines: &[&str]) -> Json<'a> {
        let (column, width) = self.columns(self.text(lines));
        Json {
            severity: self.severity,
            line: self.line,
            column,
            end_column: column + width,
            message: &self.message,
            hint: self.hint.as_deref(),
        }
    }

    /// Formats a finding for people.
    pub(super) fn text_for(&self, file: &Path, lines: &[&str]) -> String {
        let (colour, name) = match self.severity {
            Severity::Error => (RED, "error"),
            Severity::Warning => (YELLOW, "warning"),
            Severity::Note => (CYAN, "note"),
        };
        let message = styled(BOLD, &self.message);
        let mut out = format!("{}: {message}\n", styled(colour.bold(), name));
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let bar = styled(BLUE, "|");
        if self.line == 0 {
            out += &format!("{margin}{} {}\n", styled(BLUE, "-->"), file.display());
        } else {
            let line = self.text(lines);
            let (column, width) = self.columns(line);
            out += &format!("{margin}{} {}:{number}:{column}\n", styled(BLUE, "-->"), file.display());
            let shown = shown(line);
            out += &format!("{margin} {bar}\n{} {bar} {shown}\n", styled(BLUE, &number));
            let before: String = line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            out += &format!("{margin} {bar} {before}{}\n", styled(colour.bold(), "^".repeat(width.max(1))));
        }
        if let Some(hint) = &self.hint {
            out += &format!("{margin} {} {}: {hint}\n", styled(BLUE, "="), styled(Style::new().bold(), "help"));
        }
        out
    }

    fn text<'a>(&self, lines: &[&'a str]) -> &'a str {
        self.line.checked_sub(1).and_then(|index| lines.get(index)).map_or("", |line| line.trim_end_matches('\r'))
    }

    /// Returns the column, from 1, and the number of marked characters.
    fn columns(&self, line: &str) -> (usize, usize) {
        let count = |range: Range<usize>| line.get(range).map_or(0, |text| text.chars().count());
        (count(0..self.span.start.min(line.len())) + 1, count(self.span.clone()))
    }
}

/// Returns a line without its secrets and without control characters, with the same number of characters.
fn shown(line: &str) -> String {
    let is_secret_key = |key: &str| {
        let key: String = key.chars().filter(|c| c.is_ascii_alphabetic()).collect();
        !key.eq_ignore_ascii_case("PublicKey") && key.to_ascii_lowercase().contains("key")
    };
    let secret = match Line::of(line) {
        Line::Pair { key, value } if is_secret_key(key) => Some(value),
        Line::Pair { key, .. } if key.eq_ignore_ascii_case("PublicKey") => None,
        // A key on its own line, or in an unexpected place.
        _ => line.split(|c: char| c.is_whitespace() || matches!(c, ',' | '\'' | '"')).find(|word| looks_like_key(word)),
    };
    let hidden = secret.filter(|text| !text.is_empty()).and_then(|text| {
        let start = line.find(text)?;
        Some(start..start + text.len())
    });
    line.char_indices()
        .map(|(at, c)| match c {
            _ if hidden.as_ref().is_some_and(|hidden| hidden.contains(&at)) => '*',
            c if c.is_control() && c != '\t' => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Returns whether a word may be a key in base64 or hex.
fn looks_like_key(word: &str) -> bool {
    word.len() >= 40 && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        for line in [
            format!("PrivateKey = {key}"),
            format!("Private Key={key}"),
            format!("PresharedKey = {key} # x"),
            format!("  {key}"),
            format!("PrivateKe = {}", &key[..43]),
            format!("[{key}]"),
            format!("PostUp = wg set %i peer {key}"),
            "PrivateKey = short".to_owned(),
        ] {
            let shown = shown(&line);
            assert!(!shown.contains("yAnz") && !shown.contains("short"), "{shown}");
            assert_eq!(shown.chars().count(), line.chars().count());
        }
        assert_eq!(shown(&format!("PublicKey = {key}")), format!("PublicKey = {key}"));
        assert_eq!(shown("a\x1b[31mb"), "a\u{fffd}[31mb");
    }

    #[test]
    fn the_marker_stands_below_what_is_wrong() {
        let finding = Finding {
            severity: Severity::Error,
            line: 2,
            span: 7..8,
            message: "not a number".into(),
            hint: Some("write 1420".into()),
        };
        let text = finding.text_for(Path::new("a.conf"), &["", "\tMTÜ = x"]);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            plain,
            "error: not a number\n --> a.conf:2:7\n  |\n2 | \tMTÜ = x\n  | \t     ^\n  = help: write 1420\n"
        );
    }
}
