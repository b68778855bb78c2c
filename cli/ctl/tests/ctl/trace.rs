//! `trace` and `show --ping`, on interfaces of namespaces of their own.

use std::{
    fs,
    net::UdpSocket,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use crate::{
    harness::{BINARY, Directory, PEERS, Tunnel, command, fail, hex},
    in_time::{end_of, in_time},
    netns::{Netns, as_root},
};

/// The packets of a file, behind their headers: which interface of the file, the direction, and the bytes.
fn packets(file: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut packets) = (0, Vec::new());
    while at < file.len() {
        let len = word(at + 4) as usize;
        if word(at) == 6 {
            let size = word(at + 20) as usize;
            let end = at + 28 + size;
            packets.push((word(at + 8), word(end.next_multiple_of(4) + 4), file[at + 28 + 20..end].to_vec()));
        }
        at += len;
    }
    packets
}

fn trace(netns: &Netns, directory: &Directory, options: &[&str]) -> Child {
    let mut command = command(BINARY);
    command.args(["--socket-dir", directory.path().to_str().unwrap(), "trace", "wgt0"]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    netns.run(move || command.spawn().unwrap())
}

/// Sends until the trace has ended: when it begins to listen is not seen from outside.
fn send_until_end(netns: &Netns, child: Child, from: &'static str, to: &'static str, payload: &'static [u8]) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sender = netns.start(move || {
        let socket = UdpSocket::bind(from).unwrap();
        while stopped
            .recv_timeout(Duration::from_millis(20))
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            let _ = socket.send_to(payload, to);
        }
    });
    let output = end_of(child);
    drop(stop);
    in_time("the sender ends", move || sender.recv().unwrap());
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn packets_of_both_layers_are_written() {
    as_root(|| {
        let netns = Netns::new();
        let directory = Directory::new();
        let _tunnel = Tunnel::start(&directory, "wgt0", "listen_port=51820\n");
        netns.ip("link add wgt0 type veth peer name wgt1");
        netns.set_up("wgt1", "");
        netns.set_up("wgt0", "arp off");
        netns.ip("addr add 10.9.0.1/24 dev wgt0");
        let file = directory.path().join("a.pcapng");
        let path = file.to_str().unwrap();
        let child = trace(&netns, &directory, &["-o", path, "--count", "2"]);
        send_until_end(&netns, child, "10.9.0.1:0", "10.9.0.2:7", b"inner packet");
        let written = packets(&fs::read(&file).unwrap());
        assert_eq!(written.len(), 2);
        for (interface, direction, packet) in &written {
            assert_eq!((*interface, *direction, packet[0]), (0, 2, 0x45));
            assert!(packet.ends_with(b"inner packet"));
        }
        // Only the port's datagrams, in both families.
        for (from, to) in [("127.0.0.1:0", "127.0.0.1:51820"), ("[::1]:51820", "[::1]:9")] {
            let noise = netns.start(|| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                for _ in 0..50 {
                    let _ = socket.send_to(b"noise", "127.0.0.1:51821");
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let child = trace(&netns, &directory, &["-o", path, "--layer", "outer", "--count", "4"]);
            noise.recv().unwrap();
            send_until_end(&netns, child, from, to, b"outer packet");
            let written = packets(&fs::read(&file).unwrap());
            assert!(written.len() == 4 && written.iter().all(|(_, _, packet)| packet.ends_with(b"outer packet")));
        }
    });
}

#[test]
fn what_cannot_be_traced_is_named() {
    let directory = Directory::new();
    let _tunnel = Tunnel::start(&directory, "wgt0", "");
    let complaint = fail(3, &directory.ctl(&["trace", "nobody"]));
    assert!(complaint.contains("there is no tunnel nobody"), "{complaint}");
    let complaint = fail(1, &directory.ctl(&["trace", "wgt0"]));
    assert!(complaint.contains("wgt0 is no interface here"), "{complaint}");
}

#[test]
fn pings_have_a_time_or_are_lost() {
    as_root(|| {
        let netns = Netns::new();
        let directory = Directory::new();
        let [a, b, c] = PEERS.map(hex);
        let state = format!(
            "public_key={a}\nallowed_ip=10.9.0.0/24\nallowed_ip=10.9.0.1/32\npublic_key={b}\nallowed_ip=fd00::9/128\n\
             public_key={c}\nallowed_ip=0.0.0.0/0\n"
        );
        // The loopback interface answers for the addresses that it has.
        let _tunnel = Tunnel::start(&directory, "lo", &state);
        netns.ip("addr add 10.9.0.1/32 dev lo");
        let mut command = command(BINARY);
        command.args(["--socket-dir", directory.path().to_str().unwrap(), "show", "lo", "--json", "--ping", "2"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = end_of(netns.run(move || command.spawn().unwrap()));
        assert!(output.status.success(), "{output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let ping = |peer: usize| json["peers"][peer]["ping"].clone();
        assert_eq!((&ping(0)["sent"], &ping(0)["received"]), (&2.into(), &2.into()));
        assert!(ping(0)["round_trip_ms"].as_f64().unwrap() > 0.0);
        assert_eq!((&ping(1)["sent"], &ping(1)["received"]), (&2.into(), &0.into()));
        assert!(ping(1)["round_trip_ms"].is_null() && ping(2).is_null());
    });
}
