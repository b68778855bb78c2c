//! Handshakes that end while something else happens.

use wg_embed::tun::PacketArena;

use super::*;
use crate::{
    Netstack, Options,
    stack::packet::Packet,
    tcp::{Connection, Flags, Header},
};

const RST: Flags = Flags { syn: false, fin: false, rst: true, ack: true, psh: false };

/// A stack, and a connection whose handshake is over, with the ACK that has ended it.
fn handshake() -> (Netstack, Arrival<'static>, impl Fn() -> Connection) {
    let stack = Netstack::new(Options { addresses: vec![[10, 0, 0, 2].into()], ..Options::default() }).unwrap();
    let tuple = FourTuple::new(([10, 0, 0, 2], 80).into(), ([10, 0, 0, 1], 1000).into());
    let shared = stack.0.clone();
    let now = shared.now();
    let syn = Header { seq: 5, flags: Flags { syn: true, ..Flags::default() }, window: 1000, ..Header::default() };
    let half = half_open(&shared, &tuple, &syn, None, now);
    let ack = half.clone().syn_ack(now).seq.wrapping_add(1);
    let header = Header { seq: 6, ack, flags: Flags { ack: true, ..Flags::default() }, ..syn };
    let segment = Segment { header, payload: &[] };
    let connection = move || {
        let mut half = half.clone();
        half.syn_ack(now);
        assert_eq!(half.receive(&segment, now), Verdict::Established);
        half.establish(config(&shared, tuple.remote()), shared.memory.clone(), now)
    };
    (stack, Arrival { tuple, segment }, connection)
}

/// The headers of what the stack sends now.
fn sent(stack: &Netstack) -> Vec<Header> {
    let mut arena = PacketArena::new(1 << 17, 64, |len, _| len);
    stack.tun().read(&mut arena).unwrap();
    let packets = arena.slots().iter().map(|slot| arena.packet(*slot));
    packets.map(|packet| segment::Parts::of(Packet::parse(packet).unwrap().payload()).unwrap().parse().header).collect()
}

fn listening() -> Arc<Listening> {
    Arc::new(Listening::new(([10, 0, 0, 2], 80).into(), 8))
}

#[test]
fn a_listener_that_is_dropped_at_the_last_moment_resets() {
    let (stack, arrival, connection) = handshake();
    let (shared, listening) = (&stack.0, listening());
    drop(listening.close());
    establish(shared, &arrival, Some(listening), connection(), shared.now());
    let sent = sent(&stack);
    assert_eq!((sent.len(), sent[0].flags, sent[0].seq), (1, RST, arrival.segment.header.ack));
    assert_eq!((shared.tcp.len(), shared.memory.used()), (0, 0));
}

#[test]
fn a_connection_is_never_replaced_by_another_one() {
    let (stack, arrival, connection) = handshake();
    let (shared, listening) = (&stack.0, listening());
    establish(shared, &arrival, Some(listening.clone()), connection(), shared.now());
    let first = listening.pop().unwrap();
    establish(shared, &arrival, Some(listening.clone()), connection(), shared.now());
    assert!(listening.pop().is_err());
    assert_eq!(sent(&stack).iter().map(|header| header.flags.rst).collect::<Vec<_>>(), [true]);
    assert!(Arc::ptr_eq(&shared.tcp.get(&arrival.tuple).unwrap(), &first));
    // The end of one that is not in the table takes no other one out of it.
    let stray = TcpSocket::new(arrival.tuple, false, connection());
    stray.end(shared, shared.now(), io::ErrorKind::ConnectionAborted, &mut |_| true);
    assert_eq!(shared.tcp.len(), 1);
}
