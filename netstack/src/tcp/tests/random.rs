//! Whatever arrives: no panic, and nothing that the rules forbid.

use std::{net::Shutdown, time::Duration};

use proptest::prelude::*;

use super::{
    super::{Config, Flags, Header},
    lone::{Lone, OURS, PEER},
    path::Path,
};

/// What happens to a connection.
#[derive(Clone, Debug)]
enum Event {
    Segment { seq: i32, ack: i32, flags: u8, window: u16, len: usize, age: i32, blocks: Vec<(i32, i32)> },
    Write(usize),
    Read(usize),
    Wait(u32),
    Transmit(usize, bool),
    Shutdown(bool),
    Close,
    Mtu(usize),
    NoMemory(bool),
}

/// Numbers near to what is plausible, and others.
fn near() -> impl Strategy<Value = i32> {
    prop_oneof![4 => -20..20i32, 4 => 0..30_000i32, 1 => -100_000..2_000_000i32, 1 => any::<i32>()]
}

fn event() -> impl Strategy<Value = Event> {
    let blocks = prop::collection::vec((near(), near()), 0..4);
    let flags = prop_oneof![12 => Just(8u8), 3 => Just(9u8), 1 => any::<u8>()];
    prop_oneof![
        12 => (near(), near(), flags, any::<u16>(), 0..1500usize, -2..3i32, blocks).prop_map(
            |(seq, ack, flags, window, len, age, blocks)| Event::Segment { seq, ack, flags, window, len, age, blocks }
        ),
        4 => (1..20_000usize).prop_map(Event::Write),
        3 => (1..20_000usize).prop_map(Event::Read),
        4 => (0..2000u32).prop_map(Event::Wait),
        8 => (1..50usize, prop::bool::weighted(0.9)).prop_map(|(limit, room)| Event::Transmit(limit, room)),
        1 => any::<bool>().prop_map(Event::Shutdown),
        1 => Just(Event::Close),
        1 => (0..1500usize).prop_map(Event::Mtu),
        1 => any::<bool>().prop_map(Event::NoMemory),
    ]
}

/// What was promised, as bytes from the first one on.
#[derive(Debug, Default)]
struct Promises {
    /// The end of the peer's window, and of ours.
    peer_edge: i64,
    our_edge: i64,
    acked: i64,
    mss: usize,
    /// Which of the peer's bytes were ever sent to us.
    arrived: Vec<bool>,
}

impl Promises {
    fn check(&mut self, header: &Header, payload: usize) {
        let at = i64::from(header.seq.wrapping_sub(OURS.wrapping_add(1)).cast_signed());
        assert!(at + payload as i64 <= self.peer_edge, "beyond the window: {header:?}");
        assert!(payload <= self.mss, "larger than the MSS: {payload}");
        if !header.flags.ack {
            return;
        }
        let acked = i64::from(header.ack.wrapping_sub(PEER.wrapping_add(1)).cast_signed());
        if acked > self.acked {
            // One more for a FIN.
            let bytes = usize::try_from(acked).expect("positive") - 1;
            assert!(self.arrived[..bytes].iter().all(|&arrived| arrived), "{acked} did not arrive");
        }
        assert!(acked >= self.acked, "an ACK went back");
        self.acked = acked;
        if !header.flags.rst {
            let edge = acked + (i64::from(header.window) << 5);
            assert!(edge + (1 << 5) > self.our_edge, "the window shrank: {edge} after {}", self.our_edge);
            self.our_edge = edge.max(self.our_edge);
        }
        for &(from, to) in header.sack.iter().flatten() {
            let from = i64::from(from.wrapping_sub(PEER.wrapping_add(1)).cast_signed());
            let to = i64::from(to.wrapping_sub(PEER.wrapping_add(1)).cast_signed());
            assert!(from < to);
            for at in from.max(0)..to {
                assert!(self.arrived[usize::try_from(at).expect("positive")], "{at} did not arrive");
            }
        }
    }
}

