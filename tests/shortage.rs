//! A lack of memory fails a call, changes nothing, and ends no process: whichever allocation is the first that fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unsafe_code,
    reason = "a test may fail loudly, and an allocator is unsafe by nature"
)]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Write,
    ptr,
    time::Duration,
};

use common::World;
use wg_embed::{
    Error, ErrorKind,
    config::{Update, wgquick::Conf},
    reserve::Reserve,
    uapi::{self, Limits},
};

thread_local! {
    /// How many allocations of this thread succeed before others fail; and whether only one does.
    static LEFT: Cell<Option<(usize, bool)>> = const { Cell::new(None) };
}

struct Failing;

fn fails() -> bool {
    match LEFT.try_with(Cell::get).ok().flatten() {
        None => false,
        Some((0, once)) => {
            if once {
                LEFT.set(None);
            }
            true
        }
        Some((left, once)) => {
            LEFT.set(Some((left - 1, once)));
            false
        }
    }
}

// SAFETY: everything is the system allocator's, or no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is this one's.
        if fails() { ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is this one's.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is this one's.
        if size > layout.size() && fails() { ptr::null_mut() } else { unsafe { System.realloc(block, layout, size) } }
    }
}

#[global_allocator]
static ALLOCATOR: Reserve<Failing> = Reserve::over(Failing);

/// Runs `call` with fewer allocations than it makes, in steps of `step`, until it succeeds with `once` of them failing
/// or all from there on. `check` follows each failure. Returns how many there were.
fn until_it_succeeds<T>(
    once: bool,
    step: usize,
    call: impl Fn() -> Result<T, Error>,
    check: impl Fn(usize),
) -> (T, usize) {
    let mut failures = 0;
    let mut n = 0;
    loop {
        LEFT.set(Some((n, once)));
        let result = call();
        let was_reached = LEFT.replace(None).is_none_or(|(left, _)| left == 0);
        match result {
            Ok(value) if !once || !was_reached => return (value, failures),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Resources, "allocation {n}: {error}");
                failures += 1;
                check(n);
            }
        }
        n += step;
    }
}

fn peers(text: &mut String, numbers: std::ops::Range<u32>, prefixes: u32) {
    for n in numbers {
        writeln!(text, "public_key={n:064x}\npreshared_key={n:064x}\nendpoint=[fe80::{n:x}%7]:1").unwrap();
        for i in 0..prefixes {
            writeln!(text, "allowed_ip=10.{}.{}.{}/32\nallowed_ip=fd00:{n:x}::{i:x}/128", n & 255, i >> 8, i & 255)
                .unwrap();
        }
    }
}

fn parse(text: &str) -> Result<Update, Error> {
    uapi::parse_set(text, Limits::default())
}

/// Peers come, change, and go.
#[test]
fn a_configuration_is_applied_as_a_whole_or_not_at_all() {
    let mut change = String::from("listen_port=7\nfwmark=8\n");
    peers(&mut change, 20..30, 2);
    writeln!(change, "public_key={:064x}\nremove=true", 5).unwrap();
    let mut few = String::from("replace_peers=true\n");
    peers(&mut few, 3..60, 1);
    let mut long = String::new();
    peers(&mut long, 9..10, 1000);
    let mut many = String::from("replace_peers=true\n");
    peers(&mut many, 2..600, 1);
    let keepalive = format!("public_key={:064x}\npersistent_keepalive_interval=1\nendpoint=192.0.2.7:1\n", 6);
    let mut start = String::new();
    peers(&mut start, 4..12, 3);
    for (text, step) in [(&keepalive, 1), (&change, 1), (&few, 7), (&long, 97), (&many, 211)] {
        let world = World::new();
        let (a, b) = world.pair();
        a.apply(parse(&start).unwrap());
        a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        assert_eq!(b.received().len(), 1);
        let state = || uapi::get_text(a.device.snapshot()).unwrap();
        let before = state();
        let apply = || a.device.apply(parse(text)?);
        let unchanged = |n| assert_eq!(*state(), *before, "allocation {n}");
        let ((), failures) = until_it_succeeds(false, step, apply, unchanged);
        assert!(failures > 0 && *state() != *before);
        let after = state();
        // The second time it changes little, and each allocation fails alone.
        let same = |text: &str| text.matches("public_key").count();
        until_it_succeeds(true, step, apply, |n| assert_eq!(same(&state()), same(&after), "allocation {n}"));
        assert_eq!(same(&state()), same(&after));

        a.add_peer(&b, |_| {});
        a.send_to(&b, 200);
        world.pass(Duration::from_secs(6), &[&a, &b]);
        assert!(!b.received().is_empty());
    }
}

#[test]
fn a_configuration_is_read_as_a_whole_or_not_at_all() {
    let world = World::new();
    let a = world.node(1);
    let mut text = String::new();
    peers(&mut text, 4..60, 1);
    peers(&mut text, 9..10, 500);
    a.apply(parse(&text).unwrap());
    let whole = uapi::get_text(a.device.snapshot()).unwrap();
    for once in [false, true] {
        let (read, failures) = until_it_succeeds(once, 1, || uapi::get_text(a.device.snapshot()), |_| {});
        assert!(*read == *whole && failures > 0, "{failures} failures");
    }
}

#[test]
fn a_conf_file_is_read_and_written_as_a_whole_or_not_at_all() {
    let key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    let mut text =
        format!("[Interface]\nPrivateKey = {key}\nDNS = 1.1.1.1, example.com\nPostUp = {}\n", "x".repeat(9000));
    for n in 0..30 {
        let nets: Vec<_> = (0..60).map(|i| format!("10.{n}.{i}.0/24")).collect();
        let nets = nets.join(", ");
        write!(text, "[Peer]\nPublicKey = {key}\nPresharedKey = {key}\nAllowedIPs = {nets}\nEndpoint = a.b:1\n")
            .unwrap();
    }
    for once in [false, true] {
        let (conf, failures) = until_it_succeeds(once, 1, || Conf::from_bytes(text.as_bytes()), |_| {});
        assert!(failures > 0 && conf == text.parse().unwrap(), "{failures} failures");
        let whole = conf.to_text().unwrap();
        let (written, failures) = until_it_succeeds(once, 1, || conf.to_text(), |_| {});
        assert!(failures > 0 && *written == *whole, "{failures} failures");
    }
}

/// Handshakes, packets that wait, queues: what there is no memory for is dropped, and the tunnel goes on with what
/// follows.
#[test]
fn a_tunnel_goes_on_after_a_lack_of_memory() {
    for n in (0..400).step_by(3) {
        let world = World::new();
        let (a, b) = world.pair();
        let packets = [100, 1400, 1000].map(|len| common::ipv4(a.inner, b.inner, len));
        LEFT.set(Some((n, false)));
        for packet in packets {
            a.tun.inject(&packet);
            world.settle(&[&a, &b]);
            world.pass(Duration::from_secs(1), &[&a, &b]);
        }
        LEFT.set(None);
        b.received();
        world.pass(Duration::from_secs(20), &[&a, &b]);
        b.received();
        a.send_to(&b, 200);
        world.pass(Duration::from_secs(20), &[&a, &b]);
        assert_eq!(b.received().len(), 1, "after {n} allocations");
    }
}
