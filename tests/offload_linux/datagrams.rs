//! UDP: datagrams of every kind of size, alone, in GSO runs and in floods, compared byte for byte and number by number.

use std::{
    io::ErrorKind,
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::{
    lab::{End, Kind, Lab, Plan, TUN, cuts_udp},
    netns::as_root,
    sockets::{Dice, PATIENCE, receive, set_number, udp_pair},
};

/// The largest payloads of a datagram over IPv4 and over IPv6.
const MOST: [usize; 2] = [65_507, 65_527];

pub(crate) fn pair(from: &End, to: &End, family: u8) -> (UdpSocket, UdpSocket) {
    udp_pair((&from.netns, from.inner(family)), (&to.netns, to.inner(family)))
}

/// Sizes where something changes, and some in between.
fn sizes(mtu: usize, family: u8, dice: &mut Dice) -> Vec<usize> {
    let (headers, most) = if family == 4 { (28, MOST[0]) } else { (48, MOST[1]) };
    let mut sizes: Vec<usize> = (0..40).collect();
    for edge in [mtu - headers, 2 * (mtu - headers), mtu, 16_384, most - 3] {
        sizes.extend(edge - 3..=(edge + 3).min(most));
    }
    sizes.extend((0..60).map(|_| {
        let most = 1 << dice.range(2, 16);
        dice.range(1, most.min(MOST[0]))
    }));
    sizes
}

/// Sends the datagrams, a few at a time, and compares what arrives.
pub(crate) fn pass(from: &UdpSocket, to: &UdpSocket, sizes: &[usize], dice: &mut Dice) {
    let mut buffer = vec![0; 70_000];
    for few in sizes.chunks(8) {
        let sent: Vec<_> = few.iter().map(|&len| dice.bytes(len)).collect();
        for (i, datagram) in sent.iter().enumerate() {
            assert_eq!(from.send(datagram).unwrap(), few[i]);
        }
        for datagram in sent {
            let len = to.recv(&mut buffer).unwrap_or_else(|err| panic!("{} of {few:?}: {err}", datagram.len()));
            assert!(&buffer[..len] == datagram, "{len} bytes came for {}, or other ones", datagram.len());
        }
    }
}

fn all_sizes_arrive(plan: Plan) {
    let lab = Lab::new(plan);
    let mut dice = Dice::new(plan.mtu.into());
    for family in [4, 6] {
        let sizes = sizes(plan.mtu.into(), family, &mut dice);
        let (left, right) = pair(&lab.a, &lab.b, family);
        pass(&left, &right, &sizes, &mut dice);
        pass(&right, &left, &sizes, &mut dice);
    }
    assert_eq!(lab.check(&[]), 0);
    for end in lab.ends() {
        assert!(end.judge.read().fragments > 100, "{:?}", end.judge.read());
    }
}

#[test]
fn datagrams_of_all_sizes_arrive() {
    as_root(|| {
        for kind in [Kind::Vnet, Kind::Plain] {
            for mtu in [1280, 1420, 4000, 9000] {
                let outer = if mtu == 1420 { 6 } else { 4 };
                all_sizes_arrive(Plan { outer, ..Plan::new(kind, kind, mtu) });
            }
            all_sizes_arrive(Plan { link: 1500, ..Plan::new(kind, kind, 9000) });
        }
    });
}

/// Sends `datagrams`, which are of one size but for the last, as one.
pub(crate) fn send_run(socket: &UdpSocket, bytes: &[u8], segment: usize) {
    set_number(socket, libc::SOL_UDP, libc::UDP_SEGMENT, segment as i32);
    assert_eq!(socket.send(bytes).unwrap(), bytes.len());
}

/// Ends what [`send_run`] began: what is sent now is one datagram.
pub(crate) fn set_plain(socket: &UdpSocket) {
    set_number(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
}

/// Receives `wanted` in parts of `segment` bytes: one by one, or several at a time if the socket may. Returns in how
/// many calls.
pub(crate) fn expect_run(socket: &UdpSocket, wanted: &[u8], segment: usize) -> usize {
    let mut buffer = vec![0; 70_000];
    let (mut at, mut calls) = (0, 0);
    while at < wanted.len() {
        let got = receive(socket, &mut buffer).unwrap();
        let end = at + got.len;
        assert!(wanted.get(at..end) == Some(&buffer[..got.len]), "other bytes came at {at} of {}", wanted.len());
        match got.segment {
            Some(size) if got.len > size => assert!(size == segment && at % segment == 0),
            _ => assert!(got.len == segment || end == wanted.len(), "{} bytes for {segment}", got.len),
        }
        at = end;
        calls += 1;
    }
    calls
}

fn runs_arrive(plan: Plan) {
    let lab = Lab::new(plan);
    let mut dice = Dice::new(plan.mtu.into());
    let (mut datagrams, mut calls) = (0, 0);
    for (from, to) in lab.ways() {
        for (family, headers) in [(4, 28), (6, 48)] {
            let (sender, receiver) = pair(from, to, family);
            for round in 0..60 {
                // Receivers that take what is put together, and those that take it apart.
                set_number(&receiver, libc::SOL_UDP, libc::UDP_GRO, round % 2);
                let largest = usize::from(plan.mtu) - headers;
                let most = dice.pick(&[20, 600, largest]);
                let segment = if dice.once_in(4) { largest } else { dice.range(1, most) };
                let count = dice.range(1, 64.min(65_000 / segment));
                let len = (segment * count).saturating_sub(dice.range(0, segment - 1)).max(1);
                let bytes = dice.bytes(len);
                send_run(&sender, bytes, segment);
                let took = expect_run(&receiver, bytes, segment);
                if round % 2 == 1 {
                    datagrams += bytes.len().div_ceil(segment);
                    calls += took;
                }
            }
        }
    }
    assert_eq!(lab.check(&[]), 0);
    println!("{plan:?}: {datagrams} datagrams received in {calls} calls");
    if plan.a == Kind::Vnet && cuts_udp(&lab.a.netns) {
        assert!(calls * 2 < datagrams, "the large packets were not put together again");
    }
}

#[test]
fn runs_of_datagrams_arrive() {
    as_root(|| {
        for mtu in [1280, 1420, 4000, 9000] {
            let outer = if mtu == 1280 { 6 } else { 4 };
            runs_arrive(Plan { outer, ..Plan::new(Kind::Vnet, Kind::Vnet, mtu) });
        }
        runs_arrive(Plan::new(Kind::Plain, Kind::Plain, 1420));
        runs_arrive(Plan { link: 1500, ..Plan::new(Kind::Vnet, Kind::Vnet, 9000) });
        runs_arrive(Plan { udp_offload: false, ..Plan::new(Kind::Vnet, Kind::Vnet, 1420) });
    });
}

/// Number and length of a datagram of a flood, and then bytes that follow from the number.
fn numbered(flow: u64, number: u32, len: usize) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(len);
    datagram.extend(number.to_be_bytes());
    datagram.extend((len as u32).to_be_bytes());
    datagram.extend(Dice::new(flow << 32 | u64::from(number)).bytes(len - 8));
    datagram
}

/// How a flood went.
#[derive(Debug, Default)]
struct Flood {
    sent: u32,
    received: u32,
    /// Datagrams that came after one with a higher number.
    late: u32,
}

/// Sends as fast as possible for a moment, and until enough has arrived; checks that what arrives has not changed and
/// is in order. How much is lost depends on the machine, so that nothing follows from it.
fn flood(sender: &UdpSocket, receiver: &UdpSocket, flow: u64, mtu: usize) -> Flood {
    const TIME: Duration = Duration::from_millis(500);
    const MOST: u32 = 40_000;
    const ENOUGH: u32 = 200;
    let over = AtomicBool::new(false);
    let arrived = AtomicU32::new(0);
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let segment = 400 + 100 * flow as usize;
    // Two of four send in runs, and of these one receives so.
    set_number(receiver, libc::SOL_UDP, libc::UDP_GRO, i32::from(flow == 3));
    thread::scope(|s| {
        let sending = s.spawn(|| {
            let mut dice = Dice::new(flow);
            let start = Instant::now();
            let mut number = 0;
            let more = |number| (start.elapsed() < TIME && number < MOST) || arrived.load(Relaxed) < ENOUGH;
            while more(number) && start.elapsed() < PATIENCE {
                let mut next = |len| {
                    number += 1;
                    numbered(flow, number - 1, len)
                };
                let sent = if flow >= 2 {
                    let run: Vec<u8> = (0..40).flat_map(|_| next(segment)).collect();
                    set_number(sender, libc::SOL_UDP, libc::UDP_SEGMENT, segment as i32);
                    sender.send(&run)
                } else {
                    let most = if flow == 0 { 200 } else { 2 * mtu };
                    sender.send(&next(dice.range(8, most)))
                };
                // A full queue is part of it.
                assert!(sent.is_ok() || sent.unwrap_err().raw_os_error() == Some(libc::ENOBUFS));
                if dice.once_in(4) {
                    thread::sleep(Duration::from_micros(500));
                }
            }
            over.store(true, Relaxed);
            number
        });
        let mut flood = Flood::default();
        let mut buffer = vec![0; 70_000];
        let mut last = None;
        loop {
            let mut rest = match receive(receiver, &mut buffer) {
                Ok(got) => &buffer[..got.len],
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock) => {
                    if over.load(Relaxed) {
                        break;
                    }
                    continue;
                }
                Err(err) => panic!("{err}"),
            };
            while !rest.is_empty() {
                let number = u32::from_be_bytes(rest[..4].try_into().unwrap());
                let len = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
                assert!(rest[..len] == numbered(flow, number, len), "datagram {number} has other bytes");
                flood.received += 1;
                arrived.store(flood.received, Relaxed);
                flood.late += u32::from(last.is_some_and(|last| last >= number));
                last = last.max(Some(number));
                rest = &rest[len..];
            }
        }
        flood.sent = sending.join().unwrap();
        flood
    })
}

