//! What boringtun does with handshakes, cookies and keys: rows N, O, R to V and AA.

use super::*;

/// Kernel: takes one initiation per peer and 20 ms.
/// boringtun: has no limit per peer and answers all of 100 in 100 ms.
#[test]
fn row_n_answers_a_flood_of_initiations_from_one_peer() {
    start_clock();
    let limiter = Arc::new(RateLimiter::new(&public(B), u64::MAX));
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).limiter(limiter).start();
    assert_eq!(answered(&mut a, &mut b, 100), 100);
}

/// Kernel: an initiation with a valid cookie still pays from its address's budget, 20/s after a burst of 5.
/// boringtun: a valid cookie lifts every limit.
#[test]
fn row_n_never_limits_initiations_with_a_cookie() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    assert_eq!(answered(&mut a, &mut b, 10), 10);
    MockClock::advance(Duration::from_millis(1));
    let cookie_reply = b.receive(&a.initiate()).datagram();
    assert_eq!(cookie_reply[0], COOKIE_REPLY);
    assert_eq!(a.receive(&cookie_reply), Out::Nothing);
    assert_eq!(answered(&mut a, &mut b, 100), 100);
}

/// Kernel: under load by the length of the handshake queue; budgets are per address.
/// boringtun: one counter for all. Ten junk messages from a stranger who knows the public key turn the honest peer
/// away, and without an address there is not even a cookie.
#[test]
fn row_n_ten_junk_messages_lock_out_the_honest_peer() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    let mut junk = vec![0x5a; 148];
    junk[..4].copy_from_slice(&[INITIATION, 0, 0, 0]);
    sign(&mut junk, &public(B));
    for _ in 0..10 {
        assert_eq!(b.receive(&junk), Out::error("InvalidAeadTag"));
    }
    let initiation = a.initiate();
    assert_eq!(b.receive_from(None, &initiation), Out::error("UnderLoad"));
    assert_eq!(b.receive(&initiation).datagram()[0], COOKIE_REPLY);
}

/// Kernel: the cookie covers address and port, under a secret drawn anew each 120 s.
/// boringtun: it is given no port, so two peers behind one NAT address share a cookie, and that one lasts 128 s.
#[test]
fn row_o_cookie_is_shared_by_an_address() {
    start_clock();
    let limiter = RateLimiter::new(&public(B), 0);
    let mut a = Peer::new(A, public(B)).start();
    let mut neighbour = Peer::new([3; 32], public(B)).start();
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    let shared = cookie(&limiter, ADDR, &a.initiate());
    assert_eq!(cookie(&limiter, ADDR, &neighbour.initiate()), shared);
    assert_ne!(cookie(&limiter, elsewhere, &a.initiate()), shared);
    MockClock::set_time(Duration::from_millis(127_999));
    assert_eq!(cookie(&limiter, ADDR, &a.initiate()), shared);
    MockClock::set_time(Duration::from_secs(128));
    assert_ne!(cookie(&limiter, ADDR, &a.initiate()), shared);
}

/// Kernel: each handshake gets a random 32-bit index.
/// boringtun: 24 bits fixed by the embedder, then 1, 2, 3, ... and round again.
#[test]
fn row_r_indices_are_sequential() {
    start_clock();
    let mut a = Peer::new(A, public(B)).index(0x00ab_cdef).start();
    let indices: Vec<u32> = (0..257).map(|_| index(&a.initiate())).collect();
    let expected: Vec<u32> = (1..=257).map(|n| 0xabcd_ef00 | (n & 0xff)).collect();
    assert_eq!(indices, expected);
}

/// Kernel: an all-zero DH result ends the handshake.
/// boringtun: with a low-order public key configured for a peer, anyone is that peer: here somebody without any private
/// key completes the handshake and gets a packet through.
#[test]
fn row_s_low_order_static_key_lets_anyone_in() {
    start_clock();
    let mut b = Peer::new(B, PublicKey::from(LOW_ORDER)).start();
    let session = Forger::new(LOW_ORDER).connect(&mut b);
    assert_eq!(b.receive(&session.seal(0, &ipv4(100))), Out::Tun(ipv4(100)));
}

