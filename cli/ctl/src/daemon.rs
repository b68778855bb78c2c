//! The program `wg-embed`, which does what needs a tunnel in this machine's process.

use std::{ffi::OsString, io, os::unix::process::CommandExt, path::PathBuf, process::Command};

use crate::failure::{Failure, Result};

/// Its name.
const NAME: &str = "wg-embed";

/// The one next to this program, or the first in the `PATH`.
pub(crate) fn path() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| NAME.into())
}

/// Becomes that program, with these arguments. Returns only if that fails.
pub(crate) fn become_it(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let path = path();
    let error = Command::new(&path).args(arguments).exec();
    Err(cannot_run(&path.display(), &error))
}

/// Why a program could not be started.
pub(crate) fn cannot_run(program: &dyn std::fmt::Display, error: &io::Error) -> Failure {
    Failure::io(format_args!("cannot run {program}"), error)
}
