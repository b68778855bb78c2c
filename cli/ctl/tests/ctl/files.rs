//! `conf check`, `conf add-peer` and `qr`.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::harness::{Directory, PEERS, PRIVATE, PUBLIC, ctl, fail, succeed};

fn conf(directory: &Directory, text: &str) -> String {
    let path = directory.write("wg0.conf", text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_problem_has_its_place_and_a_hint() {
    let directory = Directory::new();
    let secret = &PRIVATE[..43];
    let file = conf(
        &directory,
        &format!(
            "[Interface]\nPrivateKey = {secret}\n\tAdress = 10.0.0.1/24\n[Peer]\nPublicKey = {PUBLIC}\nEndpoint = a\n"
        ),
    );
    let output = ctl(&["conf", "check", &file]);
    let complaint = fail(1, &output);
    assert_eq!(complaint, "");
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "wg0.conf:2:14\n",
        "this has 43 characters; a key has 44",
        "wg0.conf:3:2\n  |\n3 | \tAdress = 10.0.0.1/24\n  | \t^^^^^^\n  = help: write Address\n",
        "wg0.conf:6:12\n",
        "help: write a:PORT, usually a:51820",
        "wg0.conf: 3 errors, 1 warning\n",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert!(!text.contains(secret), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&ctl(&["conf", "check", "--json", &file]).stdout).unwrap();
    let places: Vec<_> = json.as_array().unwrap().iter().map(|f| (f["line"].as_u64(), f["column"].as_u64())).collect();
    assert_eq!(places[..3], [(Some(2), Some(14)), (Some(3), Some(2)), (Some(6), Some(12))]);
    assert!(!json.to_string().contains(secret));
    fail(3, &ctl(&["conf", "check", "/nowhere/wg0.conf"]));
}

#[test]
fn likely_mistakes_are_warnings() {
    let directory = Directory::new();
    let [a, b, _] = PEERS;
    let interface = format!("[Interface]\nPrivateKey = {PRIVATE}\nListenPort = 51820\n");
    let peer = |key: &str, rest: &str| format!("[Peer]\nPublicKey = {key}\n{rest}\n");
    let with = |rest: &str| format!("{interface}{}", peer(a, rest));
    for (text, warning) in [
        (
            format!("{}{}", with("AllowedIPs = 10.0.0.0/24"), peer(b, "AllowedIPs = 10.0.0.0/24")),
            "only the last peer gets it",
        ),
        (format!("{interface}{}", peer(PUBLIC, "AllowedIPs = ::/0")), "the file's own PrivateKey"),
        (format!("{interface}{}", peer(PRIVATE, "AllowedIPs = ::/0")), "this is the file's PrivateKey"),
        (format!("{}{}", with("AllowedIPs = ::1"), peer(a, "AllowedIPs = ::2")), "both sections are one peer"),
        (with(""), "the peer has no AllowedIPs"),
        (format!("[Interface]\nListenPort = 1\n{}", peer(a, "AllowedIPs = ::1")), "there is no PrivateKey"),
        (
            format!("[Interface]\nPrivateKey = {PRIVATE}\n{}", peer(a, "AllowedIPs = ::1")),
            "neither ListenPort nor any Endpoint",
        ),
        (format!("{interface}MTU = 1000\n{}", peer(a, "AllowedIPs = ::/0")), "IPv6 does not work with an MTU of 1000"),
        (format!("{interface}DNS = 10.9.9.9\n{}", peer(a, "AllowedIPs = ::/0")), "has the DNS server 10.9.9.9"),
        (with("AllowedIPs = 192.0.2.0/24\nEndpoint = 192.0.2.1:5"), "its route leads into the tunnel"),
        (with("AllowedIPs = ::/0\nEndpoint = a:1\nEndpoint = b:1"), "only the last one counts"),
        (with(&format!("AllowedIPs = ::/0\nPresharedKey = {PRIVATE}")), "a preshared key that is another key"),
    ] {
        let file = conf(&directory, &text);
        let shown = succeed(&ctl(&["conf", "check", &file]));
        assert!(shown.contains(&format!("warning: {}", "")) && shown.contains(warning), "{warning}:\n{shown}");
        assert!(shown.ends_with("0 errors, 1 warning\n"), "{shown}");
        fail(1, &ctl(&["conf", "check", "--strict", &file]));
    }
    for (text, note) in [
        (with("AllowedIPs = 10.0.0.1/24"), "10.0.0.1/24 means 10.0.0.0/24"),
        (with("AllowedIPs = 0.0.0.0/0"), "IPv6 goes past the tunnel"),
        (format!("{}{}", with("AllowedIPs = 10.0.0.0/8"), peer(b, "AllowedIPs = 10.1.0.0/16")), "inside 10.0.0.0/8"),
        (
            format!("[Interface]\nPrivateKey = {PRIVATE}\n{}", peer(a, "AllowedIPs = ::/0\nEndpoint = a:1")),
            "without PersistentKeepalive",
        ),
    ] {
        let shown = succeed(&ctl(&["conf", "check", "--strict", &conf(&directory, &text)]));
        assert!(shown.contains("note: ") && shown.contains(note) && shown.contains("no problems"), "{note}:\n{shown}");
    }
}

#[test]
fn a_file_for_all_is_a_warning() {
    let directory = Directory::new();
    let text = format!("[Interface]\nPrivateKey = {PRIVATE}\n");
    let file = conf(&directory, &text);
    assert!(succeed(&ctl(&["conf", "check", &file])).contains("no problems; 0 peers"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        succeed(&ctl(&["conf", "check", &file])).contains("other users can open the file, which has keys (mode 0644)")
    );
}

#[test]
fn a_peer_is_added_and_nothing_else_changes() {
    let directory = Directory::new();
    let before =
        format!("# mine \u{e4}\n[Interface]   # x\nPrivateKey={PRIVATE}\n\n  [Peer]\nPublicKey={}\n", PEERS[0]);
    let file = conf(&directory, &before);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let link = directory.path().join("link.conf");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let psk = directory.write("psk", PEERS[2]);
    let add = |key: &str| {
        ctl(&[
            "conf",
            "add-peer",
            link.to_str().unwrap(),
            "--public-key",
            key,
            "--preshared-key",
            psk.to_str().unwrap(),
            "--allowed-ips",
            "10.0.0.2,fd00::/64",
            "--endpoint",
            "vpn.example.com:51820",
            "--persistent-keepalive",
            "25",
            "--name",
            "telephone",
        ])
    };
    succeed(&add(PEERS[1]));
    let expected = format!(
        "{before}\n[Peer]\n# Name = telephone\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.0.0.2/32, fd00::/64\n\
         Endpoint = vpn.example.com:51820\nPersistentKeepalive = 25\n",
        PEERS[1], PEERS[2]
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    assert!(fail(1, &add(PEERS[1])).contains("the peer of line 8 has this public key"));
    assert!(fail(2, &add("x")).contains("--public-key"));
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
}

#[test]
fn a_code_is_shown_or_written_with_a_warning() {
    let directory = Directory::new();
    let file = conf(&directory, &format!("[Interface]\nPrivateKey = {PRIVATE}\nPostUp = true\n"));
    let output = ctl(&["qr", &file]);
    let text = succeed(&output);
    assert!(text.contains('█') && text.contains('▄') && !text.contains('\u{1b}'), "{text}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("whoever sees this code has the private key") && error.contains("PostUp"), "{error}");
    let image = directory.path().join("a.svg");
    assert_eq!(succeed(&ctl(&["qr", &file, "--svg", image.to_str().unwrap()])), "");
    assert!(fs::read_to_string(&image).unwrap().contains("<svg"));
    assert_eq!(fs::metadata(&image).unwrap().permissions().mode() & 0o777, 0o600);
    fail(1, &ctl(&["qr", &conf(&directory, "[Interface]\nMTU=1\n")]));
}
