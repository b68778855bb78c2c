//! Beginnings.

use std::{io, sync::Arc, time::Duration};

use wg_embed::time::Instant;

use super::{
    super::{Connection, Flags, HalfOpen, Header, Segment, TimeWait, Verdict},
    lone::{ACK, RST, small},
    path::{Counted, Path, config},
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const SYN: Flags = Flags { syn: true, fin: false, rst: false, ack: false, psh: false };
const SYN_ACK: Flags = Flags { ack: true, ..SYN };
const NOW: Instant = Instant::from_nanos(7_000_000_000_000);

/// What a connection sends now.
fn sent(tcp: &mut Connection, now: Instant) -> Vec<Header> {
    let mut sent = Vec::new();
    tcp.transmit(now, 10, &mut |header, _, _| {
        sent.push(*header);
        true
    });
    sent
}

fn dial(iss: u32) -> Connection {
    Connection::dial(small(), Arc::new(Counted::default()), iss, 5, NOW)
}

fn put(tcp: &mut Connection, header: Header) {
    tcp.receive(&Segment { header, payload: &[] }, NOW);
}

#[test]
fn a_handshake_takes_one_round_trip() {
    let mut path = Path::new(50 * MS);
    let start = path.now;
    assert!(path.run_until(S, |path| path.a.tcp.is_established()));
    assert_eq!(path.now.since(start), 50 * MS);
    path.run_for(60 * MS);
    assert!(path.b().tcp.is_established());
}

#[test]
fn a_syn_is_repeated_and_given_up() {
    let mut path = Path::new(50 * MS);
    path.forth.cut = true;
    path.run_for(200 * S);
    assert_eq!(path.a.tcp.error(), Some(io::ErrorKind::TimedOut));
    assert!(path.a.tcp.is_closed());
    assert_eq!(path.forth.dropped, 6);
}

#[test]
fn a_lost_syn_ack_is_repeated() {
    let mut path = Path::new(50 * MS);
    path.back.cut = true;
    path.run_for(2 * S);
    path.back.cut = false;
    assert!(path.run_until(20 * S, |path| path.a.tcp.is_established()));
}

#[test]
fn a_half_open_connection_is_given_up() {
    let mut half_open = HalfOpen::new(&Header { flags: SYN, ..Header::default() }, &config(), 1, 2, NOW);
    let mut now = NOW;
    let mut sent = 0;
    while let Some(at) = half_open.deadline() {
        now = now.max(at);
        half_open.syn_ack(now);
        sent += 1;
    }
    assert_eq!(sent, 6);
    assert_eq!(now.since(NOW), 31 * S);
}

#[test]
fn what_a_half_open_connection_answers() {
    let syn = Header { seq: 100, flags: SYN, mss: Some(1000), window: 1000, ..Header::default() };
    let mut half_open = HalfOpen::new(&syn, &config(), 500, 2, NOW);
    let answer = half_open.syn_ack(NOW);
    assert_eq!((answer.seq, answer.ack, answer.flags), (500, 101, SYN_ACK));
    assert_eq!((answer.window_scale, answer.timestamps, answer.sack_permitted), (None, None, false));
    assert_eq!(answer.mss, Some(1380));
    let mut put = |header| half_open.receive(&Segment { header, payload: &[] }, NOW);
    assert_eq!(put(syn), Verdict::Answer(answer));
    let ack = Header { seq: 101, ack: 501, flags: ACK, window: 1000, ..Header::default() };
    assert_eq!(
        put(Header { ack: 502, ..ack }),
        Verdict::Answer(Header { seq: 502, flags: RST, ..Header::default() }),
        "an ACK for something else"
    );
    assert!(matches!(put(Header { seq: 900_000, ..ack }), Verdict::Answer(Header { flags: ACK, ack: 101, .. })));
    assert_eq!(put(Header { seq: 101, flags: Flags::default(), ..ack }), Verdict::Keep);
    assert_eq!(put(Header { seq: 102, flags: RST, ..ack }), Verdict::Keep);
    assert_eq!(put(ack), Verdict::Established);
    assert_eq!(put(Header { flags: RST, ..ack }), Verdict::Reset);
}

#[test]
fn a_refused_connection() {
    let mut tcp = dial(100);
    assert_eq!(sent(&mut tcp, NOW)[0].flags, SYN);
    // A RST that acknowledges something else is not for this SYN.
    put(&mut tcp, Header { ack: 100, flags: Flags { rst: true, ..ACK }, ..Header::default() });
    assert_eq!(tcp.error(), None);
    put(&mut tcp, Header { flags: RST, ..Header::default() });
    assert_eq!(tcp.error(), None);
    put(&mut tcp, Header { ack: 101, flags: Flags { rst: true, ..ACK }, ..Header::default() });
    assert_eq!(tcp.error(), Some(io::ErrorKind::ConnectionRefused));
    assert!(tcp.is_closed() && !tcp.is_established());
}

#[test]
fn a_wrong_syn_ack_is_reset() {
    let mut tcp = dial(100);
    sent(&mut tcp, NOW);
    put(&mut tcp, Header { seq: 7, ack: 55, flags: SYN_ACK, ..Header::default() });
    assert_eq!(sent(&mut tcp, NOW), [Header { seq: 55, flags: RST, ..Header::default() }]);
    assert!(!tcp.is_established());
}

#[test]
fn icmp_ends_a_handshake() {
    let mut tcp = dial(100);
    sent(&mut tcp, NOW);
    tcp.unreachable(101, io::ErrorKind::HostUnreachable);
    assert_eq!(tcp.error(), None);
    tcp.unreachable(100, io::ErrorKind::HostUnreachable);
    assert_eq!(tcp.error(), Some(io::ErrorKind::HostUnreachable));
    assert!(tcp.is_closed());
}

#[test]
fn both_ends_may_dial_at_once() {
    let (mut a, mut b) = (dial(100), dial(u32::MAX));
    let mut now = NOW;
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        to_b.extend(sent(&mut a, now));
        to_a.extend(sent(&mut b, now));
        now = now + 10 * MS;
        for header in to_a.drain(..) {
            a.receive(&Segment { header, payload: &[] }, now);
        }
        for header in to_b.drain(..) {
            b.receive(&Segment { header, payload: &[] }, now);
        }
    }
    assert!(a.is_established() && b.is_established());
    assert_eq!((sent(&mut a, now), sent(&mut b, now)), (vec![], vec![]));
    assert_eq!(a.write(&|| now, 5, &mut |x, _| x.len()).expect("room").0, 5);
    let mut data = Vec::new();
    a.transmit(now, 1, &mut |header, payload, _| {
        data.push((*header, payload.to_vec()));
        true
    });
    b.receive(&Segment { header: data[0].0, payload: &data[0].1 }, now);
    assert_eq!(b.read(&|| now, &mut |x, _| x.len()).expect("data").0, 5);
}

