//! Where there is no room: full socket buffers, a slow link, and the memory cap. What is dropped is counted, nothing
//! grows, and the flow recovers.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use wg_embed::device::FIXED_MEMORY;

use crate::{
    datagrams,
    lab::{End, Kind, LINK, Lab, Plan, TUN, with_program},
    netns::{as_root, eventually},
    sockets::{Dice, PATIENCE, set_number, udp},
    streams::{self, Stream},
};

/// Sends datagrams of 1000 bytes as fast as it goes, until the tunnel has read so many. Those that its own queue does
/// not take are not its affair.
fn flood(from: &End, to: &End, count: usize) {
    let (sender, receiver) = (udp(&from.netns, from.inner(4)), udp(&to.netns, to.inner(4)));
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let datagram = Dice::new(1).bytes(1000);
    let (start, begin) = (Instant::now(), from.judge.read().packets());
    while from.judge.read().packets() < begin + count {
        assert!(start.elapsed() < PATIENCE, "the tunnel does not read");
        for _ in 0..100 {
            let _ = sender.send(datagram);
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// How many packets the queue of an end's link has dropped.
fn queue_drops(end: &End) -> u64 {
    let text = end.netns.command("tc", &format!("-s qdisc show dev {LINK}"));
    let number = text.split("dropped ").nth(1).unwrap();
    number.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Bytes of memory that this process uses.
fn memory() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Fails if floods leave more behind each time, or if all of one was kept.
fn expect_no_growth(mut flood: impl FnMut()) {
    const NOISE: usize = 4 << 20;
    // Buffers are touched for the first time.
    flood();
    let before = memory();
    flood();
    let after = memory();
    assert!(after < before + NOISE, "from {before} to {after} bytes");
}

/// Everything passes again, from the smallest to the largest.
fn expect_recovery(lab: &Lab) {
    let mut dice = Dice::new(2);
    for family in [4, 6] {
        let (left, right) = datagrams::pair(&lab.a, &lab.b, family);
        datagrams::pass(&left, &right, &[1, 1000, 1372, 9000, 65_507], &mut dice);
        datagrams::pass(&right, &left, &[1, 1000, 1372, 9000, 65_507], &mut dice);
    }
    streams(lab, 1_000_000);
}

/// A stream each way.
fn streams(lab: &Lab, len: usize) {
    let both = lab.ways().map(|(from, to)| {
        let (from, to) = ((&from.netns, from.inner(4)), (&to.netns, to.inner(4)));
        Stream { from, to, len, prepare: &|_| () }
    });
    streams::run(&both, &mut Dice::new(3));
}

/// An end's IPv4 socket.
fn socket(end: &End) -> BorrowedFd<'_> {
    let fd = end.bind.fd4().unwrap();
    // SAFETY: the socket stays open as long as the interface is up and the port is not changed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Packets that the first end has read, and what became of those that were not written at the other.
fn expect_all_accounted_for(lab: &Lab, queue: u64) {
    lab.settle();
    let read = lab.a.judge.read().packets() as u64;
    let written = lab.b.judge.written().packets() as u64;
    let counted: Vec<_> = lab.a.tunnel.device().stats().iter().filter(|(_, n)| *n > 0).collect();
    let socket = lab.b.netns.snmp("Udp", "RcvbufErrors");
    let dropped: u64 = counted.iter().map(|(_, n)| n).sum();
    println!("{read} read, {written} written, {counted:?}, {queue} in the link's queue, {socket} at the other socket");
    assert_eq!(read, written + dropped + queue + socket);
}

#[test]
fn a_full_socket_buffer_costs_what_is_counted() {
    with_program("tc", || {
        for kind in [Kind::Vnet, Kind::Plain] {
            // The queue counts packets, so each is to be one datagram.
            let lab = Lab::new(Plan { udp_offload: false, ..Plan::new(kind, kind, 1420) });
            lab.meet();
            lab.a.netns.command("tc", &format!("qdisc replace dev {LINK} root tbf rate 30mbit burst 32k limit 100k"));
            set_number(&socket(&lab.a).as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 1);
            expect_no_growth(|| flood(&lab.a, &lab.b, 8000));
            assert!(lab.a.stat("out_send_failed") > 0);
            expect_all_accounted_for(&lab, queue_drops(&lab.a));
            streams(&lab, 300_000);
            expect_all_accounted_for(&lab, queue_drops(&lab.a));
            let queue = queue_drops(&lab.a);
            lab.a.netns.command("tc", &format!("qdisc del dev {LINK} root"));
            set_number(&socket(&lab.a).as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 4 << 20);
            expect_recovery(&lab);
            expect_all_accounted_for(&lab, queue);
            lab.check(&["out_send_failed"]);
        }
    });
}

#[test]
fn a_short_queue_costs_what_it_counts() {
    with_program("tc", || {
        for (kind, udp_offload) in [(Kind::Vnet, false), (Kind::Plain, false), (Kind::Vnet, true)] {
            let lab = Lab::new(Plan { udp_offload, ..Plan::new(kind, kind, 1420) });
            lab.meet();
            // Half a dozen packets.
            lab.a.netns.command("tc", &format!("qdisc replace dev {LINK} root tbf rate 50mbit burst 32k limit 10k"));
            expect_no_growth(|| flood(&lab.a, &lab.b, 8000));
            streams(&lab, 300_000);
            let queue = queue_drops(&lab.a);
            assert!(queue > 0);
            if !udp_offload {
                expect_all_accounted_for(&lab, queue);
            }
            lab.a.netns.command("tc", &format!("qdisc del dev {LINK} root"));
            expect_recovery(&lab);
            lab.check(&["out_send_failed"]);
        }
    });
}

#[test]
fn the_memory_cap_costs_what_is_counted() {
    const CAP: usize = 32 << 10;
    as_root(|| {
        for kind in [Kind::Vnet, Kind::Plain] {
            let lab = Lab::new(Plan { memory: FIXED_MEMORY + CAP, ..Plan::new(kind, kind, 1420) });
            // Nobody answers.
            lab.b.netns.ip(&format!("link set {TUN} down"));
            eventually("it is down", || lab.b.bind.fd4().is_none());
            expect_no_growth(|| flood(&lab.a, &lab.b, 20_000));
            lab.settle();
            let read = lab.a.judge.read().packets();
            let dropped = lab.a.stat("out_memory_full") + lab.a.stat("out_stage_full");
            let waiting = read - dropped as usize;
            println!("{read} read, {dropped} dropped, {waiting} wait");
            assert!(lab.a.stat("out_memory_full") > 0);
            assert!((10..=CAP / 1000).contains(&waiting), "{waiting} wait");

            lab.b.netns.ip(&format!("link set {TUN} up"));
            // The kernel has forgotten the address.
            lab.b.netns.ip(&format!("addr replace {}/64 dev {TUN} nodad", lab.b.inner(6)));
            lab.b.netns.await_address(&lab.b.inner(6).to_string());
            eventually("it is up", || lab.b.bind.fd4().is_some());
            // The other end begins: ours may not try again for a while.
            let (right, left) = datagrams::pair(&lab.b, &lab.a, 4);
            right.send(&[1]).unwrap();
            left.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(left.recv(&mut [0; 2]).unwrap(), 1);
            // What waited comes first.
            eventually("all that waited has arrived", || lab.b.judge.written().packets() >= waiting);
            expect_recovery(&lab);
            expect_all_accounted_for(&lab, 0);
            lab.check(&["out_memory_full", "out_stage_full"]);
        }
    });
}
