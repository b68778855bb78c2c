//! `set`: the same lines reach the daemon as from wg(8).

use std::path::Path;

use crate::{
    harness::{BINARY, Directory, PEERS, PRIVATE, Tunnel, beside_wg, command, fail, hex, succeed, unique_name},
    in_time::output_of,
};

#[test]
fn it_sends_what_wg_sends() {
    beside_wg(|sockets| {
        let directory = Directory::new();
        let key = directory.write("key", format!("{PRIVATE}\n"));
        let (key, name) = (key.to_str().unwrap(), unique_name());
        let tunnel = Tunnel::start_in(sockets, &name, "");
        let [a, b, _] = PEERS;
        for settings in [
            format!("private-key {key} listen-port 51820 fwmark 0xca6c"),
            "private-key /dev/null listen-port 0 fwmark off".to_owned(),
            format!(
                "peer {a} preshared-key {key} endpoint 127.0.0.1:5 persistent-keepalive 25 allowed-ips 10.0.0.1/8,::1"
            ),
            format!("peer {a} preshared-key /dev/null persistent-keepalive off endpoint [::1]:5"),
            format!("fwmark 7 peer {a} remove peer {b} allowed-ips 0.0.0.0/0"),
            format!("peer {a} endpoint localhost:5"),
            format!("peer {a} allowed-ips "),
        ] {
            // Not `split_whitespace`: an empty word means no prefix.
            let words: Vec<_> = settings.split(' ').collect();
            let sent = |program: &str| {
                succeed(&output_of(command(program).args(["set", &name]).args(&words)).unwrap());
                let changes = tunnel.changes();
                assert_eq!(changes.len(), 1);
                changes
            };
            // An address of a name is the system's choice, but the same for both.
            assert_eq!(sent(BINARY), sent("wg"), "{settings}");
        }
        for wrong in ["listen-port x", "foo", "peer x", "remove", &format!("peer {a} persistent-keepalive 65536")] {
            for program in [BINARY, "wg"] {
                let output = output_of(command(program).args(["set", &name]).args(wrong.split(' '))).unwrap();
                assert!(!output.status.success(), "{program} {wrong}");
            }
        }
        assert!(tunnel.changes().is_empty());
    });
}

#[test]
fn a_refusal_has_its_reason() {
    let directory = Directory::new();
    let tunnel = Tunnel::start(&directory, "wg0", "");
    let complaint = fail(1, &directory.ctl(&["set", "wg0", "listen-port", "1"]));
    assert!(complaint.contains("the daemon of wg0 refused the change: Address"), "{complaint}");
    let complaint = fail(2, &directory.ctl(&["set", "wg0", "listen-port", "1", "2"]));
    assert!(complaint.contains("\"2\" is not one of listen-port"), "{complaint}");
    assert!(tunnel.changes().is_empty());
}

#[test]
fn prefixes_can_be_added_and_taken_away() {
    let directory = Directory::new();
    let tunnel = Tunnel::start(&directory, "wg0", "");
    succeed(&directory.ctl(&["set", "wg0", "peer", PEERS[0], "allowed-ips", "+10.0.0.0/8,-::/0"]));
    let expected = format!("public_key={}\nallowed_ip=10.0.0.0/8\nallowed_ip=-::/0\n", hex(PEERS[0]));
    assert_eq!(tunnel.changes(), [expected]);
}

#[test]
fn a_sync_sends_what_differs() {
    let directory = Directory::new();
    let [a, b, c] = PEERS;
    let state = format!(
        "private_key={}\nlisten_port=7\npublic_key={}\nallowed_ip=10.0.0.1/32\npublic_key={}\n",
        hex(PRIVATE),
        hex(a),
        hex(b)
    );
    let tunnel = Tunnel::start(&directory, "wg0", &state);
    let file = directory.write(
        "wg0.conf",
        format!(
            "[Interface]\nPrivateKey={PRIVATE}\nAddress=10.0.0.9/24\n[Peer]\nPublicKey={a}\nAllowedIPs=10.0.0.1\n\
             [Peer]\nPublicKey={c}\nEndpoint=127.0.0.1:5\n"
        ),
    );
    let sync = |options: &[&str], file: &Path| {
        directory.ctl(&[&["conf", "sync", "wg0", file.to_str().unwrap()], options].concat())
    };
    let would = succeed(&sync(&["--dry-run"], &file));
    assert_eq!(
        would,
        format!("+ peer {c}\n- peer {b}\n1 peer would be added, 1 removed, 0 changed, 1 left as they are\n")
    );
    assert!(tunnel.changes().is_empty());
    let json: serde_json::Value = serde_json::from_str(&succeed(&sync(&["--json"], &file))).unwrap();
    assert_eq!((&json["removed"][0], &json["unchanged"]), (&b.into(), &1.into()));
    let expected = format!(
        "public_key={}\nupdate_only=true\nremove=true\npublic_key={}\nendpoint=127.0.0.1:5\nreplace_allowed_ips=true\n",
        hex(b),
        hex(c)
    );
    assert_eq!(tunnel.changes(), [expected]);
    let bad = directory.write("bad.conf", "[Interface]\nMTU = 1\n[Peer]\n");
    let complaint = fail(1, &sync(&[], &bad));
    assert!(complaint.contains("bad.conf:2:7") && complaint.contains("nothing was changed"), "{complaint}");
    assert!(tunnel.changes().is_empty());
}
