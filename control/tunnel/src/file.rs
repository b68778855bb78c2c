//! Peers from a `.conf` file, named by a `file:` URL.
//!
//! Each `[Peer]` is an agent of one workspace, the file. Its addresses are the single addresses among its `AllowedIPs`;
//! a comment `# Name = x`, in its section or in the lines directly above it, sets its name.

mod watch;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use percent_encoding::percent_decode_str;
use wg_embed_manager::{
    messages::StartRequest,
    tunnel::{Changes, Plan, Source},
};
use zeroize::Zeroizing;

use crate::{contents::Contents, engine::Configuration};

/// The size from which a file is not accepted as a configuration, in bytes.
const LIMIT: u64 = 64 << 20;

/// Peers from files. Changes of a file are applied while its tunnel runs: only the differences, so that unchanged peers
/// keep their sessions. An invalid change is logged and ignored.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSource;

impl Source for FileSource {
    type Configuration = Configuration;

    fn resolve(&self, request: &StartRequest, changes: Changes<Configuration>) -> Result<Plan<Configuration>, String> {
        let path = path(&request.coder_url)?;
        let say = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        // Before the file is read, so that no change is missed.
        let watch = watch::Watch::new(&path).map_err(|e| say(&e))?;
        let mut bytes = read(&path).map_err(|e| say(&e))?;
        let mut contents = parse(&path, &bytes).map_err(|e| say(&e))?;
        let mut plan = contents.plan();
        let reread = move || {
            let outcome = read(&path).map_err(|e| e.to_string()).and_then(|new| {
                if new == bytes {
                    return Ok(None);
                }
                let change = parse(&path, &new)?;
                bytes = new;
                Ok(Some(change))
            });
            match outcome {
                Ok(None) => true,
                Ok(Some(new)) => {
                    let change = contents.change(&new);
                    contents = new;
                    tracing::info!(path = %path.display(), "the configuration was read again");
                    change.is_none_or(|change| changes.send(change))
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "the configuration is unchanged");
                    true
                }
            }
        };
        let guard = watch.start(reread).map_err(|e| format!("cannot watch {}: {e}", request.coder_url))?;
        plan.configuration.guard = Some(Arc::new(guard));
        Ok(plan)
    }
}

/// Returns the path in a URL: `file:///etc/wireguard/wg0.conf`, or `file:/..`; with its `%` escapes. On Windows a drive
/// is behind the first slash: `file:///C:/wg0.conf`.
fn path(url: &str) -> Result<PathBuf, String> {
    let refuse = |reason: &str| Err(format!("the URL {url:?}: {reason}"));
    let Some((scheme, rest)) = url.split_once(':') else { return refuse("it has no scheme") };
    if !scheme.eq_ignore_ascii_case("file") {
        return refuse("it is not a file");
    }
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => match rest.split_once('/') {
            Some(("" | "localhost", _)) => &rest[rest.find('/').unwrap_or_default()..],
            _ => return refuse("it is on another host"),
        },
    };
    if path.contains(['?', '#']) {
        return refuse("it has more than a path");
    }
    let Ok(path) = percent_decode_str(path).decode_utf8() else { return refuse("its path is not UTF-8") };
    let drive = path.strip_prefix('/').filter(|rest| cfg!(windows) && rest.as_bytes().get(1) == Some(&b':'));
    let path = PathBuf::from(drive.unwrap_or(&path));
    // The working directory of a process that a manager has started is arbitrary.
    if !path.is_absolute() || path.file_name().is_none() { refuse("it has no absolute path") } else { Ok(path) }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    use io::Read;

    let file = fs::File::open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.len() >= LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file of a configuration"));
    }
    // It may grow in the meantime; without reallocation no copy of its keys is left behind.
    let mut bytes = Zeroizing::new(vec![0; about.len() as usize + 1]);
    let mut len = 0;
    let mut file = file;
    while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Parses the file at `path` from its `bytes`.
fn parse(path: &Path, bytes: &[u8]) -> Result<Contents, String> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Contents::of_conf(path.as_os_str().as_encoded_bytes(), &name, bytes).map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
