//! From a file to a running tunnel and back, also when something is in the way.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use wg_embed::{config::wgquick::Conf, error::ErrorKind};
use wg_embed_settings::{Hooks, Options, down, up};

use crate::{
    netns::{as_root, eventually},
    network::{Folder, Network, daemon, interface},
};

const KEYS: &str = "PrivateKey = gGggGGgggGGggggggGGggggggggGGGgggggggGGgggE=\nAddress = 10.0.0.2/24, fd00::2/64\n";
const PEER: &str = "[Peer]\nPublicKey = iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiE=\nAllowedIPs = 0.0.0.0/0, ::/0\n";

/// A namespace, a folder, and options for a daemon whose socket is in that folder.
struct Place {
    network: Network,
    folder: Folder,
    options: Options,
    name: String,
}

fn in_place(test: impl FnOnce(Place)) {
    as_root(|| {
        let Some(daemon) = daemon() else { return };
        let (network, folder) = (Network::new(), Folder::new());
        folder.logging("resolvconf");
        let options = Options { sockets: folder.file("sockets"), hooks: Hooks::Run, ..folder.options(&daemon) };
        test(Place { network, folder, options, name: interface() });
    });
}

impl Place {
    fn conf(&self, keys: &str) -> Conf {
        format!("[Interface]\n{KEYS}{keys}\n{PEER}").parse().unwrap()
    }

    fn up(&self, conf: Conf) -> Result<(), wg_embed::Error> {
        let (name, options) = (self.name.clone(), self.options.clone());
        self.network.netns.run(move || up(&name, &conf, &options))
    }

    fn down(&self) -> Result<(), wg_embed::Error> {
        let (name, options) = (self.name.clone(), self.options.clone());
        self.network.netns.run(move || down(&name, &options))
    }

    fn record(&self) -> std::path::PathBuf {
        self.folder.file("run").join(format!("{}.json", self.name))
    }

    /// Whether nothing is left in the folders.
    #[track_caller]
    fn is_clean(&self, before: &[(String, String)]) {
        self.network.becomes(before, "nothing is left");
        let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut files| files.next().is_none());
        eventually("nothing is left", || {
            let socket = self.folder.file("sockets").join(format!("{}.sock", self.name));
            !socket.exists() && (is_empty(&self.folder.file("run")) || !self.folder.file("run").exists())
        });
    }
}

#[test]
fn up_and_down_again_and_again() {
    in_place(|place| {
        let before = place.network.settings();
        for _ in 0..3 {
            place.up(place.conf("DNS = 10.0.0.53")).unwrap();
            let metadata = fs::metadata(place.record()).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
            assert_eq!(fs::metadata(place.folder.file("run")).unwrap().permissions().mode() & 0o7777, 0o700);
            assert!(!fs::read_to_string(place.record()).unwrap().contains("gGgg"));
            let again = place.up(place.conf("")).unwrap_err();
            assert_eq!(again.kind(), ErrorKind::Exists, "{again}");
            place.down().unwrap();
        }
        place.is_clean(&before);
        assert_eq!(place.down().unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn commands_are_run_in_their_order_if_they_may() {
    in_place(|mut place| {
        let log = place.folder.file("log");
        let say = |key: &str, what: &str| format!("{key} = echo {what} %i >>{}\n", log.display());
        let keys = [
            say("PreUp", "a"),
            say("PreUp", "b"),
            say("PostUp", "c $(ip -o -4 address show dev %i | wc -l)"),
            say("PreDown", "d"),
            say("PostDown", "e"),
        ]
        .concat();
        place.up(place.conf(&keys)).unwrap();
        let name = place.name.clone();
        assert_eq!(place.folder.log(), format!("a {name}\nb {name}\nc 1 {name}\n"));
        place.down().unwrap();
        assert_eq!(place.folder.log(), format!("d {name}\ne {name}\n"));
        place.options.hooks = Hooks::Ignore;
        place.up(place.conf(&keys)).unwrap();
        place.down().unwrap();
        assert_eq!(place.folder.log(), "");
        place.options.hooks = Hooks::Refuse;
        assert_eq!(place.up(place.conf(&keys)).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(place.up(place.conf("SaveConfig = true")).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(!place.folder.file("run").join("x").exists() && place.folder.log().is_empty());
    });
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    in_place(|mut place| {
        let before = place.network.settings();
        let good = place.options.clone();
        for (keys, part) in [
            ("PreUp = exit 4", "PreUp 1: exit status: 4"),
            ("PostUp = true\nPostUp = exit 5", "PostUp 2: exit status: 5"),
            ("MTU = 1000", "cannot"),
        ] {
            let error = place.up(place.conf(keys)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            place.is_clean(&before);
        }
        place.folder.program("nft", "exit 6");
        let error = place.up(place.conf("")).unwrap_err().to_string();
        assert!(error.contains("nft: exit status: 6"), "{error}");
        place.is_clean(&before);
        for (daemon, part) in
            [("/nonexistent", "cannot run"), ("no-such-daemon", "no program"), ("true", "no interface")]
        {
            place.options = Options { daemon: daemon.into(), ..good.clone() };
            let error = place.up(place.conf("")).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            place.is_clean(&before);
        }
        place.options = good;
        let taken = place.network.netns.tun(&place.name, libc::IFF_TUN);
        let error = place.up(place.conf("")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
        drop(taken);
        place.is_clean(&before);
    });
}

#[test]
fn a_tunnel_whose_daemon_has_ended_is_taken_down() {
    in_place(|place| {
        let before = place.network.settings();
        place.up(place.conf("DNS = 10.0.0.53")).unwrap();
        place.folder.log();
        place.network.netns.ip(&format!("link delete {}", place.name));
        let rules = || place.network.netns.ip("rule show");
        assert!(rules().contains("suppress_prefixlength"));
        place.down().unwrap();
        assert_eq!(place.folder.log(), format!("resolvconf -d {} -f\n", place.name));
        place.is_clean(&before);
    });
}

#[test]
fn a_tunnel_whose_start_was_interrupted_is_taken_down() {
    in_place(|place| {
        let before = place.network.settings();
        place.up(place.conf("")).unwrap();
        let whole = fs::read_to_string(place.record()).unwrap();
        place.down().unwrap();
        // All was planned, and nothing done.
        place.network.becomes(&before, "down");
        fs::write(place.record(), &whole).unwrap();
        // What cannot be undone now is tried again.
        place.folder.program("nft", "exit 1");
        assert!(place.down().is_err());
        fs::remove_file(place.folder.file("bin").join("nft")).unwrap();
        place.down().unwrap();
        place.is_clean(&before);
        fs::write(place.record(), "{}").unwrap();
        assert!(place.down().is_err());
        fs::write(place.record(), whole.replace("\"version\":1", "\"version\":2")).unwrap();
        assert_eq!(place.down().unwrap_err().kind(), ErrorKind::Unsupported);
    });
}
