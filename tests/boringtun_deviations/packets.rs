//! What boringtun does with packets and sessions: rows F to K and Z.

use super::*;

/// Kernel: a responder holds its queue until the first packet under the new keys, then sends it in order.
/// boringtun: the flush its documentation asks for starts a second handshake and rotates the queue, and the packet that
/// confirms the keys returns `Done`, which does not ask for a flush.
#[test]
fn row_f_responder_queue_is_reordered_and_left_behind() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    assert_eq!(b.send(&ipv4(101)).datagram()[0], INITIATION); // lost
    assert_eq!(b.send(&ipv4(102)), Out::Nothing);
    assert_eq!(b.send(&ipv4(103)), Out::Nothing);

    let response = b.receive(&a.initiate()).datagram();
    assert_eq!(response[0], RESPONSE);
    let flushed = b.flush();
    assert_eq!(flushed.len(), 1);
    assert_eq!(flushed[0][0], INITIATION);

    let confirmation = a.receive(&response).datagram();
    assert_eq!(b.receive(&confirmation), Out::Nothing);
    let delivered: Vec<Out> = b.flush().iter().map(|datagram| a.receive(datagram)).collect();
    assert_eq!(delivered, [ipv4(103), ipv4(101), ipv4(102)].map(Out::Tun));
}

/// Kernel: drops an IPv4 packet whose total length is below 20.
/// boringtun: hands it over cut to that length, so an authenticated peer makes it write 0, 7 or 19 bytes.
#[test]
fn row_g_hands_over_ipv4_packets_shorter_than_their_header() {
    let (mut a, mut b) = connected();
    for len in [0, 7, 19] {
        let mut packet = ipv4(20);
        packet[2..4].copy_from_slice(&u16::to_be_bytes(len));
        let datagram = a.send(&packet).datagram();
        assert_eq!(b.receive(&datagram), Out::Tun(packet[..usize::from(len)].to_vec()));
    }
}

/// Kernel: a responder never sends under new keys before the initiator has used them.
/// boringtun: the eighth unanswered response lands on the slot of the live session, and data goes out on keys that
/// nobody has confirmed.
#[test]
fn row_h_sends_on_unconfirmed_keys_after_eight_responses() {
    let (mut a, mut b) = connected();
    let live = index(&b.send(&ipv4(100)).datagram());
    for n in 1..=8 {
        MockClock::advance(Duration::from_millis(50));
        let initiation = a.initiate();
        assert_eq!(b.receive(&initiation).datagram()[0], RESPONSE); // lost
        let data = b.send(&ipv4(100)).datagram();
        assert_eq!(data[0], DATA);
        if n < 8 {
            assert_eq!(index(&data), live);
            assert_eq!(a.receive(&data), Out::Tun(ipv4(100)));
        } else {
            assert_eq!(index(&data), index(&initiation));
            assert_eq!(a.receive(&data), Out::error("WrongIndex"));
        }
    }
}

/// Kernel: pads each packet to 16 bytes and counts what goes over the wire, handshake included.
/// boringtun: sends 21 bytes as 21 + 32, and counts 21.
#[test]
fn row_i_does_not_pad_and_counts_inner_bytes() {
    let (mut a, mut b) = connected();
    let datagram = a.send(&ipv4(21)).datagram();
    assert_eq!(datagram.len(), 21 + 32);
    assert_eq!(b.receive(&datagram), Out::Tun(ipv4(21)));
    let (_, sent, ..) = a.tunn.stats();
    let (_, _, received, ..) = b.tunn.stats();
    assert_eq!((sent, received), (21, 21));
}

/// Kernel: drops a message whose counter has reached Reject-After-Messages, 2^64 - 2^13 - 1.
/// boringtun: knows no such limit and takes it.
#[test]
fn row_j_takes_a_counter_beyond_reject_after_messages() {
    start_clock();
    let mut b = Peer::new(B, public(A)).start();
    let session = Forger::new(A).connect(&mut b);
    let beyond = u64::MAX - (1 << 13) + 1;
    assert_eq!(b.receive(&session.seal(beyond, &ipv4(100))), Out::Tun(ipv4(100)));
}