#[test]
fn floods_keep_their_order() {
    as_root(|| {
        for (kind, mtu, link) in
            [(Kind::Vnet, 1280, 1500), (Kind::Vnet, 9000, 9100), (Kind::Vnet, 9000, 1500), (Kind::Plain, 1420, 1520)]
        {
            let lab = Lab::new(Plan { link, ..Plan::new(kind, kind, mtu) });
            lab.meet();
            let floods: Vec<Flood> = thread::scope(|s| {
                let mut running = Vec::new();
                for (i, (from, to)) in lab.ways().into_iter().enumerate() {
                    for flow in 0..4 {
                        let (sender, receiver) = pair(from, to, [4, 6][(flow as usize + i) % 2]);
                        running.push(s.spawn(move || flood(&sender, &receiver, flow, mtu.into())));
                    }
                }
                running.into_iter().map(|f| f.join().unwrap()).collect()
            });
            let lost = lab.check(&["out_send_failed", "in_write_failed"]);
            println!("{kind:?} {mtu} over {link}: {lost} lost between the tunnels, {floods:?}");
            println!("  {} and {} packets", lab.a.netns.received(TUN), lab.b.netns.received(TUN));
            for flood in floods {
                assert_eq!(flood.late, 0);
                assert!(flood.received > 0, "{flood:?}");
            }
        }
    });
}
