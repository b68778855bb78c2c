//! `up` and `down`: the same network as with wg-quick(8), and what is said when something is in the way.

use std::{fs, process::Output};

use crate::{
    compare::{Place, beside_wg_quick},
    harness::{BINARY, Directory, PRIVATE, ctl, fail, succeed},
    netns::as_root,
    network::{Folder, Network, daemon, interface, run},
};

/// Runs the program with a file.
fn at(place: &Place, what: &str) -> String {
    let arguments = [what, place.file.to_str().unwrap()];
    succeed(&run(&place.network.netns, place.folder.path(), BINARY, &arguments))
}

#[track_caller]
fn compare(interface_keys: &str, peers: &[&str]) {
    let up = |place: &Place| assert_eq!(at(place, "up"), "");
    beside_wg_quick(&[], interface_keys, peers, up, |place| assert_eq!(at(place, "down"), ""));
}

#[test]
fn addresses_routes_and_dns_are_wg_quicks() {
    compare(
        "Address = 10.0.0.2/24, fd00::2/64\nDNS = 10.0.0.53, corp.example\nMTU = 1400",
        &["AllowedIPs = 10.1.0.0/16, fd01::/16\nEndpoint = 203.0.113.1:51820", "AllowedIPs = 10.2.0.0/16"],
    );
}

#[test]
fn default_routes_are_wg_quicks() {
    compare("Address = 10.0.0.2/32, fd00::2/128", &["AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 203.0.113.1:51820"]);
}

/// A namespace and a folder with a file.
struct Here {
    network: Network,
    folder: Folder,
    name: String,
}

impl Here {
    fn ctl(&self, arguments: &[&str]) -> Output {
        run(&self.network.netns, self.folder.path(), BINARY, arguments)
    }

    /// Writes the file with these keys more.
    fn file(&self, keys: &str) -> String {
        let file = self.folder.file(&format!("{}.conf", self.name));
        fs::write(&file, format!("[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.0.0.2/24\n{keys}\n")).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

fn here(test: impl FnOnce(Here)) {
    as_root(|| {
        if daemon().is_some() {
            test(Here { network: Network::new(), folder: Folder::new(), name: interface() });
        }
    });
}

#[test]
fn hooks_are_run_left_out_or_refused() {
    here(|here| {
        let before = here.network.settings();
        let log = here.folder.file("log");
        let echo = |key: &str| format!("{key} = echo {key} %i >>{}\n", log.display());
        let file = here.file(&["PreUp", "PostUp", "PreDown", "PostDown"].map(echo).concat());
        let name = &here.name;
        succeed(&here.ctl(&["up", &file]));
        assert_eq!(here.folder.log(), format!("PreUp {name}\nPostUp {name}\n"));
        // It is the file's daemon that answers for the name.
        let shown = succeed(&here.ctl(&["show", name, "public-key"]));
        assert!(shown.len() > 40, "{shown}");
        succeed(&here.ctl(&["down", name]));
        assert_eq!(here.folder.log(), format!("PreDown {name}\nPostDown {name}\n"));
        succeed(&here.ctl(&["up", "--hooks", "ignore", &file]));
        succeed(&here.ctl(&["down", &file]));
        succeed(&here.ctl(&["up", &file]));
        here.folder.log();
        succeed(&here.ctl(&["down", "--no-hooks", &file]));
        assert_eq!(here.folder.log(), "");
        let error = fail(1, &here.ctl(&["up", "--hooks", "refuse", &file]));
        assert!(error.contains("commands"), "{error}");
        here.network.becomes(&before, "nothing is left");
    });
}

#[test]
fn what_is_in_the_way_is_named() {
    here(|here| {
        let before = here.network.settings();
        let file = here.file("");
        let name = here.name.clone();
        fail(3, &here.ctl(&["down", &name]));
        fail(3, &here.ctl(&["up", "/nowhere/wg0.conf"]));
        fail(3, &here.ctl(&["up", "--daemon", "no-such-daemon", &file]));
        succeed(&here.ctl(&["up", &file]));
        let error = fail(1, &here.ctl(&["up", &file]));
        assert!(error.contains(&name) && error.contains("already"), "{error}");
        succeed(&here.ctl(&["down", &name]));
        let error = fail(1, &here.ctl(&["up", &here.file("MTU = x\nAdress = 1")]));
        assert!(error.contains(".conf:4:7") && error.contains(".conf:5:1"), "{error}");
        here.network.becomes(&before, "nothing is left");
    });
}

#[test]
fn a_file_that_gives_no_name_is_refused() {
    let directory = Directory::new();
    let file = directory.write("wg0.txt", "");
    let error = fail(2, &ctl(&["up", file.to_str().unwrap()]));
    assert!(error.contains("INTERFACE.conf"), "{error}");
    fail(2, &ctl(&["up", "--userspace", "--hooks", "run", "x"]));
    fail(2, &ctl(&["up", "x", "--", "-n"]));
}

#[test]
fn in_userspace_it_is_the_proxy() {
    if daemon().is_none() {
        return;
    }
    let directory = Directory::new();
    let text = format!(
        "[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.0.0.2/32\n[Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\n\
         [Socks5]\nBindAddress = 127.0.0.1:1080\n",
        crate::harness::PEERS[0]
    );
    let file = directory.write("wg0.conf", text);
    let shown = succeed(&ctl(&["up", "--userspace", file.to_str().unwrap(), "--", "--configtest"]));
    assert_eq!(shown, "Config OK\n");
    let error = fail(1, &ctl(&["up", "--userspace", "/nowhere/wg0.conf"]));
    assert!(error.starts_with("wg-embed: "), "{error}");
}
