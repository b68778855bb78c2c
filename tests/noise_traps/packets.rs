//! What happens to a packet: rows F to K, Y and Z.

use super::*;

/// Theirs: a responder's waiting packets cause an initiation, change their order and are not sent upon confirmation.
#[test]
fn row_f_a_responders_packets_wait_for_confirmation_and_keep_their_order() {
    let world = World::new();
    let (a, b) = world.pair();
    cut(&world);
    let mut waiting: Vec<_> = (0..3).map(|i| b.send_to(&a, 100 + i)).collect();
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [INITIATION]);

    // The confirmation is lost: only initiation and response arrive.
    world.net.set_filter(|d| if matches!(d.payload[0], 1 | 2) { Action::Deliver } else { Action::Drop });
    a.send_to(&b, 200);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [INITIATION, RESPONSE, DATA]);
    waiting.push(b.send_to(&a, 103));
    assert_eq!(world.watch(SECOND, &[&a, &b]), [], "neither a packet nor an initiation");

    world.net.clear_filter();
    a.send_to(&b, 201);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [DATA; 5]);
    assert_eq!(a.received(), waiting);
}

/// Theirs: an IPv4 packet that says it is 0, 7 or 19 bytes long is written, cut to that length.
#[test]
fn row_g_packets_with_an_impossible_length_are_dropped() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let mut counter = 0;
    let mut send = |packet: &[u8]| {
        counter += 1;
        raw.send(&world, &seal(&session, counter, packet));
        world.settle(&[&b]);
    };
    for len in [0, 7, 19, 1000] {
        let mut packet = ipv4(raw.inner, b.inner, 100);
        packet[2..4].copy_from_slice(&u16::to_be_bytes(len));
        send(&packet);
    }
    let mut v6 = vec![0; 48];
    (v6[0], v6[5]) = (0x60, 200);
    send(&v6);
    send(&[0x45; 10]);
    send(&[0x60; 39]);
    send(&[0x50; 64]);
    assert_eq!(b.stat("in_malformed_inner"), 8);
    assert_eq!(b.received(), Vec::<Vec<u8>>::new());
    let good = ipv4(raw.inner, b.inner, 100);
    send(&good);
    assert_eq!(b.received(), [good]);
}

/// Theirs: after eight unanswered responses data goes out on keys that nobody has confirmed.
#[test]
fn row_h_unconfirmed_keys_carry_no_data() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let to_raw = ipv4(b.inner, raw.inner, 112);

    // The first session of all, while a packet waits (its own initiation is lost).
    assert!(b.tun.inject(&to_raw));
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [INITIATION]);
    let live = raw.shake(&world, &b);
    world.settle(&[&b]);
    assert_eq!(raw.heard(&world), Vec::<Vec<u8>>::new(), "nothing before it is confirmed");
    raw.send(&world, &seal(&live, 0, &[]));
    world.settle(&[&b]);
    let heard: Vec<_> = raw.heard(&world).iter().map(|m| open(&live, m)).collect();
    assert_eq!(heard, [Some(to_raw.clone())]);

    // Real ones, replayed ones and damaged ones.
    let mut last = None;
    for n in 1..=20 {
        world.clock.advance(APART);
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        raw.send(&world, &initiation);
        let mut damaged = initiation.clone();
        damaged[100] ^= 1;
        MacStamper::default().stamp(&mut damaged, &raw.node, world.now());
        raw.send(&world, &damaged);
        world.settle(&[&b]);
        last = raw.heard(&world).into_iter().find(|m| kind(m) == RESPONSE);
        assert!(last.is_some());

        assert!(b.tun.inject(&to_raw));
        raw.send(&world, &seal(&live, n, &ipv4(raw.inner, b.inner, 100)));
        world.settle(&[&b]);
        let sent: Vec<_> = raw.heard(&world).iter().map(|m| open(&live, m)).collect();
        assert_eq!(sent, [Some(to_raw.clone())], "after {n} responses");
        assert_eq!(b.received().len(), 1);
    }
    assert_eq!(b.stat("handshake_refused"), 40);
    assert!(b.device.indices() <= 3, "{}", b.device.indices());

    let new = raw.take_response(&world, &last.unwrap());
    raw.send(&world, &seal(&new, 0, &[]));
    world.settle(&[&b]);
    assert!(b.tun.inject(&to_raw));
    world.settle(&[&b]);
    assert_eq!(raw.heard(&world).iter().map(|m| open(&new, m)).collect::<Vec<_>>(), [Some(to_raw)]);
}

