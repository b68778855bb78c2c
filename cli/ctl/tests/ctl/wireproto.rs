//! `wireproto call`, to a daemon with a second socket.

use std::fs;

use serde_json::Value;

use crate::{
    harness::{PEERS, ctl, fail, succeed},
    netns::{Netns, as_root, eventually},
    network::{Folder, daemon, interface, run},
};

#[test]
fn commands_are_answered() {
    as_root(|| {
        let Some(daemon) = daemon() else { return };
        let (netns, folder, name) = (Netns::new(), Folder::new(), interface());
        let directory = folder.0.to_str().unwrap().to_owned();
        let socket = folder.file(&format!("{name}.wireproto")).to_str().unwrap().to_owned();
        let options = ["--socket-dir", &directory, "--wireproto-socket", &socket, &name];
        succeed(&run(&netns, folder.path(), daemon.to_str().unwrap(), &options));
        let call = |words: &[&str]| ctl(&[&["--socket-dir", &directory, "wireproto", "call", &name], words].concat());
        let version: Value = serde_json::from_str(&succeed(&call(&["version"]))).unwrap();
        assert_eq!(version["wireproto"], 1);
        let peer = format!("public_key={}", PEERS[0]);
        let set = ["set", "fwmark=9", &peer, "allowed_ip=10.0.0.0/8"];
        assert_eq!(succeed(&call(&set)), "");
        // By its path as well.
        let shown = succeed(&ctl(&["wireproto", "call", &socket, "get"]));
        assert!(shown.contains("fwmark=9\n") && shown.contains("allowed_ip=10.0.0.0/8\n"), "{shown}");
        // Keys and lines from files.
        let file = |name: &str, text: &str| {
            fs::write(folder.file(name), text).unwrap();
            format!("@{}", folder.file(name).display())
        };
        let (key, lines) = (file("key", PEERS[1]), file("lines", "fwmark=10\n"));
        let set = ["set", &format!("public_key={key}"), "set", &format!("uapi={lines}"), "peers"];
        let text = succeed(&call(&set));
        assert!(text.starts_with("set:\nset:\npeers:\n[") && text.contains(PEERS[1]), "{text}");
        let answers: Value =
            serde_json::from_str(&succeed(&call(&["--json", "get", "get", "format=json", "id:=00ff"]))).unwrap();
        assert!(answers[0]["cmd"] == "get" && answers[0]["result"].as_str().unwrap().contains("fwmark=10\n"));
        assert_eq!(answers[1]["result"]["fwmark"], 10, "{answers}");
        // What fails is told, and the rest is done.
        let none = format!("public_key={}", PEERS[2]);
        let output = call(&["peers", &none, "version"]);
        assert!(fail(3, &output).contains("peers: "));
        assert!(String::from_utf8(output.stdout).unwrap().contains("wireproto"));
        let output = call(&["--json", "nothing"]);
        fail(1, &output);
        let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&answers[0]["cmd"], &answers[0]["error"]["error"]), (&"nothing".into(), &"unsupported".into()));
        assert!(fail(2, &call(&["set", "listen_port=x"])).contains("listen_port: the value is not a number"));
        // Another protocol is spoken there, in lines.
        let uapi = folder.file(&format!("{name}.sock")).to_str().unwrap().to_owned();
        fail(1, &ctl(&["wireproto", "call", &uapi, "get", "id:=0a0a"]));
        netns.ip(&format!("link delete {name}"));
        // Its sockets are removed one after the other.
        eventually("the daemon ends", || ![&uapi, &socket].iter().any(|path| fs::exists(path).unwrap()));
        assert!(fail(3, &call(&["version"])).contains("--wireproto-socket"));
    });
}

#[test]
fn a_socket_and_a_command_are_needed() {
    fail(2, &ctl(&["wireproto", "call", "wg0"]));
    fail(2, &ctl(&["wireproto", "call", "", "get"]));
    fail(3, &ctl(&["wireproto", "call", "/nowhere/socket", "get"]));
}
