//! `doctor`: the requirements of a tunnel on this machine, and which of them are missing.

mod checks;
mod system;

use serde::Serialize;

use crate::{
    arguments::Doctor,
    failure::{Failure, Result},
    output::{BOLD, GREEN, RED, YELLOW, print, print_json, styled},
    socket::Sockets,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Tunnels work with limitations, or not for all users.
    Warning,
    /// Tunnels do not work.
    Missing,
}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    found: String,
    hint: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), hint: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, status: Status::Warning, found: found.into(), hint: Some(hint.into()) }
    }

    fn missing(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, status: Status::Missing, found: found.into(), hint: Some(hint.into()) }
    }
}

pub(crate) fn run(sockets: &Sockets, arguments: &Doctor) -> Result<()> {
    let findings = checks::all(sockets, arguments);
    if arguments.json {
        print_json(&findings)?;
    } else {
        print(&findings.iter().map(text).collect::<String>())?;
    }
    let is_missing = findings.iter().any(|finding| finding.status == Status::Missing);
    if is_missing { Err(Failure::reported()) } else { Ok(()) }
}

fn text(finding: &Finding) -> String {
    let status = match finding.status {
        Status::Ok => styled(GREEN, "ok     "),
        Status::Warning => styled(YELLOW, "warning"),
        Status::Missing => styled(RED, "missing"),
    };
    let hint = finding.hint.as_ref().map(|hint| format!("         {hint}\n")).unwrap_or_default();
    format!("{status}  {}: {}\n{hint}", styled(BOLD, finding.check), finding.found)
}