/// Theirs: no padding, and counters of inner bytes only.
#[test]
fn row_i_packets_are_padded_and_datagrams_counted() {
    let world = World::new();
    let (a, b) = world.pair();
    let mut sent = Vec::new();
    for len in [20, 21, 32, 33, 1408, 1409, 1416, 1420] {
        a.send_to(&b, len);
        world.settle(&[&a, &b]);
        sent.append(&mut world.sent());
    }
    let data: Vec<usize> = sent.iter().filter(|d| d.payload[0] == DATA).map(|d| d.payload.len()).collect();
    assert_eq!(data, [32, 32, 32, 48, 1408, 1420, 1420, 1420].map(|padded| padded + 32));
    a.tun.set_mtu(1500);
    a.device.handle_tun_events();
    a.send_to(&b, 1409);
    world.settle(&[&a, &b]);
    let after = world.sent();
    assert_eq!(after[0].payload.len(), 1424 + 32, "bounded by the MTU of now");
    sent.extend(after);

    b.send_to(&a, 50);
    sent.extend(world.watch(Duration::from_secs(20), &[&a, &b]).into_iter().map(|(_, d)| d));
    assert!(sent.iter().any(|d| kind(&d.payload) == KEEPALIVE));
    let total = |node: &Node| -> u64 {
        sent.iter().filter(|d| d.from.ip() == node.address).map(|d| d.payload.len() as u64).sum()
    };
    let (of_a, of_b) = (a.peer(&b.public()), b.peer(&a.public()));
    assert_eq!((of_a.tx_bytes, of_a.rx_bytes), (total(&a), total(&b)));
    assert_eq!((of_b.tx_bytes, of_b.rx_bytes), (total(&b), total(&a)));
}

/// Theirs: no limit on messages, neither to ask for a new session nor to stop using this one.
#[test]
fn row_j_sessions_end_by_messages_too() {
    let world = World::new();
    let (a, b) = connected(&world);
    let wind = |counter| a.device.current_session(&b.public()).unwrap().set_counter(counter);

    wind(REKEY_AFTER_MESSAGES - 1);
    world.clock.advance(RETRY);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [DATA], "the last one before");
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [DATA, INITIATION, RESPONSE, KEEPALIVE]);

    wind(REJECT_AFTER_MESSAGES - 2);
    world.clock.advance(RETRY);
    let _ = b.received();
    let packets: Vec<_> = (0..3).map(|i| a.send_to(&b, 100 + i)).collect();
    world.settle(&[&a, &b]);
    let sent = world.sent();
    assert_eq!(sent.iter().map(|d| kind(&d.payload)).collect::<Vec<_>>(), [INITIATION, RESPONSE, DATA, DATA, DATA]);
    assert_eq!(sent[2].payload[8..16], [0; 8], "on the new session");
    assert_eq!(b.received(), packets);

    // The receiving side.
    let b = world.node(3);
    let mut raw = Raw::new(&b, 4);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let taken = |counter| {
        raw.send(&world, &seal(&session, counter, &ipv4(raw.inner, b.inner, 100)));
        world.settle(&[&b]);
        b.received().len() == 1
    };
    assert!(!taken(u64::MAX) && !taken(REJECT_AFTER_MESSAGES));
    assert!(taken(REJECT_AFTER_MESSAGES - 1));
    assert!(!taken(REJECT_AFTER_MESSAGES - 2), "it has reached its end");
}

/// Theirs: a window of 1024, and an overflow by a counter near the end of the numbers.
#[test]
fn row_k_the_replay_window_is_wide_and_does_not_overflow() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let taken = |counter| {
        raw.send(&world, &seal(&session, counter, &ipv4(raw.inner, b.inner, 100)));
        world.settle(&[&b]);
        b.received().len() == 1
    };
    assert_eq!(WINDOW, 8128);
    assert!(taken(20_000) && !taken(20_000));
    assert!(taken(20_000 - WINDOW) && !taken(20_000 - WINDOW - 1));
    for end in [u64::MAX, u64::MAX - 1, u64::MAX - 1023, REJECT_AFTER_MESSAGES] {
        assert!(!taken(end));
    }
    assert!(taken(20_000 - WINDOW + 1) && taken(20_001), "the window is where it was");
    assert_eq!(b.stat("in_replayed"), 6);
}

