//! When something is sent, and when nothing is: rows A to E, L, M, P and Q.

use super::*;

/// Theirs: when 90 s of tries are over, a persistent keepalive never begins anew, so that a tunnel does not come back
/// unless this side sends; and its first try comes after a whole interval.
#[test]
fn row_a_keepalives_and_packets_revive_a_tunnel_that_was_given_up() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    b.add_peer(&a, |_| {});
    b.device.down();
    a.add_peer(&b, |p| p.persistent_keepalive = Some(25));

    let tries = times(&world.watch(Duration::from_secs(115), &[&a]), &a, INITIATION);
    assert_eq!(tries.len(), 20);
    assert_eq!(tries[0], Duration::ZERO);
    assert_eq!(*a.events.lock().unwrap(), [Event::HandshakeFailed(b.public())]);
    let tries = times(&world.watch(Duration::from_secs(600), &[&a]), &a, INITIATION);
    assert!(tries.len() > 80, "it goes on trying: {}", tries.len());

    b.device.up().unwrap();
    world.pass(Duration::from_secs(32), &[&a, &b]);
    assert!(a.events.lock().unwrap().contains(&Event::HandshakeCompleted(b.public())), "only a keepalive was there");

    // Without a keepalive it is quiet, until there is a packet.
    let world = World::new();
    let (a, b) = world.pair();
    cut(&world);
    a.send_to(&b, 100);
    world.pass(Duration::from_secs(115), &[&a, &b]);
    let _ = world.sent();
    world.pass(Duration::from_secs(100), &[&a, &b]);
    assert_eq!(world.sent_types(), []);
    world.net.clear_filter();
    let packet = a.send_to(&b, 200);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

/// Theirs: a packet after 15 s of silence causes a handshake at once, as the time is counted from what was received
/// last and not from what was sent.
#[test]
fn row_b_a_packet_after_silence_causes_no_handshake() {
    let world = World::new();
    let (a, b) = connected(&world);
    world.watch(Duration::from_secs(60), &[&a, &b]);
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(40), &[&a, &b]);
    assert_eq!(times(&seen, &a, INITIATION), []);
    assert_eq!(times(&seen, &b, KEEPALIVE), [Duration::from_secs(10)]);

    // If nothing comes back, there is one 15 s after the packet.
    cut(&world);
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(16), &[&a, &b]);
    let tries = times(&seen, &a, INITIATION);
    assert!(tries.len() == 1 && (15 * SECOND..=15 * SECOND + JITTER).contains(&tries[0]), "{tries:?}");
}

/// Theirs: the keepalive that answers data goes out at the first tick after it.
#[test]
fn row_c_data_is_answered_by_a_keepalive_after_ten_seconds() {
    let world = World::new();
    let (a, b) = connected(&world);
    world.watch(Duration::from_secs(20), &[&a, &b]);
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(30), &[&a, &b]);
    assert_eq!(times(&seen, &b, KEEPALIVE), [Duration::from_secs(10)]);
    // Not at all if something else was sent meanwhile.
    a.send_to(&b, 100);
    world.watch(Duration::from_secs(9), &[&a, &b]);
    b.send_to(&a, 100);
    assert_eq!(times(&world.watch(Duration::from_secs(9), &[&a, &b]), &b, KEEPALIVE), []);
}

/// Theirs: no jitter, so that peers that begin together go on colliding.
#[test]
fn row_d_retries_have_jitter() {
    let world = World::new();
    let nodes: Vec<Node> = (10..26).map(|n| world.node(n)).collect();
    let nobody = world.node(1);
    cut(&world);
    for node in &nodes {
        node.add_peer(&nobody, |_| {});
        node.send_to(&nobody, 100);
    }
    let all: Vec<&Node> = nodes.iter().collect();
    let seen = world.watch(Duration::from_secs(60), &all);
    let mut waits = Vec::new();
    for node in &nodes {
        let tries = times(&seen, node, INITIATION);
        assert_eq!(tries[0], Duration::ZERO);
        waits.extend(tries.windows(2).map(|w| w[1] - w[0]));
    }
    assert!(waits.len() >= 16 * 11);
    assert!(waits.iter().all(|w| (RETRY..=RETRY + JITTER).contains(w)));
    let (min, max) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*max - *min > JITTER / 2, "{min:?} to {max:?}");
    assert!(waits.iter().collect::<HashSet<_>>().len() > waits.len() / 2, "the same few times");
}

/// Theirs: a persistent keepalive each interval, however much else is sent.
#[test]
fn row_e_persistent_keepalives_only_fill_silence() {
    let world = World::new();
    let (a, b) = world.pair();
    a.change_peer(&b, |p| p.persistent_keepalive = Some(25));
    world.settle(&[&a, &b]);
    let _ = world.sent();
    let mut seen = Vec::new();
    for _ in 0..60 {
        a.send_to(&b, 100);
        b.send_to(&a, 100);
        seen.append(&mut world.watch(SECOND, &[&a, &b]));
    }
    assert_eq!((times(&seen, &a, KEEPALIVE), times(&seen, &a, DATA).len()), (vec![], 60));
    // The last packets were sent a second ago. The first answers them, the others are the persistent ones.
    let seen = world.watch(Duration::from_secs(55), &[&a, &b]);
    assert_eq!(times(&seen, &a, KEEPALIVE), [9, 34].map(Duration::from_secs));
}