fn run(events: Vec<Event>, timestamps: bool) {
    let mut lone = Lone::new(timestamps);
    let mut promises = Promises {
        peer_edge: 512 << 7,
        our_edge: 0,
        acked: 0,
        mss: if timestamps { 988 } else { 1000 },
        arrived: vec![false; 3_000_000],
    };
    let payload = vec![0; 1500];
    let mut closed = false;
    for event in events {
        match event {
            Event::Segment { seq, ack, flags, window, len, age, blocks } => {
                let bit = |at: u8| flags & (1 << at) != 0;
                let next = promises.acked as i32;
                let number = |near: i32| OURS.wrapping_add(1).wrapping_add_signed(near);
                let mut header = Header {
                    seq: PEER.wrapping_add(1).wrapping_add_signed(next.wrapping_add(seq)),
                    ack: number(ack),
                    flags: Flags { fin: bit(0), syn: bit(1), rst: bit(2), ack: bit(3), psh: bit(4) },
                    window: window % 600,
                    timestamps: timestamps
                        .then(|| (lone.peer_clock.wrapping_add_signed(age), lone.echo.wrapping_add_signed(age))),
                    ..Header::default()
                };
                for (to, (from, end)) in header.sack.iter_mut().zip(blocks) {
                    *to = Some((number(from), number(from.wrapping_add(end))));
                }
                let from = i64::from(next.wrapping_add(seq));
                for at in from..from + len as i64 {
                    if let Some(arrived) = usize::try_from(at).ok().and_then(|at| promises.arrived.get_mut(at)) {
                        *arrived = true;
                    }
                }
                if bit(3) {
                    promises.peer_edge = promises.peer_edge.max(i64::from(ack) + (i64::from(window % 600) << 7));
                }
                lone.put_header(header, &payload[..len]);
            }
            Event::Write(len) => drop(lone.tcp.write(&|| lone.now, len, &mut |a, b| a.len() + b.len())),
            Event::Read(len) => drop(lone.tcp.read(&|| lone.now, &mut |a, b| len.min(a.len() + b.len()))),
            Event::Wait(ms) => lone.advance(Duration::from_millis(u64::from(ms))),
            Event::Transmit(limit, room) => {
                let mut left = if room { usize::MAX } else { 1 };
                let mut echo = lone.echo;
                let mut count = 0;
                lone.tcp.transmit(lone.now, limit, &mut |header, first, second| {
                    if left == 0 {
                        return false;
                    }
                    left -= 1;
                    count += 1;
                    promises.check(header, first.len() + second.len());
                    echo = header.timestamps.map_or(echo, |(value, _)| value);
                    true
                });
                assert!(count <= limit);
                lone.echo = echo;
            }
            Event::Shutdown(write) => {
                drop(lone.tcp.shutdown(if write { Shutdown::Write } else { Shutdown::Read }, lone.now));
            }
            Event::Close => {
                lone.tcp.close(lone.now);
                closed = true;
            }
            Event::Mtu(mtu) => {
                lone.tcp.path_mtu(OURS.wrapping_add(1), mtu, lone.now);
            }
            Event::NoMemory(none) => {
                let limit = if none { 0 } else { usize::MAX };
                lone.budget.limit.store(limit, std::sync::atomic::Ordering::Relaxed);
            }
        }
        if closed && lone.tcp.is_closed() {
            assert_eq!(lone.used(), 0);
        }
        lone.tcp.check();
    }
    let budget = lone.budget.clone();
    drop(lone);
    assert_eq!(budget.used.load(std::sync::atomic::Ordering::Relaxed), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_segments(events in prop::collection::vec(event(), 1..80), timestamps: bool) {
        run(events, timestamps);
    }
}

/// Two connections with any buffers over any path: all arrives, or the time is over because the path is too bad.
fn transfer(rtt: u32, loss: u64, reorder: u64, queue: u64, buffers: (usize, usize), strip: [bool; 3], seed: u64) {
    let config = Config { max_segment: 1400, path_segment: 1400, receive_buffer: buffers.0, send_buffer: buffers.1 };
    let rtt = Duration::from_millis(u64::from(rtt));
    let mut path = Path::with(config.clone(), config, rtt).rate(2_000_000, queue).loss(loss, seed);
    path = path.reorder(reorder, rtt / 3);
    path.back.loss = loss;
    path.strip = strip;
    path.checked = true;
    (path.b_writes, path.b_finishes) = (60_001, true);
    (path.a.to_write, path.a.then_finish) = (150_003, true);
    let done =
        path.run_until(Duration::from_secs(900), |path| path.a.at_end && path.b.as_ref().is_some_and(|b| b.at_end));
    assert!(done, "{:?} {:?}", path.a.tcp.error(), path.b.as_ref().map(|b| (b.received, b.tcp.error())));
    assert_eq!((path.a.received, path.b().received), (60_001, 150_003));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_paths(
        rtt in 1..200u32,
        loss in 0..80_000u64,
        reorder in 0..200_000u64,
        queue in 10_000..200_000u64,
        buffers in (2000..300_000usize, 2000..300_000usize),
        strip: [bool; 3],
        seed: u64,
    ) {
        transfer(rtt, loss, reorder, queue, buffers, strip, seed);
    }
}