/// Kernel: as above, for the ephemeral key in an initiation.
/// boringtun: answers an initiation whose ephemeral key is all zero, and the session works.
#[test]
fn row_s_low_order_ephemeral_key_is_taken() {
    start_clock();
    let mut b = Peer::new(B, public(A)).start();
    let mut forger = Forger::new(A);
    forger.ephemeral = LOW_ORDER;
    assert_eq!(forger.initiation().0[8..40], LOW_ORDER);
    let session = forger.connect(&mut b);
    assert_eq!(b.receive(&session.seal(0, &ipv4(100))), Out::Tun(ipv4(100)));
}

/// Kernel and wireguard-go: timestamps count from 2^62 + 10.
/// boringtun: from 2^62 + 37, so whoever moves from it with the same key is refused for the next 27 s.
#[test]
fn row_t_timestamps_are_27_s_ahead() {
    start_clock();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut a = Peer::new(A, public(B)).start();
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut b = Peer::new(B, public(A)).start();
    let initiation = a.initiate();
    let (secs, nanos) = timestamp(&initiation, &B);
    let unix = secs - BORINGTUN_EPOCH;
    assert!((before..=after).contains(&unix), "{before} {unix} {after}");

    assert_eq!(b.receive(&initiation).datagram()[0], RESPONSE);
    let mut forger = Forger::new(A);
    forger.timestamp = (KERNEL_EPOCH + unix + 27, nanos);
    assert_eq!(b.receive(&forger.initiation().0), Out::error("WrongTai64nTimestamp"));
    forger.timestamp = (KERNEL_EPOCH + unix + 28, nanos);
    assert_eq!(b.receive(&forger.initiation().0).datagram()[0], RESPONSE);
}

/// Kernel: rounds timestamps down to 2^24 ns so that they do not tell the clock.
/// boringtun: two initiations 1 ns apart have timestamps 1 ns apart.
#[test]
fn row_t_timestamps_tell_the_clock_to_the_nanosecond() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let in_nanos = |(secs, nanos): (u64, u32)| u128::from(secs) * 1_000_000_000 + u128::from(nanos);
    let first = in_nanos(timestamp(&a.initiate(), &B));
    MockClock::advance(Duration::from_nanos(1));
    let second = in_nanos(timestamp(&a.initiate(), &B));
    assert_eq!(second - first, 1);
}

/// Kernel: changing the preshared key keeps the peer, and with it the newest timestamp seen.
/// boringtun: the only way is a new `Tunn`, which answers a replayed initiation.
#[test]
fn row_u_changing_the_preshared_key_forgets_the_newest_timestamp() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    let old = connect(&mut a, &mut b);
    assert_eq!(b.receive(&old), Out::error("WrongTai64nTimestamp"));
    let mut b = Peer::new(B, public(A)).preshared_key([9; 32]).start();
    assert_eq!(b.receive(&old).datagram()[0], RESPONSE);
}

/// Kernel: a new private key drops the handshake in flight, and the next packet starts one under the new key.
/// boringtun: the old handshake stays. It holds up the next packet's handshake until the retry, and its response is
/// still worked on, with the new key mixed in.
#[test]
fn row_v_new_private_key_leaves_the_old_handshake_in_flight() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    let response = b.receive(&a.send(&ipv4(100)).datagram()).datagram();

    let limiter = Arc::new(RateLimiter::new(&public(A), u64::MAX)); // passes the old key's mac1
    a.tunn.set_static_private(StaticSecret::from([3; 32]), public([3; 32]), Some(limiter));
    assert_eq!(a.send(&ipv4(100)), Out::Nothing);
    assert_eq!(a.receive(&response), Out::error("InvalidAeadTag")); // not UnexpectedPacket
    assert_eq!(times(&a.run(6_000, TICK), INITIATION), [5_000]);
}

/// Kernel: stops being under load 1 s after the last sign of it.
/// boringtun: only the tick resets the counter; an embedder that does not tick is under load for ever.
#[test]
fn row_aa_stays_under_load_without_ticks() {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    assert_eq!(answered(&mut a, &mut b, 11), 10);
    MockClock::advance(Duration::from_secs(60));
    assert_eq!(b.receive(&a.initiate()).datagram()[0], COOKIE_REPLY);
    assert_eq!(b.tick(), Out::Nothing);
    MockClock::advance(Duration::from_millis(1));
    assert_eq!(b.receive(&a.initiate()).datagram()[0], RESPONSE);
}
