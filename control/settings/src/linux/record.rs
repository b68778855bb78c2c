//! The record of `up` for `down`, in a file.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wg_embed::error::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::plan::Step;

/// The version of the file's format. Others are refused.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// The interface's index; 0 before it is created.
    pub(super) index: u32,
    /// All planned steps; some may not have been performed.
    pub(super) steps: Vec<Step>,
    pub(super) pre_down: Vec<String>,
    pub(super) post_down: Vec<String>,
}

impl Record {
    pub(super) const fn new(pre_down: Vec<String>, post_down: Vec<String>) -> Self {
        Self { version: VERSION, index: 0, steps: Vec::new(), pre_down, post_down }
    }
}

/// The file of one interface.
pub(super) struct File(PathBuf);

impl File {
    pub(super) fn of(directory: &Path, interface: &str) -> Self {
        Self(directory.join(format!("{interface}.json")))
    }

    /// Creates the file, which must not exist.
    pub(super) fn claim(&self, record: &Record) -> Result<()> {
        let directory = self.0.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| Error::io(format!("cannot make {}", directory.display()), e))?;
        self.write_to(&self.0, record).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::new(
                ErrorKind::Exists,
                format!("{} is there: the tunnel is up, or has ended without being taken down", self.0.display()),
            ),
            _ => self.cannot("make", error),
        })
    }

    /// Replaces its contents.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let new = self.0.with_extension("new");
        let _ = fs::remove_file(&new);
        let written = self.write_to(&new, record).and_then(|()| fs::rename(&new, &self.0));
        written.map_err(|e| {
            let _ = fs::remove_file(&new);
            self.cannot("write", e)
        })
    }

    fn write_to(&self, path: &Path, record: &Record) -> io::Result<()> {
        let text = Zeroizing::new(serde_json::to_vec(record)?);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&text)
    }

    pub(super) fn read(&self) -> Result<Record> {
        let text = Zeroizing::new(fs::read(&self.0).map_err(|e| self.cannot("read", e))?);
        let record: Record = serde_json::from_slice(&text).map_err(|e| self.cannot("understand", e.into()))?;
        if record.version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, format!("{} is from another version", self.0.display())));
        }
        Ok(record)
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_file(&self.0).map_err(|e| self.cannot("remove", e))
    }

    fn cannot(&self, what: &str, error: io::Error) -> Error {
        Error::io(format!("cannot {what} {}", self.0.display()), error)
    }
}
