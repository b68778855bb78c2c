//! `conf`: configuration files.

pub(crate) mod add_peer;
pub(crate) mod check;
mod hints;
mod report;
pub(crate) mod show;
pub(crate) mod sync;
mod warnings;

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use wg_embed::config::wgquick::{self, Conf};
use zeroize::Zeroizing;

use crate::{
    failure::{Failure, Result},
    output::complain,
};

/// The maximum size of a file: 65536 peers need a quarter of it.
const LARGEST: u64 = 64 * 1024 * 1024;

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: io::Error| Failure::io(format_args!("cannot read {}", path.display()), &error);
    let (mut source, size): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), 64 * 1024)
    } else {
        let file = fs::File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        (Box::new(file), size)
    };
    // With room for the whole file, so that it is not moved and leaves no keys behind.
    let room = usize::try_from(size.min(LARGEST)).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    source.by_ref().take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::new(format!("{} is larger than {LARGEST} bytes", path.display())));
    }
    Ok(bytes)
}

/// Reads a file without problems; problems are reported.
pub(crate) fn read_conf(file: &Path) -> Result<Conf> {
    let bytes = read(file)?;
    let checked = wgquick::check(&bytes).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    if checked.problems.is_empty() {
        return Ok(checked.conf);
    }
    let lines: Vec<_> = checked.text.split('\n').collect();
    for finding in check::errors(&checked, &lines) {
        complain(&finding.text_for(file, &lines));
    }
    Err(Failure::new(format!("{} has problems; nothing was changed", file.display())))
}