/// Kernel: takes a packet that is some 8000 behind the newest one.
/// boringtun: at most 1024 behind the next one expected; 1100 behind is dropped though never seen.
#[test]
fn row_k_replay_window_is_1024() {
    start_clock();
    let mut b = Peer::new(B, public(A)).start();
    let session = Forger::new(A).connect(&mut b);
    assert_eq!(b.receive(&session.seal(5_000, &ipv4(100))), Out::Tun(ipv4(100)));
    let invalid = Out::error("InvalidCounter");
    assert_eq!(b.receive(&session.seal(5_000 - 1_100, &ipv4(100))), invalid);
    assert_eq!(b.receive(&session.seal(5_000 - 1_024, &ipv4(100))), invalid);
    assert_eq!(b.receive(&session.seal(5_000 - 1_023, &ipv4(100))), Out::Tun(ipv4(100)));
}

/// Kernel: a counter at the very end is refused, see row J.
/// boringtun: an authenticated peer's counter just below 2^64 overflows the window's arithmetic: with overflow checks a
/// panic, without them it is taken and a packet one behind it is then too old.
#[test]
fn row_k_counter_at_the_end_overflows_the_window() {
    start_clock();
    let mut b = Peer::new(B, public(A)).start();
    let session = Forger::new(A).connect(&mut b);
    assert_eq!(b.receive(&session.seal(0, &ipv4(100))), Out::Tun(ipv4(100)));
    let last = session.seal(u64::MAX - 1, &ipv4(100));
    match panic_message(|| b.receive(&last)) {
        Err(message) => assert_eq!(message, "attempt to add with overflow"),
        Ok(out) => {
            assert_eq!(out, Out::Tun(ipv4(100)));
            assert_eq!(b.receive(&session.seal(u64::MAX - 2, &ipv4(100))), Out::error("InvalidCounter"));
        }
    }
}

/// A library in somebody else's process must not panic on a buffer it was given.
/// boringtun: panics when `dst` is too small, on the receiving side by the length of a datagram from the network.
#[test]
fn row_z_small_buffer_panics() {
    let (mut a, mut b) = connected();
    let message = "The destination buffer is too small";
    let mut dst = [0; 131];
    let sending = panic_message(|| Out::from(a.tunn.encapsulate(&ipv4(100), &mut dst)));
    assert_eq!(sending, Err(message.to_owned()));
    // 100 bytes in, 100 bytes of room, and still too small: the tag must fit as well. No valid packet is needed.
    let mut datagram = a.send(&ipv4(100)).datagram();
    datagram[131] ^= 1;
    let receiving = panic_message(|| Out::from(b.tunn.decapsulate(Some(ADDR), &datagram, &mut dst[..100])));
    assert_eq!(receiving, Err(message.to_owned()));
}

/// Kernel: while a handshake runs, keeps the newest 128 packets.
/// boringtun: keeps the oldest 256 and drops the newest.
#[test]
fn row_z_full_queue_drops_the_newest() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    let initiation = a.send(&ipv4(1_000)).datagram();
    for n in 1..300 {
        assert_eq!(a.send(&ipv4(1_000 + n)), Out::Nothing);
    }
    let response = b.receive(&initiation).datagram();
    let keepalive = a.receive(&response).datagram();
    assert_eq!(b.receive(&keepalive), Out::Nothing);
    let delivered: Vec<Out> = a.flush().iter().map(|datagram| b.receive(datagram)).collect();
    let expected: Vec<Out> = (0..256).map(|n| Out::Tun(ipv4(1_000 + n))).collect();
    assert_eq!(delivered, expected);
}
