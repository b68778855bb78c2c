//! Answers, for people and as JSON.

use serde::Serialize;
use serde_json::Value;
use wg_embed_wireproto::Record;

use super::fields::COMMAND;
use crate::{
    failure::{Exit, Failure, Result},
    output::{BOLD, RED, complain, print, print_raw, styled},
};

/// The answer to one command.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// The command; `None` if the whole request was refused.
    #[serde(rename = "cmd")]
    command: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// JSON, text, or nothing.
    Result(Value),
    /// An object with `error`, a name, and `text`.
    Error(Value),
}

impl Answer {
    pub(super) fn of(record: Record<'_>) -> Self {
        let command = record.copy().and_then(|copy| copy.get(COMMAND));
        let command = command.map(|name| String::from_utf8_lossy(name).into_owned());
        let pair = record.pairs().iter().next();
        let value = pair.map_or(Value::Null, |pair| value_of(pair.value));
        let is_result = pair.is_some_and(|pair| pair.name == "result");
        Self { command, outcome: if is_result { Outcome::Result(value) } else { Outcome::Error(value) } }
    }

    /// Returns the exit code, if this is an error.
    pub(super) fn exit(&self) -> Option<Exit> {
        let Outcome::Error(error) = &self.outcome else { return None };
        Some(match error.get("error").and_then(Value::as_str) {
            Some("not_found") => Exit::NotFound,
            Some("permission") => Exit::Permission,
            _ => Exit::Failed,
        })
    }

    fn name(&self) -> &str {
        self.command.as_deref().unwrap_or("the request")
    }
}

fn value_of(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// Prints results, each with its command if there are several, and reports errors.
pub(super) fn show(answers: &[Answer]) -> Result<()> {
    for answer in answers {
        match &answer.outcome {
            Outcome::Result(result) => {
                if answers.len() > 1 {
                    print(&format!("{}\n", styled(BOLD, format_args!("{}:", answer.name()))))?;
                }
                let text = match result {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    value => {
                        let failed = |error| Failure::new(format!("cannot write JSON: {error}"));
                        serde_json::to_string_pretty(value).map_err(failed)?
                    }
                };
                print_raw(text.as_bytes())?;
                if !text.is_empty() && !text.ends_with('\n') {
                    print_raw(b"\n")?;
                }
            }
            Outcome::Error(error) => {
                let text = error.get("text").and_then(Value::as_str).unwrap_or("an error without a text");
                let name = answer.name();
                complain(&format!("wg-embedctl: {} {name}: {text}", styled(RED, "error:")));
            }
        }
    }
    Ok(())
}
