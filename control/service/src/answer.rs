//! Responses: one answer for each command; errors are answers.

use std::io::Write;

use serde::Serialize;
use wg_embed::error::{Error, ErrorKind, Result};
use wg_embed_wireproto::{Builder, Kind, Message, Order, Problem, Status, WriteOptions};
use zeroize::Zeroizing;

use crate::bytes::WipedBytes;

/// The maximum length of an error as a value, in bytes.
pub(crate) const LONGEST_ERROR: usize = 512;

/// The maximum length of a record in a response without the pairs of the copy and the value of the answer, in bytes:
/// four pairs of counts and sizes, and a name.
pub(crate) const AROUND_ANSWER: usize = 4 * 8 + 8;

/// The maximum length of a response without its records, in one group, in bytes.
pub(crate) const AROUND_RECORDS: usize = 64;

/// The result of a command.
pub(crate) type Answer = Result<Zeroizing<Vec<u8>>>;

/// Formats a value as JSON of at most `limit` bytes.
pub(crate) fn to_json(value: &impl Serialize, limit: usize) -> Answer {
    let mut out = WipedBytes::with_limit(limit);
    serde_json::to_writer(&mut out, value).map_err(|error| match error.io_error_kind() {
        Some(std::io::ErrorKind::FileTooLarge) => too_large(),
        Some(std::io::ErrorKind::OutOfMemory) => Error::new(ErrorKind::Resources, "there is not enough memory"),
        _ => Error::new(ErrorKind::Io, error.to_string()),
    })?;
    Ok(out.into_inner())
}

/// The answer exceeds the remaining space of the response.
pub(crate) fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, "the answer does not fit into the rest of the response")
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    error: &'static str,
    code: i32,
    errno: i32,
    text: &'a str,
}

/// Formats an error as the value of an answer, of at most [`LONGEST_ERROR`] bytes.
fn error_json(error: &Error) -> Vec<u8> {
    let kind = error.kind();
    let json = |text: &str| {
        let mut out = Vec::new();
        let json = ErrorJson { error: name_of(kind), code: kind.code(), errno: kind.errno(), text };
        // Writing to memory does not fail.
        let written = serde_json::to_writer(&mut out, &json);
        debug_assert!(written.is_ok());
        out
    };
    let text = error.to_string();
    let mut shown = text.as_str();
    loop {
        let json = json(shown);
        if json.len() <= LONGEST_ERROR {
            return json;
        }
        let half = (0..=shown.len() / 2).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
        shown = shown.get(..half).unwrap_or_default();
    }
}

/// Returns the name of a kind of error, as in docs/WIREPROTO.md.
const fn name_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Null => "null",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Protocol => "protocol",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::UnknownHandle => "unknown_handle",
        ErrorKind::Closed => "closed",
        ErrorKind::Busy => "busy",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::Forked => "forked",
        ErrorKind::Permission => "permission",
        ErrorKind::AddrInUse => "address_in_use",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Exists => "exists",
        ErrorKind::Refused => "refused",
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::Resources => "resources",
        ErrorKind::Panic => "panic",
        _ => "io",
    }
}

/// Converts an error in a request to an error of the library.
pub(crate) fn of_codec(error: &wg_embed_wireproto::Error) -> Error {
    let kind = match error.problem {
        Problem::TooLarge { .. } => ErrorKind::TooLarge,
        Problem::NoMemory => ErrorKind::Resources,
        Problem::Version { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Protocol,
    };
    Error::new(kind, format!("the request: {error}"))
}

/// Returns the response to a request without executable commands. As there is no record to copy, its copy has one pair,
/// with an empty name and an empty value.
pub(crate) fn refusal(error: &Error, order: Order) -> Zeroizing<Vec<u8>> {
    let options = WriteOptions { order, ..WriteOptions::default() };
    let build = || {
        let mut builder = Builder::new(Kind::Response(Status::Nak), options);
        builder.group()?.record()?.pair("error", &error_json(error))?.copy()?.pair("", b"")?;
        builder.finish()
    };
    // It is small and contains nothing of the request: only a lack of memory is possible.
    Zeroizing::new(build().unwrap_or_default())
}

/// Returns the response to `request` with these results of its commands.
pub(crate) fn response(request: &Message<'_>, answers: &[Answer], limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let failed = answers.iter().any(Result::is_err);
    let status = if failed { Status::Nak } else { Status::Ack };
    let options = WriteOptions { order: request.head().order, limit, checksum: true };
    let values = answers.iter().flatten().map(|value| value.len());
    let errors = answers.iter().filter(|answer| answer.is_err()).count() * LONGEST_ERROR;
    let room = request.head().size as usize + values.sum::<usize>() + errors + answers.len() * AROUND_ANSWER;
    let build = || {
        let mut builder = Builder::with_room(Kind::Response(status), options, room + AROUND_RECORDS)?;
        let mut answers = answers.iter();
        for group in request.groups() {
            builder.group()?;
            for (record, answer) in group.records().zip(&mut answers) {
                builder.record()?;
                match answer {
                    Ok(value) => builder.pair("result", value)?,
                    Err(error) => builder.pair("error", &error_json(error))?,
                };
                builder.copy_of(record.pairs())?;
            }
        }
        builder.finish()
    };
    build().map(Zeroizing::new).map_err(|error: wg_embed_wireproto::Error| of_codec(&error))
}

/// Writes text to `out`, which has a limit.
pub(crate) fn text(text: Zeroizing<String>, limit: usize) -> Answer {
    if text.len() > limit {
        return Err(too_large());
    }
    let mut out = WipedBytes::with_limit(limit);
    out.write_all(text.as_bytes()).map_err(|error| Error::io("cannot write the answer", error))?;
    Ok(out.into_inner())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_short_and_valid() {
        for text in ["", "short", &"\u{1}".repeat(500), &"\u{1f600}".repeat(300), &"a".repeat(1 << 20)] {
            let json = error_json(&Error::invalid(text.to_owned()));
            assert!(json.len() <= LONGEST_ERROR);
            let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!((value["error"].as_str(), value["code"].as_i64()), (Some("invalid"), Some(-2)));
            assert!(text.starts_with(value["text"].as_str().unwrap()));
        }
    }

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = ErrorKind::ALL.iter().map(|kind| name_of(*kind)).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn a_refusal_is_a_response() {
        for order in [Order::Big, Order::Little] {
            let bytes = refusal(&Error::invalid("x"), order);
            let options = wg_embed_wireproto::ReadOptions { order, ..Default::default() };
            let message = Message::parse(&bytes, &options).unwrap();
            assert_eq!(message.head().kind, Kind::Response(Status::Nak));
        }
    }
}
