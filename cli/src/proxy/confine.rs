//! Restricts the proxy's access to files, on Linux by Landlock: it can read the files for a reload and for name
//! resolution, and create sockets in the directories of its services.
//!
//! The restrictions depend on the kernel: an old one forbids less, or nothing.

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

    /// The places of the C library's files for name resolution and time zones.
    const READABLE: [&str; 11] = [
        "/etc",
        "/lib",
        "/lib64",
        "/nix/store",
        "/proc",
        // The rest of /run contains secrets of other services.
        "/run/NetworkManager",
        "/run/nscd",
        "/run/resolvconf",
        "/run/systemd/resolve",
        "/sys",
        "/usr",
    ];

    /// The files for name resolution that may be links to other directories.
    const FOR_NAMES: [&str; 3] = ["/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf"];

    /// Directories with files of many programs: only the file itself is allowed there.
    const SHARED: [&str; 3] = ["/", "/run", "/tmp"];

    pub(super) fn confine(config: &Config) -> Result<bool, RulesetError> {
        restrict(config, &FOR_NAMES.map(Path::new))
    }

    /// Restricts this thread, and threads that it starts. `for_names` are files that may be links.
    pub(super) fn restrict(config: &Config, for_names: &[&Path]) -> Result<bool, RulesetError> {
        let abi = ABI::V3;
        let mut rules = Ruleset::default().handle_access(AccessFs::from_all(abi))?.create()?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let links = for_names.iter().filter_map(|file| target(file));
        for path in READABLE.iter().map(PathBuf::from).chain(links).chain(config.directories.clone()) {
            rules = allow(rules, &path, read)?;
        }
        // A process in the background opens it in place of its caller's standard input and output.
        rules = allow(rules, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
        for directory in sockets(config) {
            rules = allow(rules, &directory, AccessFs::MakeSock | AccessFs::RemoveFile)?;
        }
        Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
    }

    /// Returns the directory of a file, if it is a link that of its target: the file may be replaced by another one.
    fn target(file: &Path) -> Option<PathBuf> {
        let whole = file.canonicalize().ok()?;
        let directory = whole.parent()?;
        let is_shared = SHARED.iter().any(|shared| directory == Path::new(shared));
        Some(if is_shared { whole } else { directory.to_owned() })
    }

    /// Allows access to a path; a path that does not exist is ignored.
    fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match PathFd::new(path) {
            Ok(directory) => rules.add_rule(PathBeneath::new(directory, access)),
            Err(_) => Ok(rules),
        }
    }

    /// Returns the directories of the services' sockets.
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

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::ErrorKind,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use super::linux::restrict;
    use crate::proxy::config;

    /// Returns whether the kernel supports Landlock, by querying it.
    #[allow(unsafe_code)]
    fn has_landlock() -> bool {
        const VERSION: libc::c_uint = 1;
        // SAFETY: with this flag it takes no attributes and makes no descriptor.
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) > 0 }
    }

    #[test]
    fn only_what_is_needed_can_be_done() {
        let base = std::env::temp_dir().join(format!("wg-embed-confine-{}", std::process::id()));
        let [own, sockets, other, linked] = ["own", "sockets", "other", "linked"].map(|name| base.join(name));
        for directory in [&own, &sockets, &other, &linked] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("file"), "x").unwrap();
            fs::write(directory.join("new file"), "y").unwrap();
        }
        let link = other.join("link");
        symlink("../linked/file", &link).unwrap();
        let file = own.join("proxy.conf");
        let key = wg_embed::key::PrivateKey::generate_with(&wg_embed::random::SystemRandom);
        let text = format!(
            "[Interface]\nAddress = 10.0.0.2\nPrivateKey = {}\n[Peer]\nPublicKey = {}\n\
             [Socks5]\nBindAddress = unix:{}\n",
            key.to_base64().as_str(),
            key.public_key(),
            sockets.join("socket").display(),
        );
        fs::write(&file, text).unwrap();
        let config = config::read(&file).unwrap();
        let directories = (own.clone(), sockets.clone(), other.clone());
        // It applies to one thread, and to threads that it starts.
        let confined = std::thread::spawn(move || {
            let (own, sockets, other) = directories;
            if !restrict(&config, &[&link]).unwrap() {
                return false;
            }
            let denied = |result: std::io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
            };
            config::read(&file).unwrap();
            denied(fs::read(other.join("file")).map(drop));
            denied(fs::read(sockets.join("file")).map(drop));
            for directory in [&own, &other] {
                denied(fs::remove_file(directory.join("file")));
                denied(UnixListener::bind(directory.join("socket")).map(drop));
            }
            for directory in [&own, &sockets, &other] {
                denied(fs::write(directory.join("file"), "y"));
                denied(fs::write(directory.join("new"), "y"));
                denied(fs::create_dir(directory.join("below")));
            }
            // A socket left behind by another process is replaced, and ours is removed at the end.
            drop(UnixListener::bind(sockets.join("socket")).unwrap());
            fs::remove_file(sockets.join("socket")).unwrap();
            fs::read("/etc/hosts").unwrap();
            // A file for name resolution elsewhere, also once another one has replaced it.
            assert_eq!(fs::read(&link).unwrap(), b"x");
            assert_eq!(fs::read(link.with_file_name("../linked/new file")).unwrap(), b"y");
            OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
            true
        });
        let confined = confined.join();
        fs::remove_dir_all(&base).unwrap();
        let confined = confined.unwrap();
        assert_eq!(confined, has_landlock());
        if !confined {
            eprintln!("skipped: this kernel has no Landlock");
        }
    }
}
