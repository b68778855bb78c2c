//! What the proxy may do with files, on Linux by Landlock: it reads what it needs for a reload and for names, and makes
//! sockets where its services have them.
//!
//! As far as the kernel can: an old one forbids less, or nothing.

use super::config::Config;

#[cfg(target_os = "linux")]
pub(super) fn confine(config: &Config) {
    match linux::confine(config) {
        Ok(true) => tracing::debug!("files are out of reach, except where the configuration has some"),
        Ok(false) => tracing::debug!("this system has no Landlock: files are not protected from the proxy"),
        Err(error) => tracing::warn!(%error, "files are not protected from the proxy"),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn confine(_config: &Config) {}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};

    use landlock::{
        ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
        RulesetError, RulesetStatus,
    };
    use wg_embed_proxy::{Address, Kind};

    use super::Config;

    /// Where the C library looks for what it needs for names, and the clock.
    const READABLE: [&str; 11] = [
        "/etc",
        "/lib",
        "/lib64",
        "/nix/store",
        "/proc",
        // The rest of /run has secrets of others.
        "/run/NetworkManager",
        "/run/nscd",
        "/run/resolvconf",
        "/run/systemd/resolve",
        "/sys",
        "/usr",
    ];

    pub(super) fn confine(config: &Config) -> Result<bool, RulesetError> {
        let abi = ABI::V3;
        let mut rules = Ruleset::default().handle_access(AccessFs::from_all(abi))?.create()?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        for directory in READABLE.iter().map(PathBuf::from).chain(config.directories.clone()) {
            rules = allow(rules, &directory, read)?;
        }
        for directory in sockets(config) {
            rules = allow(rules, &directory, AccessFs::MakeSock | AccessFs::RemoveFile)?;
        }
        Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
    }

    /// What does not exist is not allowed.
    fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match PathFd::new(path) {
            Ok(directory) => rules.add_rule(PathBeneath::new(directory, access)),
            Err(_) => Ok(rules),
        }
    }

    /// Directories of the services' sockets.
    fn sockets(config: &Config) -> Vec<PathBuf> {
        let of = |address: &Address| match address {
            Address::Unix(path) => path.parent().map(Path::to_owned),
            Address::Tcp(_) => None,
        };
        let directories = config.services.iter().filter_map(|service| match &service.kind {
            Kind::Socks5 { at, .. } | Kind::Http { at, .. } | Kind::Sni { at } | Kind::TcpClient { at, .. } => of(at),
            _ => None,
        });
        directories.collect()
    }
}