/// Theirs: only a tick ends a session; a machine that has slept for ten minutes sends on with it and takes from it.
#[test]
fn row_l_a_session_dies_of_age_without_any_timer() {
    for nap in [180, 600, 100_000].map(Duration::from_secs) {
        let world = World::new();
        let (a, b) = connected(&world);
        world.clock.advance(nap - ms(1));
        let before = nap == Duration::from_secs(180);
        let packet = before.then(|| a.send_to(&b, 100));
        a.step();
        // On its way for a millisecond: what was sealed in time comes too late.
        let initiated = |types: Vec<u8>| types == [DATA, INITIATION] || types == [INITIATION];
        world.clock.advance(ms(1));
        if packet.is_some() {
            assert!(initiated(world.sent_types()), "still used, and renewed");
            world.net.set_filter(|_| Action::Drop);
            b.step();
            assert_eq!((b.received().len(), b.stat("in_expired")), (0, 1));
            world.net.clear_filter();
            world.clock.advance(RETRY);
            let _ = world.sent();
        }
        let packet = a.send_to(&b, 150);
        world.settle(&[&a, &b]);
        assert_eq!(world.sent_types(), [INITIATION, RESPONSE, DATA]);
        assert_eq!(b.received(), [packet], "the first packet is not lost");
    }
}

/// Theirs: one packet is enough for a new session every 120 s, for as long as the tunnel idles.
#[test]
fn row_m_an_idle_tunnel_does_not_rekey() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(3600), &[&a, &b]);
    assert_eq!(times(&seen, &a, INITIATION), [Duration::ZERO]);
    assert_eq!(times(&seen, &b, INITIATION), []);
    assert_eq!(seen.len(), 4, "initiation, response, data, keepalive");
}

/// Theirs: 540 s after the last session everything is forgotten, with it a handshake that began just before and the
/// packet that waits for it.
///
/// The kernel wipes the keys of that handshake too, but the packet waits on and so does the timer that tries again.
#[test]
fn row_p_wiping_old_keys_does_not_end_a_young_handshake() {
    for late_response in [false, true] {
        let world = World::new();
        let (a, b) = connected(&world);
        world.pass(Duration::from_secs(538), &[&a, &b]);
        let _ = world.sent();
        world.net.set_filter(move |d| match d.payload[0] {
            2 if late_response => Action::Hold,
            1 if late_response => Action::Deliver,
            _ => Action::Drop,
        });
        let packet = a.send_to(&b, 100);
        let seen = world.watch(Duration::from_secs(3), &[&a, &b]);
        assert_eq!(times(&seen, &a, INITIATION), [Duration::ZERO]);
        assert!(a.events.lock().unwrap().contains(&Event::SessionExpired(b.public())));
        assert_eq!(a.device.indices(), 0);

        world.net.clear_filter();
        world.net.release();
        let seen = world.watch(RETRY, &[&a, &b]);
        let again = times(&seen, &a, INITIATION);
        assert!(again.len() == 1 && (2 * SECOND..=2 * SECOND + JITTER).contains(&again[0]), "{again:?}");
        assert_eq!(b.received(), [packet]);
        assert_eq!(a.stat("out_unstaged"), 0);
    }
}

/// Theirs: a cookie reply, which is not authenticated by a session, counts as a sign of life.
#[test]
fn row_q_a_cookie_reply_is_no_sign_of_life() {
    let world = World::new();
    let (a, b) = world.pair();
    let elsewhere: SocketAddr = "203.0.113.5:7".parse().unwrap();
    let home = a.peer(&b.public()).endpoint;
    cut(&world);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let initiation = world.sent().remove(0);
    let mut checker = CookieChecker::new(&b.public());
    let reply = checker.reply(&initiation.payload, initiation.from, world.now(), &SystemRandom);
    world.net.inject(elsewhere, initiation.from, &reply, 0);
    world.settle(&[&a]);
    assert_eq!(a.stat("cookie_refused"), 0, "it is a good one");
    let of_b = a.peer(&b.public());
    assert_eq!((of_b.endpoint, of_b.rx_bytes), (home.clone(), 0));
    assert_eq!(*a.events.lock().unwrap(), []);
    let retry = world.watch(RETRY + JITTER, &[&a]);
    assert_eq!(retry.len(), 1, "as if nothing had come");
    assert!(retry[0].0 >= RETRY);
    assert_ne!(retry[0].1.payload[132..], [0; 16], "with mac2");

    // On a session: unanswered data leads to a handshake in spite of it.
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let initiation = world.sent().remove(0);
    world.pass(Duration::from_secs(20), &[&a, &b]);
    cut(&world);
    a.send_to(&b, 100);
    world.watch(SECOND, &[&a, &b]);
    let rx = a.peer(&b.public()).rx_bytes;
    let reply = CookieChecker::new(&b.public()).reply(&initiation.payload, elsewhere, world.now(), &SystemRandom);
    world.net.inject(elsewhere, initiation.from, &reply, 0);
    let tries = times(&world.watch(15 * SECOND, &[&a, &b]), &a, INITIATION);
    assert_eq!(a.stat("cookie_refused"), 0);
    assert!(tries.len() == 1 && (14 * SECOND..=14 * SECOND + JITTER).contains(&tries[0]), "{tries:?}");
    assert_eq!((a.peer(&b.public()).endpoint, a.peer(&b.public()).rx_bytes), (home, rx));
}
