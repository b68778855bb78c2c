//! `show` and `conf show`, byte for byte as wg(8) prints.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    harness::{
        BINARY, Directory, PEERS, PRIVATE, PUBLIC, Tunnel, beside_wg, command, ctl, fail, hex, succeed, unique_name,
    },
    in_time::output_of,
};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A tunnel with everything that can be shown.
fn everything() -> String {
    let [a, b, c] = PEERS.map(hex);
    let long_ago = now() - 400 * 86_400 - 7_261;
    format!(
        "private_key={}\nlisten_port=12912\nfwmark=51820\n\
         public_key={a}\npreshared_key={b}\nendpoint=192.0.2.1:5\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\n\
         last_handshake_time_sec={long_ago}\nrx_bytes=1023\ntx_bytes=1048576\npersistent_keepalive_interval=3661\n\
         public_key={b}\nendpoint=[2001:db8::1]:65535\nallowed_ip=::1.2.3.4/128\nallowed_ip=::ffff:1.2.3.4/128\n\
         rx_bytes=18446744073709551615\n\
         public_key={c}\nlast_handshake_time_sec={}\ntx_bytes=1\n",
        hex(PRIVATE),
        long_ago + 9_999_999
    )
}

/// Runs both until they print the same, as seconds pass, or the last second is the same for both.
fn assert_same(theirs: &[&str], ours: &[&str], environment: &[(&str, &str)]) {
    for last in [false, false, false, true] {
        let run = |program: &str, arguments: &[&str]| {
            output_of(command(program).args(arguments).envs(environment.iter().copied())).unwrap()
        };
        let before = now();
        let (theirs_output, ours_output) = (run("wg", theirs), run(BINARY, ours));
        let (theirs_text, ours_text) = (succeed(&theirs_output), succeed(&ours_output));
        if theirs_text == ours_text {
            return;
        }
        // Ages may differ if time went on between the two.
        assert!(now() != before && !last, "{theirs_text}\n{ours_text}");
    }
}

#[test]
fn it_prints_what_wg_prints() {
    beside_wg(|directory| {
        let fields = [
            "public-key",
            "private-key",
            "listen-port",
            "fwmark",
            "peers",
            "preshared-keys",
            "endpoints",
            "allowed-ips",
            "latest-handshakes",
            "transfer",
            "persistent-keepalive",
            "dump",
        ];
        let unset = format!("public_key={}\n", hex(PEERS[0]));
        for text in [everything(), String::new(), unset] {
            let name = unique_name();
            let _tunnel = Tunnel::start_in(directory, &name, &text);
            assert_same(&["show", &name], &["show", &name], &[]);
            assert_same(&["show", &name], &["show", &name], &[("WG_HIDE_KEYS", "never")]);
            assert_same(&["showconf", &name], &["conf", "show", &name], &[]);
            for field in fields {
                assert_same(&["show", &name, field], &["show", &name, field], &[]);
            }
        }
    });
}

#[test]
fn all_tunnels_and_their_names() {
    let directory = Directory::new();
    assert_eq!(succeed(&directory.ctl(&["show"])), "");
    assert_eq!(succeed(&directory.ctl(&["show", "interfaces"])), "");
    let _a = Tunnel::start(&directory, "a", "listen_port=7\n");
    let _b = Tunnel::start(&directory, "b", &format!("public_key={}\n", hex(PEERS[0])));
    // What is no socket, or one without a process, is no tunnel.
    directory.write("file.sock", "");
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("gone.sock")).unwrap());
    assert_eq!(succeed(&directory.ctl(&["show", "interfaces"])), "a b\n");
    assert_eq!(succeed(&directory.ctl(&["show", "interfaces", "--json"])), "[\n  \"a\",\n  \"b\"\n]\n");
    let all = succeed(&directory.ctl(&["show"]));
    let expected =
        format!("interface: a\n  listening port: 7\n\ninterface: b\n\npeer: {}\n  allowed ips: (none)\n", PEERS[0]);
    assert_eq!(all, expected);
    assert_eq!(succeed(&directory.ctl(&["show", "all", "listen-port"])), "a\t7\nb\t0\n");
    assert_eq!(succeed(&directory.ctl(&["show", "all", "peers"])), format!("b\t{}\n", PEERS[0]));
}

#[test]
fn json_has_numbers_and_no_secret() {
    let directory = Directory::new();
    let _tunnel = Tunnel::start(&directory, "wg0", &everything());
    let text = succeed(&directory.ctl(&["show", "wg0", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["interface"], &json["public_key"]), (&"wg0".into(), &PUBLIC.into()));
    assert_eq!((&json["listen_port"], &json["fwmark"]), (&12912.into(), &51820.into()));
    let peers = json["peers"].as_array().unwrap();
    assert_eq!(peers[0]["allowed_ips"], serde_json::json!(["10.0.0.0/8", "::/0"]));
    assert_eq!((&peers[0]["has_preshared_key"], &peers[1]["has_preshared_key"]), (&true.into(), &false.into()));
    assert!(peers[0]["handshake_age_seconds"].as_u64().unwrap() >= 400 * 86_400);
    assert_eq!(peers[1]["rx_bytes"], u64::MAX);
    assert!(peers[1]["latest_handshake"].is_null() && peers[1]["persistent_keepalive"].is_null());
    assert!(!text.contains(PRIVATE), "{text}");
}

#[test]
fn colours_are_for_terminals() {
    let directory = Directory::new();
    let _tunnel = Tunnel::start(&directory, "wg0", &everything());
    assert!(!succeed(&directory.ctl(&["show", "wg0"])).contains('\u{1b}'));
    let coloured = succeed(&directory.ctl(&["--color", "always", "show", "wg0"]));
    assert!(coloured.contains('\u{1b}'));
}

#[test]
fn who_is_not_there_is_named() {
    let directory = Directory::new();
    let _tunnel = Tunnel::start(&directory, "here", "");
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("gone.sock")).unwrap());
    let complaint = fail(3, &directory.ctl(&["show", "wg0"]));
    assert_eq!(complaint, "wg-embedctl: error: there is no tunnel wg0; there are: here\n");
    assert!(fail(3, &directory.ctl(&["show", "gone"])).contains("no daemon answers for gone"));
    assert!(fail(2, &directory.ctl(&["show", "../x"])).contains("is not the name of a tunnel"));
    assert!(fail(3, &ctl(&["--socket-dir", "/nowhere", "show", "wg0"])).contains("no daemon has a socket in /nowhere"));
}

#[test]
fn a_daemon_that_is_none_is_named() {
    use std::io::{Read, Write};
    let directory = Directory::new();
    for (answer, complaint) in [
        (&b""[..], "closed the connection without an answer"),
        (b"listen_port=7\n", "only a part of its state"),
        (b"errno=1\n\n", "Operation not permitted"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a line without `=`"),
    ] {
        let path = directory.path().join("odd.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let _ = client.read(&mut [0; 64]).unwrap();
            client.write_all(answer).unwrap();
        });
        let text = fail(1, &directory.ctl(&["show", "odd"]));
        assert!(text.contains(complaint), "{text}");
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
