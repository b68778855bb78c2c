//! `conf check`: reports every problem of a file.

use std::path::Path;

use wg_embed::config::wgquick::{self, Line};

use super::{
    hints, read,
    report::{Finding, Severity},
    warnings,
};
use crate::{
    failure::{Failure, Result},
    output::{print, print_json},
};

pub(crate) fn run(file: &Path, json: bool, strict: bool) -> Result<()> {
    let bytes = read(file)?;
    let mode = mode(file);
    let checked = wgquick::check(&bytes).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let lines: Vec<_> = checked.text.split('\n').collect();
    let mut findings = errors(&checked, &lines);
    findings.extend(warnings::of(&checked, &lines, mode));
    findings.sort_by_key(|finding| (finding.severity != Severity::Error, finding.line));
    if json {
        print_json(&findings.iter().map(|finding| finding.json(&lines)).collect::<Vec<_>>())?;
    } else {
        let texts: Vec<_> = findings.iter().map(|finding| finding.text_for(file, &lines)).collect();
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let peers = checked.conf.update.peers.len();
        let summary = match (errors, warnings) {
            (0, 0) => format!("{}: no problems; {}\n", file.display(), amount(peers, "peer")),
            _ => format!("{}: {}, {}\n", file.display(), amount(errors, "error"), amount(warnings, "warning")),
        };
        print(&format!("{}{}{summary}", texts.join("\n"), if texts.is_empty() { "" } else { "\n" }))?;
    }
    let worst = if strict { Severity::Warning } else { Severity::Error };
    if findings.iter().any(|finding| finding.severity <= worst) { Err(Failure::reported()) } else { Ok(()) }
}

pub(super) fn amount(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Returns the error that prevents reading the file.
pub(super) fn errors(checked: &wgquick::Checked, lines: &[&str]) -> Vec<Finding> {
    let finding = |problem: &wgquick::Problem| {
        let line = lines.get(problem.line - 1).copied().unwrap_or_default();
        let message = problem.error.to_string();
        let is_peer = in_peer(lines, problem.line);
        let hint = hints::of(line, line.get(problem.span.clone()).unwrap_or_default(), is_peer, &message);
        Finding { severity: Severity::Error, line: problem.line, span: problem.span.clone(), message, hint }
    };
    checked.problems.iter().map(finding).collect()
}

/// Returns whether the last header at or above a line begins like `[Peer]`.
fn in_peer(lines: &[&str], number: usize) -> bool {
    let header = lines.iter().take(number).rev().find_map(|line| match Line::of(line) {
        Line::Header(header) => Some(header),
        _ => None,
    });
    header.is_some_and(|header| header.trim_start_matches('[').trim_start().starts_with(['p', 'P']))
}

/// Returns the permission bits of a file, where they exist.
fn mode(file: &Path) -> Option<u32> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
        Some(metadata.mode() & 0o777)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}
