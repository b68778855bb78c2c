//! `up` and `down`: a tunnel from a `.conf` file, as wg-quick(8) runs one.

use std::path::{Path, PathBuf};

use wg_embed_settings::{self as settings, Options};

use crate::{
    arguments::{Down, Hooks, Up},
    conf::read_conf,
    daemon,
    failure::{Failure, Result},
    socket::Sockets,
};

/// The directory in which wg-quick(8) expects a file that is given by name.
const DIRECTORY: &str = "/etc/wireguard";

pub(crate) fn up(sockets: &Sockets, up: &Up) -> Result<()> {
    let file = file_of(&up.file);
    if up.userspace {
        let config = ["proxy".into(), "--config".into(), file.into_os_string()];
        return daemon::become_it(config.into_iter().chain(up.arguments.iter().cloned()));
    }
    let name = name_of(&file)?;
    let conf = read_conf(&file)?;
    let hooks = match up.hooks {
        Hooks::Run => settings::Hooks::Run,
        Hooks::Ignore => settings::Hooks::Ignore,
        Hooks::Refuse => settings::Hooks::Refuse,
    };
    let daemon = up.daemon.clone().unwrap_or_else(daemon::path);
    Ok(settings::up(name, &conf, &Options { daemon, hooks, ..options(sockets) })?)
}

pub(crate) fn down(sockets: &Sockets, down: &Down) -> Result<()> {
    let file = file_of(&down.name);
    let hooks = if down.no_hooks { settings::Hooks::Ignore } else { settings::Hooks::Run };
    Ok(settings::down(name_of(&file)?, &Options { hooks, ..options(sockets) })?)
}

fn options(sockets: &Sockets) -> Options {
    Options { sockets: sockets.directory().into(), ..Options::default() }
}

/// Returns the path, or that of a named file in the usual directory.
fn file_of(argument: &Path) -> PathBuf {
    let is_name = argument.components().count() == 1 && argument.extension().is_none_or(|end| end != "conf");
    match argument.to_str().filter(|name| is_name && !name.contains('/')) {
        Some(name) => Path::new(DIRECTORY).join(format!("{name}.conf")),
        None => argument.into(),
    }
}

/// Returns the name of the interface for a file.
fn name_of(file: &Path) -> Result<&str> {
    let name = file.file_name().and_then(|name| name.to_str()?.strip_suffix(".conf"));
    name.ok_or_else(|| Failure::usage(format!("{}: the file's name is not INTERFACE.conf", file.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_file() {
        for (argument, file, name) in [
            ("wg0", "/etc/wireguard/wg0.conf", Some("wg0")),
            ("wg0.1", "/etc/wireguard/wg0.1.conf", Some("wg0.1")),
            ("wg0.conf", "wg0.conf", Some("wg0")),
            ("./wg0", "./wg0", None),
            ("/a/wg-home.conf", "/a/wg-home.conf", Some("wg-home")),
            ("a/b", "a/b", None),
        ] {
            let found = file_of(Path::new(argument));
            assert_eq!(found, Path::new(file));
            assert_eq!(name_of(&found).ok(), name, "{argument}");
        }
    }
}
