//! When boringtun sends something, and when it sends nothing: rows A to E, L, M, P and Q.

use super::*;

/// Kernel: persistent keepalive starts a handshake at once and, when its 20 attempts are over, again and again.
/// boringtun: first attempt after a whole interval, 18 attempts, then expired and silent for good.
#[test]
fn row_a_never_comes_back_after_giving_up() {
    start_clock();
    let mut a = Peer::new(A, public(B)).keepalive(25).start();
    let mut initiations = Vec::new();
    let mut expired = Vec::new();
    for (at, out) in a.run(715_000, TICK) {
        match out {
            Out::Net(datagram) => {
                assert_eq!(datagram[0], INITIATION);
                initiations.push(at);
            }
            other => {
                assert_eq!(other, Out::error("ConnectionExpired"));
                expired.push(at);
            }
        }
    }
    let expected: Vec<u64> = (0..18).map(|n| 25_000 + n * 5_000).collect();
    assert_eq!(initiations, expected);
    // From 115 s on: each tick of the next ten minutes is an error and nothing else.
    let expected: Vec<u64> = (115_000..=715_000).step_by(250).collect();
    assert_eq!(expired, expected);
}

/// Kernel: the new-handshake timer counts from the unanswered send, so 15 s after it.
/// boringtun: counts from the last packet received, so after an idle spell it fires at the first tick after a send.
#[test]
fn row_b_starts_a_spurious_handshake_right_after_an_idle_spell() {
    let (mut a, _b) = connected();
    assert_eq!(a.run(20_000, TICK), []);
    assert_eq!(a.send(&ipv4(100)).datagram()[0], DATA);
    let log = a.run(20_250, TICK);
    assert_eq!(times(&log, INITIATION), [20_250]);
}

/// Kernel: answers data with a keepalive when it has sent nothing for 10 s since that data.
/// boringtun: counts from its own last send, so after an idle spell the keepalive goes out at the first tick.
#[test]
fn row_c_sends_the_passive_keepalive_at_the_first_tick() {
    let (mut a, mut b) = connected();
    assert_eq!(a.run(20_000, Duration::from_secs(20)), []);
    assert_eq!(b.tick(), Out::Nothing);
    let data = a.send(&ipv4(100)).datagram();
    assert_eq!(b.receive(&data), Out::Tun(ipv4(100)));
    let log = b.run(20_250, TICK);
    assert_eq!(times(&log, DATA), [20_250]);
    assert_eq!(log[0].1.clone().datagram().len(), KEEPALIVE_LEN);
}

/// Kernel: adds up to 333 ms of jitter to each 5 s retry, so that two ends do not keep colliding.
/// boringtun: two ends that start together retry in the same millisecond each time.
#[test]
fn row_d_retries_without_jitter() {
    start_clock();
    let mut ends = [Peer::new(A, public(B)).start(), Peer::new(B, public(A)).start()];
    for end in &mut ends {
        assert_eq!(end.send(&ipv4(100)).datagram()[0], INITIATION);
    }
    let expected: Vec<u64> = (1..=12).map(|n| n * 5_000).collect();
    for mut end in ends {
        MockClock::set_time(Duration::ZERO);
        assert_eq!(times(&end.run(60_000, Duration::from_millis(1)), INITIATION), expected);
    }
}

/// Kernel: any authenticated packet, sent or received, puts the persistent keepalive off.
/// boringtun: sends it each interval however much traffic there is.
#[test]
fn row_e_sends_persistent_keepalives_amid_traffic() {
    start_clock();
    let mut a = Peer::new(A, public(B)).keepalive(25).start();
    let mut b = Peer::new(B, public(A)).start();
    connect(&mut a, &mut b);
    let mut log = Vec::new();
    for second in 1..=101 {
        log.append(&mut a.run(second * 1_000, TICK));
        assert_eq!(b.tick(), Out::Nothing);
        let there = a.send(&ipv4(100)).datagram();
        assert_eq!(b.receive(&there), Out::Tun(ipv4(100)));
        let back = b.send(&ipv4(60)).datagram();
        assert_eq!(a.receive(&back), Out::Tun(ipv4(60)));
    }
    assert_eq!(log.len(), 4);
    assert_eq!(times(&log, DATA), [25_000, 50_000, 75_000, 100_000]);
    assert!(log.into_iter().all(|(_, out)| out.datagram().len() == KEEPALIVE_LEN));
}