/// Theirs: one thread at a time for all data of a peer, from one buffer to another.
#[test]
fn row_y_a_session_is_used_by_many_threads_at_once_and_in_place() {
    fn shared<T: Send + Sync>() {}
    shared::<Session>();
    shared::<Device>();

    const THREADS: usize = 4;
    const EACH: usize = 500;
    let world = World::new();
    let node = world.node(2);
    let mut raw = Raw::new(&node, 1);
    raw.introduce(&node);
    let ours = raw.shake(&world, &node);
    // The node's half: confirmed, so that it is the current one.
    raw.send(&world, &seal(&ours, 0, &[]));
    world.settle(&[&node]);
    let theirs = node.device.current_session(raw.identity.public()).unwrap();

    let sealed: Vec<Vec<u8>> = thread::scope(|scope| {
        let seal = |thread: usize| {
            let session = &theirs;
            move || {
                let one = |i: usize| {
                    let mut message = vec![0; 16 + 64 + 16];
                    message[16..80].fill(thread as u8);
                    message[16..24].copy_from_slice(&(i as u64).to_le_bytes());
                    session.seal(session.take_counters(1).unwrap(), &mut message);
                    message
                };
                (0..EACH).map(one).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|t| scope.spawn(seal(t))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let accepted = Mutex::new(HashSet::new());
    let twice: Vec<_> = sealed.iter().chain(&sealed).cloned().collect();
    thread::scope(|scope| {
        for part in twice.chunks(EACH / 2) {
            let (ours, accepted) = (&ours, &accepted);
            scope.spawn(move || {
                for message in part {
                    let mut message = message.clone();
                    let counter = u64::from_le_bytes(message[8..16].try_into().unwrap());
                    assert_eq!(ours.open(counter, &mut message[16..]), Some(64));
                    ours.accept(
                        &mut [counter],
                        |c| *c,
                        |_| {
                            assert!(accepted.lock().unwrap().insert(message[16..80].to_vec()), "opened twice");
                        },
                    );
                }
            });
        }
    });
    assert_eq!(accepted.lock().unwrap().len(), THREADS * EACH);
}

/// Theirs: a panic for a small buffer and for a clock that steps back; a full queue drops what is newest; keepalives
/// wait in it.
#[test]
fn row_z_nothing_panics_and_the_newest_packets_are_kept() {
    // Any length, of any type.
    let world = World::new();
    let (a, b) = connected(&world);
    for kind in 0..6 {
        for len in 0..160 {
            let mut datagram = vec![0; len];
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            world.net.inject("203.0.113.1:1".parse().unwrap(), SocketAddr::new(b.address, PORT), &datagram, 0);
        }
        for len in 0..60 {
            a.tun.inject(&vec![0x45 | kind << 5; len]);
        }
        world.settle(&[&a, &b]);
    }
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);

    // A clock that steps back. The addition wraps round.
    let back = |by: Duration| world.clock.advance(Duration::from_nanos((by.as_nanos() as u64).wrapping_neg()));
    for by in [10, 500] {
        let before = world.now();
        back(Duration::from_secs(by));
        assert!(world.now() < before);
        for _ in 0..3 {
            a.send_to(&b, 100);
            b.send_to(&a, 100);
            world.settle(&[&a, &b]);
            a.device.run_timers();
            b.device.run_timers();
            world.clock.advance(SECOND);
        }
        assert_eq!((a.received().len(), b.received().len()), (3, 3));
    }

    // 140 packets for a peer that is away, and keepalives that fall due meanwhile.
    let world = World::new();
    let (a, b) = world.pair();
    cut(&world);
    a.change_peer(&b, |p| p.persistent_keepalive = Some(1));
    let packets: Vec<_> = (0..140).map(|i| a.send_to(&b, 100 + i)).collect();
    world.pass(Duration::from_secs(12), &[&a, &b]);
    assert_eq!(a.stat("out_stage_full"), 12, "the first keepalive is one of them");
    world.net.clear_filter();
    let _ = world.sent();
    let seen = world.watch(RETRY + JITTER, &[&a, &b]);
    assert_eq!(b.received(), packets[11..], "the newest 129, oldest first");
    let first = times(&seen, &a, DATA)[0];
    assert!(times(&seen, &a, KEEPALIVE).iter().all(|at| *at > first), "no keepalive among them");
}
