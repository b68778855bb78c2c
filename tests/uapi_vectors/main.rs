//! Runs `tests/vectors/uapi` against ours and, where there is one, against a real wireguard-go.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[cfg(target_os = "linux")]
#[path = "../common/in_time.rs"]
mod in_time;
mod ours;
mod script;
#[cfg(target_os = "linux")]
mod wg;
#[cfg(target_os = "linux")]
mod wireguard_go;

#[cfg(target_os = "linux")]
use std::io::Write;

/// Something that answers requests. Each has a connection of its own, whose sending side is closed behind the request.
trait Target {
    fn exchange(&mut self, request: &[u8]) -> Vec<u8>;
}

#[test]
fn ours_answers_as_written() {
    println!("{} cases", script::run_all("ours", &mut ours::Ours::default()));
}

#[cfg(target_os = "linux")]
#[test]
fn wireguard_go_answers_as_written() {
    // The network namespace that this enters is the thread's.
    let judge = std::thread::spawn(|| match wireguard_go::WireguardGo::start() {
        Ok(mut target) => println!("{} cases", script::run_all("wireguard-go", &mut target)),
        Err(reason) => skip("wireguard_go_answers_as_written", &reason),
    });
    if let Err(panic) = judge.join() {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn wg_understands_ours() {
    let served = match wg::Served::start() {
        Ok(served) => served,
        Err(reason) => return skip("wg_understands_ours", &reason),
    };
    let (a, b) = ("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=");
    let zoned = format!("peer {b} endpoint [fe80::1%lo]:6 allowed-ips ::/0");
    for arguments in [
        "fwmark 0x7".to_owned(),
        format!("peer {a} endpoint 1.2.3.4:5 allowed-ips 10.1.2.3/8,::/0 persistent-keepalive 25"),
        zoned,
    ] {
        served.wg("set", &arguments).unwrap();
    }
    assert_eq!(served.wg("show", "fwmark").unwrap(), "0x7\n");
    assert_eq!(served.wg("show", "endpoints").unwrap(), format!("{a}\t1.2.3.4:5\n{b}\t[fe80::1%lo]:6\n"));
    assert_eq!(served.wg("show", "allowed-ips").unwrap(), format!("{a}\t10.0.0.0/8\n{b}\t::/0\n"));
    assert_eq!(served.wg("show", "persistent-keepalive").unwrap(), format!("{a}\t25\n{b}\toff\n"));

    let taker = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let taken = taker.local_addr().unwrap().port();
    let complaint = served.wg("set", &format!("listen-port {taken}")).unwrap_err();
    assert!(complaint.contains("Address already in use"), "{complaint}");
    served.wg("set", &format!("peer {a} remove")).unwrap();
    assert_eq!(served.wg("show", "peers").unwrap(), format!("{b}\n"));
}

/// Says so past the test harness, which would keep it to itself.
#[cfg(target_os = "linux")]
fn skip(test: &str, reason: &str) {
    let line = format!("{test} skipped: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
