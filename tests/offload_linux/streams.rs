//! TCP: many streams at once, whose bytes are summed up at both ends.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ring::digest::{Context, SHA256};
use socket2::Socket;

use crate::{
    lab::{End, Kind, Lab, Plan, TUN},
    netns::{Netns, as_root},
    sockets::{Dice, connect, listen},
};

/// A stream that takes longer does not pass.
const LIMIT: Duration = Duration::from_secs(300);

/// A stream that is to be.
pub(crate) struct Stream<'a> {
    pub(crate) from: (&'a Netns, IpAddr),
    pub(crate) to: (&'a Netns, IpAddr),
    pub(crate) len: usize,
    /// Prepares the socket that connects, and sends.
    pub(crate) prepare: &'a (dyn Fn(&Socket) + Sync),
}

/// Lets the streams run side by side: writes and reads of random lengths, with pauses. All must arrive as they were
/// sent.
pub(crate) fn run(streams: &[Stream<'_>], dice: &mut Dice) {
    thread::scope(|s| {
        for stream in streams {
            let listener = listen(stream.to.0, stream.to.1);
            let address = listener.local_addr().unwrap();
            let sender = connect(stream.from.0, stream.from.1, address, stream.prepare);
            let (receiver, _) = listener.accept().unwrap();
            receiver.set_read_timeout(sender.read_timeout().unwrap()).unwrap();
            let (mut there, mut here) = (Dice::new(dice.next()), Dice::new(dice.next()));
            s.spawn(move || {
                let received = s.spawn(move || receive(receiver, &mut here));
                let sent = send(&sender, stream.len, &mut there);
                assert!(received.join().unwrap() == (stream.len, sent), "other bytes came from {address}");
            });
        }
    });
}

fn send(mut stream: &TcpStream, len: usize, dice: &mut Dice) -> Vec<u8> {
    stream.set_nodelay(dice.once_in(2)).unwrap();
    let mut sum = Context::new(&SHA256);
    let (mut left, start) = (len, Instant::now());
    while left > 0 {
        assert!(start.elapsed() < LIMIT, "{left} bytes of {len} are left");
        let most = dice.pick(&[10, 2000, 10_000, 200_000]);
        let size = dice.range(1, most).min(left);
        let part = dice.bytes(size);
        stream.write_all(part).unwrap();
        sum.update(part);
        left -= part.len();
        if dice.once_in(16) {
            thread::sleep(Duration::from_micros(dice.range(0, 3000) as u64));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    sum.finish().as_ref().to_vec()
}

fn receive(mut stream: TcpStream, dice: &mut Dice) -> (usize, Vec<u8>) {
    let mut sum = Context::new(&SHA256);
    let mut buffer = vec![0; 200_000];
    let (mut all, start) = (0, Instant::now());
    loop {
        assert!(start.elapsed() < LIMIT, "{all} bytes came");
        let len = stream.read(&mut buffer[..dice.range(1, 200_000)]).unwrap();
        if len == 0 {
            return (all, sum.finish().as_ref().to_vec());
        }
        sum.update(&buffer[..len]);
        all += len;
    }
}

/// Three streams each way, over IPv4 and over IPv6, all at once.
fn both_ways(lab: &Lab, dice: &mut Dice) -> usize {
    let mut streams = Vec::new();
    for family in [4, 6] {
        for (from, to) in lab.ways() {
            for _ in 0..3 {
                let most = 1 << dice.range(10, 21);
                let len = dice.range(1, most);
                let (from, to) = ((&from.netns, from.inner(family)), (&to.netns, to.inner(family)));
                streams.push(Stream { from, to, len, prepare: &|_| () });
            }
        }
    }
    // One of each kind is long.
    streams.iter_mut().step_by(3).for_each(|s| s.len += 3 << 20);
    run(&streams, dice);
    streams.iter().map(|s| s.len).sum()
}

fn streams_arrive(plan: Plan) {
    let lab = Lab::new(plan);
    let bytes = both_ways(&lab, &mut Dice::new(plan.mtu.into()));
    let lost = lab.check(&[]);
    for (from, to) in lab.ways() {
        let (cut, merged) = (from.judge.read().packets(), to.netns.received(TUN));
        println!("{plan:?}: {bytes} bytes, {cut} packets read, {merged} writes, {lost} lost");
        // Otherwise this has tested nothing.
        if to.plain(&lab) {
            assert_eq!(merged, to.judge.written().packets() as u64);
        } else {
            assert!(merged * 4 < cut as u64 * 3, "{merged} writes for {cut} packets: not merged");
        }
    }
}

impl End {
    fn plain(&self, lab: &Lab) -> bool {
        let kind = if std::ptr::eq(self, &raw const lab.a) { lab.plan.a } else { lab.plan.b };
        kind == Kind::Plain
    }
}

#[test]
fn streams_arrive_with_offloads_at_both_ends() {
    as_root(|| {
        for mtu in [1280, 1420, 4000, 9000] {
            streams_arrive(Plan { outer: if mtu == 4000 { 6 } else { 4 }, ..Plan::new(Kind::Vnet, Kind::Vnet, mtu) });
        }
    });
}

#[test]
fn streams_arrive_without_offloads() {
    as_root(|| {
        for mtu in [1280, 1420, 4000, 9000] {
            streams_arrive(Plan { outer: if mtu == 4000 { 6 } else { 4 }, ..Plan::new(Kind::Plain, Kind::Plain, mtu) });
        }
    });
}

#[test]
fn streams_arrive_between_an_end_with_offloads_and_one_without() {
    as_root(|| {
        streams_arrive(Plan::new(Kind::Vnet, Kind::Plain, 1420));
        streams_arrive(Plan::new(Kind::LongVnet, Kind::Vnet, 1420));
        streams_arrive(Plan { udp_offload: false, ..Plan::new(Kind::Plain, Kind::Vnet, 9000) });
    });
}

#[test]
fn streams_arrive_in_fragments() {
    as_root(|| {
        for (outer, kind) in [(4, Kind::Vnet), (6, Kind::Vnet), (4, Kind::Plain)] {
            streams_arrive(Plan { link: 1500, outer, ..Plan::new(kind, kind, 9000) });
        }
    });
}
