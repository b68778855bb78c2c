//! The program `wg-embed`, which runs tunnels in its own process.

use std::{ffi::OsString, io, os::unix::process::CommandExt, path::PathBuf, process::Command};

use crate::failure::{Failure, Result};

/// Its name.
const NAME: &str = "wg-embed";

/// Returns the program next to this one, or the first in the `PATH`.
pub(crate) fn path() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| NAME.into())
}

/// Executes that program with these arguments in place of this one. Returns only on failure.
pub(crate) fn become_it(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let path = path();
    let error = Command::new(&path).args(arguments).exec();
    Err(cannot_run(&path.display(), &error))
}

/// Returns the reason why a program could not be started.
pub(crate) fn cannot_run(program: &dyn std::fmt::Display, error: &io::Error) -> Failure {
    Failure::io(format_args!("cannot run {program}"), error)
}