/// Kernel: after 180 s refuses a session for sending and for receiving, whether or not a timer has run.
/// boringtun: only the tick ends a session; after 600 s without one (a suspended machine) both directions still use it.
#[test]
fn row_l_uses_a_dead_session_until_the_next_tick() {
    let (mut a, mut b) = connected();
    MockClock::advance(Duration::from_secs(600));
    let datagram = a.send(&ipv4(100)).datagram();
    assert_eq!(datagram[0], DATA);
    assert_eq!(b.receive(&datagram), Out::Tun(ipv4(100)));
    assert_eq!(a.tick(), Out::error("ConnectionExpired"));
    assert_eq!(a.send(&ipv4(100)).datagram()[0], INITIATION);
}

/// Kernel: the initiator renews a session of 120 s when it sends; an idle tunnel stays quiet.
/// boringtun: one packet in the session's first second is enough for a handshake at 120 s.
#[test]
fn row_m_rekeys_while_idle() {
    let (mut a, mut b) = connected();
    let mut log = Vec::new();
    for at in (250..=125_000).step_by(250) {
        for (at, out) in a.run(at, TICK) {
            let datagram = out.datagram();
            log.push((at, datagram[0]));
            if let Out::Net(reply) = b.receive(&datagram) {
                a.receive(&reply);
            }
        }
        if at == 1_000 {
            let data = a.send(&ipv4(100)).datagram();
            assert_eq!(b.receive(&data), Out::Tun(ipv4(100)));
        }
        if let Out::Net(keepalive) = b.tick() {
            assert_eq!((at, keepalive.len()), (10_000, KEEPALIVE_LEN));
            assert_eq!(a.receive(&keepalive), Out::Nothing);
        }
    }
    assert_eq!(log, [(120_000, INITIATION)]);
}

/// Kernel: wipes keys 540 s after the last session too, but that costs a handshake under way this one try at most: the
/// retry timer runs on and the queue stays.
/// boringtun: 540 s after the last session everything stops: a handshake begun at 538 s dies at 540 s, its response is
/// refused and the queued packet is gone.
#[test]
fn row_p_kills_a_young_handshake_540_s_after_the_last_session() {
    let (mut a, mut b) = connected();
    assert_eq!(a.run(538_000, TICK), []);
    let initiation = a.send(&ipv4(100)).datagram();
    assert_eq!(initiation[0], INITIATION);
    assert_eq!(a.run(540_000, TICK), [(540_000, Out::error("ConnectionExpired"))]);
    let response = b.receive(&initiation).datagram();
    assert_eq!(a.receive(&response), Out::error("UnexpectedPacket"));
    connect(&mut a, &mut b);
    assert_eq!(a.flush(), Vec::<Vec<u8>>::new());
}

/// Kernel: a cookie reply is not a packet from the session; unanswered data leads to a handshake regardless.
/// boringtun: a cookie reply, which anyone who saw the initiation can make, counts as hearing from the peer, and no
/// handshake follows. It also returns a plain `Done`, which an embedder takes for leave to roam.
#[test]
fn row_q_cookie_reply_passes_for_life() {
    for (with_cookie, expected) in [(false, Some(15_000)), (true, None)] {
        start_clock();
        let mut a = Peer::new(A, public(B)).start();
        let mut b = Peer::new(B, public(A)).start();
        let initiation = connect(&mut a, &mut b);
        assert_eq!(a.run(5_000, TICK), []);
        assert_eq!(a.send(&ipv4(100)).datagram()[0], DATA); // lost
        assert_eq!(a.run(6_000, TICK), []);
        if with_cookie {
            let reply = cookie_reply(&RateLimiter::new(&public(B), 0), ADDR, &initiation);
            assert_eq!(a.receive(&reply), Out::Nothing);
        }
        let log = a.run(100_000, TICK);
        assert_eq!(times(&log, INITIATION).first().copied(), expected);
    }
}
