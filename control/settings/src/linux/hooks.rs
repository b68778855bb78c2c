//! Commands of a `.conf` file.

use std::process::Stdio;

use wg_embed::error::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::programs::Programs;

/// The treatment of the commands in a file: `PreUp`, `PostUp`, `PreDown`, `PostDown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hooks {
    /// Files with commands are refused.
    #[default]
    Refuse,
    /// Commands are run by `sh -c`, with the standard output and error of this process. `%i` is replaced by the
    /// interface's name.
    Run,
    /// Commands are ignored.
    Ignore,
}

/// Runs commands in order, until one fails. The error has no part of the command, which may contain a key.
pub(super) fn run(programs: &Programs, key: &str, interface: &str, commands: &[Zeroizing<String>]) -> Result<()> {
    for (number, command) in (1..).zip(commands) {
        let text = Zeroizing::new(command.replace("%i", interface));
        let status = programs.command("sh")?.arg("-c").arg(text.as_str()).stdin(Stdio::null()).status();
        let at = || format!("{key} {number}");
        let status = status.map_err(|e| Error::io("cannot run sh", e).at(at()))?;
        if !status.success() {
            return Err(Error::new(ErrorKind::Io, status.to_string()).at(at()));
        }
    }
    Ok(())
}
