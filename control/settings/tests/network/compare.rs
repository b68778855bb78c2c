//! The same file, given to wg-quick(8) and to us.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    netns::{as_root, in_time::output_of},
    network::{Folder, Network, daemon, interface, run},
};

const KEYS: [&str; 3] = [
    "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiE=",
    "jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjE=",
    "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkE=",
];

/// A file, and where it is to be used.
pub(crate) struct Place {
    pub(crate) network: Network,
    pub(crate) folder: Folder,
    pub(crate) file: PathBuf,
    /// The interface's name.
    pub(crate) name: String,
}

/// Gives a file of these keys for the interface, and of these peers, to wg-quick(8), and to our `up` and `down`.
#[track_caller]
pub(crate) fn beside_wg_quick(
    set_up: &[&str],
    interface_keys: &str,
    peers: &[&str],
    up: impl FnOnce(&Place),
    down: impl FnOnce(&Place),
) {
    as_root(|| {
        let Some(daemon) = daemon() else { return };
        if output_of(Command::new("wg-quick").arg("--help")).is_err() {
            return crate::skip::skipped("there is no wg-quick");
        }
        let network = Network::new();
        if network.netns.try_ip("link add wgkernel type wireguard") {
            return crate::skip::skipped("wg-quick prefers this kernel's own WireGuard");
        }
        set_up.iter().for_each(|line| drop(network.netns.ip(line)));
        let folder = Folder::new();
        folder.logging("resolvconf");
        std::os::unix::fs::symlink(daemon, folder.file("bin").join("wg-embed")).unwrap();
        let name = interface();
        let peers: String =
            KEYS.iter().zip(peers).map(|(key, keys)| format!("[Peer]\nPublicKey = {key}\n{keys}\n")).collect();
        let text = format!(
            "[Interface]\nPrivateKey = gGggGGgggGGggggggGGggggggggGGGgggggggGGgggE=\n{interface_keys}\n{peers}"
        );
        let file = folder.file(&format!("{name}.conf"));
        fs::write(&file, text).unwrap();
        let place = Place { network, folder, file, name };
        place.compare(up, down);
    });
}

impl Place {
    fn compare(&self, up: impl FnOnce(&Self), down: impl FnOnce(&Self)) {
        let Self { network, folder, .. } = self;
        let before = network.settings();
        self.wg_quick("up");
        network.settle();
        let (expected, expected_shown, expected_up) = (network.settings(), self.shown(), folder.log());
        self.wg_quick("down");
        let expected_down = folder.log();
        // wg-quick leaves it as it is.
        network.netns.run(|| fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "0").unwrap());
        network.becomes(&before, "after wg-quick");
        up(self);
        network.becomes(&expected, "up");
        assert_eq!(self.shown(), expected_shown);
        assert_eq!(folder.log(), expected_up);
        down(self);
        network.becomes(&before, "down");
        assert_eq!(folder.log(), expected_down);
    }

    fn wg_quick(&self, what: &str) {
        let arguments = [what, self.file.to_str().unwrap()];
        let output = run(&self.network.netns, self.folder.path(), "wg-quick", &arguments);
        assert!(output.status.success(), "wg-quick {what}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The tunnel's configuration, but for the port that the system chose.
    fn shown(&self) -> Vec<String> {
        let text = self.network.netns.command("wg", &format!("showconf {}", self.name));
        text.lines().filter(|line| !line.starts_with("ListenPort")).map(str::to_owned).collect()
    }
}
