//! Runs programs: where they are found, and their error messages.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{MemfdFlags, memfd_create};
use wg_embed::error::{Error, ErrorKind, Result};

/// The system's directories for administration programs, which some `PATH`s lack.
const SYSTEM: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The maximum length of a program's output in an error, in characters.
const PRINTED: usize = 1000;

/// The places of programs, and the files that identify them.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directories, as in `PATH`.
    path: OsString,
    /// A file that exists while systemd-resolved runs.
    resolved: PathBuf,
    /// Debian's order of interfaces for `resolvconf`.
    pub(super) resolvconf_order: PathBuf,
}

impl Default for Programs {
    /// Returns the directories in the `PATH` of the process, followed by the system's directories for administrators.
    fn default() -> Self {
        let mut path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        path.push(":");
        path.push(SYSTEM);
        Self {
            path,
            resolved: "/run/systemd/resolve/io.systemd.Resolve".into(),
            resolvconf_order: "/etc/resolvconf/interface-order".into(),
        }
    }
}

impl Programs {
    /// Uses only these directories, given as in `PATH`. systemd-resolved counts as running if there is a file named
    /// `resolved`.
    #[must_use]
    pub fn in_path(path: impl Into<OsString>, resolved: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), resolved: resolved.into(), ..Self::default() }
    }

    /// Returns whether systemd-resolved runs.
    pub(super) fn has_resolved(&self) -> bool {
        self.resolved.exists()
    }

    /// Returns whether there is a program of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        let is_program =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        env::split_paths(&self.path).map(|folder| folder.join(name)).find(is_program)
    }

    /// Returns the program of this name, which may be a path, with only its path set.
    pub(super) fn command(&self, name: impl AsRef<Path>) -> Result<Command> {
        let name = name.as_ref();
        let named = name.to_str().filter(|name| !name.contains('/')).map(|name| self.find(name));
        let path = match named {
            Some(found) => found
                .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no program {}", name.display())))?,
            None => name.to_owned(),
        };
        let mut command = Command::new(path);
        command.env("PATH", &self.path);
        Ok(command)
    }

    /// Runs a program with this input until it ends, and returns its output.
    ///
    /// # Errors
    /// With the output of the program, if it fails.
    pub(super) fn run<A: AsRef<OsStr>>(
        &self,
        name: impl AsRef<Path>,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<String> {
        let name = name.as_ref();
        let mut command = self.command(name)?;
        let run = || {
            // Not pipes: processes that it leaves in the background would keep them open.
            let (mut stdin, stdout, stderr) = (memory()?, memory()?, memory()?);
            stdin.write_all(input.as_bytes())?;
            stdin.rewind()?;
            command.args(arguments).stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
            io::Result::Ok((command.status()?, text_of(stdout)?, text_of(stderr)?))
        };
        let (status, output, errors) = run().map_err(|e| Error::io(format!("cannot run {}", name.display()), e))?;
        if status.success() {
            return Ok(output);
        }
        let printed: String = (errors + &output).chars().take(PRINTED).collect();
        Err(Error::new(ErrorKind::Io, format!("{}: {status}: {}", name.display(), printed.trim_end())))
    }
}

/// Returns everything that was written to a file.
fn text_of(mut file: File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Creates a file that is only in memory.
fn memory() -> io::Result<File> {
    Ok(memfd_create("wg-embed", MemfdFlags::CLOEXEC)?.into())
}