#[test]
fn time_wait_answers_and_lets_a_newer_syn_begin() {
    let time_wait = TimeWait { seq: 50, ack: 1000, timestamps: Some((70, 3)) };
    let put = |header| time_wait.receive(&Segment { header, payload: &[] }, NOW);
    let fin = Header { seq: 999, ack: 50, flags: Flags { fin: true, ..ACK }, ..Header::default() };
    let answer = put(fin).expect("no new connection").expect("an answer");
    assert_eq!((answer.seq, answer.ack, answer.flags), (50, 1000, ACK));
    assert_eq!(put(Header { seq: 1000, ack: 50, flags: ACK, ..Header::default() }), Ok(None));
    assert_eq!(put(Header { seq: 1000, flags: RST, ..Header::default() }), Ok(None));
    let syn = |seq, value| Header { seq, flags: SYN, timestamps: Some((value, 0)), ..Header::default() };
    assert_eq!(put(syn(10, 71)), Err(()));
    assert!(matches!(put(syn(2000, 69)), Ok(Some(_))));
    assert_eq!(put(syn(1001, 70)), Err(()));
    assert!(matches!(put(syn(900, 70)), Ok(Some(_))));
}

/// The round trip time that a connection begins with whose SYN came again after `again`; 20 ms later the SYN-ACK was
/// answered that was sent then, or the first one.
fn rtt_after_two_syns(again: Duration, timestamps: bool, first: bool) -> Option<Duration> {
    let timestamps = timestamps.then_some((1, 0));
    let syn = Header { seq: 100, flags: SYN, window: 1000, timestamps, ..Header::default() };
    let mut half_open = HalfOpen::new(&syn, &config(), 500, 2, NOW);
    let before = half_open.syn_ack(NOW);
    let now = NOW + again;
    let syn = Header { timestamps: timestamps.map(|_| (901, 0)), ..syn };
    let Verdict::Answer(answer) = half_open.receive(&Segment { header: syn, payload: &[] }, now) else {
        panic!("it is answered");
    };
    assert_eq!(answer.timestamps.map(|(_, echo)| echo), timestamps.map(|_| 901), "of the SYN that is answered");
    let timestamps = if first { before } else { answer }.timestamps.map(|(value, _)| (902, value));
    let ack = Header { seq: 101, ack: 501, flags: ACK, window: 1000, timestamps, ..Header::default() };
    let now = now + 20 * MS;
    assert_eq!(half_open.receive(&Segment { header: ack, payload: &[] }, now), Verdict::Established);
    half_open.establish(config(), Arc::new(Counted::default()), now).smoothed_rtt()
}

#[test]
fn a_syn_ack_that_was_sent_again_says_nothing_of_the_round_trip_time_without_timestamps() {
    assert_eq!(rtt_after_two_syns(900 * MS, false, false), None);
    assert_eq!(rtt_after_two_syns(900 * MS, true, false), Some(20 * MS));
    // The tunnel may have held it back.
    assert_eq!(rtt_after_two_syns(900 * MS, true, true), None);
}

#[test]
fn nor_does_a_syn_that_was_sent_again() {
    for (timestamps, late, rtt) in [(false, false, None), (true, false, Some(20)), (true, true, None)] {
        let mut tcp = dial(100);
        let first = sent(&mut tcp, NOW)[0];
        let now = NOW + 1000 * MS;
        tcp.run_timers(now);
        let second = sent(&mut tcp, now)[0];
        assert!(second.flags == SYN && second.timestamps != first.timestamps);
        // The answer to the second one, or to the first one.
        let echo = if late { first } else { second }.timestamps.expect("offered").0;
        let timestamps = timestamps.then_some((7, echo));
        let answer = Header { seq: 1, ack: 101, flags: SYN_ACK, window: 1000, timestamps, ..Header::default() };
        tcp.receive(&Segment { header: answer, payload: &[] }, now + 20 * MS);
        assert!(tcp.is_established());
        assert_eq!(tcp.smoothed_rtt(), rtt.map(|rtt| rtt * MS), "{timestamps:?}");
    }
}
