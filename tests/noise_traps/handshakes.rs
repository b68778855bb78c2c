//! Handshakes, keys and configuration: rows N, O, R to X, AA and AB.

use super::*;
use wg_embed::config::AllowedIpUpdate as Allowed;

/// Initiations and responses leave with the kernel's TOS for handshakes, cookie replies and keepalives with none, and
/// data with the ECN field of its packet.
#[test]
fn each_kind_of_message_has_the_kernels_tos() {
    let world = World::new();
    let (a, b) = world.pair();
    let mut packet = common::ipv4(a.inner, b.inner, 100);
    common::set_tos(&mut packet, 0xb8 | 2);
    assert!(a.tun.inject(&packet));
    world.settle(&[&a, &b]);
    world.pass(12 * SECOND, &[&a, &b]);
    let mut seen: Vec<_> = world.sent().iter().map(|d| (kind(&d.payload), d.tos)).collect();
    flood(&world, &b, 600);
    world.settle(&[&b]);
    seen.extend(world.sent().iter().map(|d| (kind(&d.payload), d.tos)));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [(0, 0), (INITIATION, 0x88), (RESPONSE, 0x88), (COOKIE_REPLY, 0), (DATA, 2)]);
}

/// Theirs: no limit for a peer, one counter for all, and none with a cookie.
#[test]
fn row_n_a_flood_costs_its_sender_and_nobody_else() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);

    // One peer: 20 ms.
    for _ in 0..100 {
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        world.settle(&[&b]);
        world.clock.advance(ms(1));
    }
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE; 5]);
    assert_eq!(b.stat("handshake_refused"), 95);

    // Strangers from many addresses: soon each must show that it receives at its address. The honest peer does.
    world.clock.advance(SECOND);
    flood(&world, &b, 600);
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    let heard = raw.heard(&world);
    assert_eq!(kinds(&heard), [COOKIE_REPLY]);
    assert!(b.stat("handshake_refused") < 95 + 128, "what was computed for strangers");
    assert!(b.stat("handshake_cookie_sent") > 400);
    raw.take_cookie(&world, &heard[0]);
    flood(&world, &b, 600);
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE]);

    // Somebody with a cookie: five at once and twenty a second.
    let mut greedy = Raw::new(&b, 9);
    let initiation = greedy.initiation(&world);
    greedy.send(&world, &initiation);
    world.settle(&[&b]);
    let heard = greedy.heard(&world);
    assert_eq!(kinds(&heard), [COOKIE_REPLY]);
    greedy.take_cookie(&world, &heard[0]);
    let computed = b.stat("handshake_refused");
    for _ in 0..40 {
        let initiation = greedy.initiation(&world);
        greedy.send(&world, &initiation);
    }
    world.settle(&[&b]);
    assert_eq!(b.stat("handshake_refused") - computed, 5, "of somebody unknown");
    for _ in 0..90 {
        world.clock.advance(ms(10));
        let initiation = greedy.initiation(&world);
        greedy.send(&world, &initiation);
        world.settle(&[&b]);
    }
    assert_eq!(b.stat("handshake_refused") - computed, 5 + 18);
    assert_eq!(b.stat("handshake_rate_limited"), 35 + 72);
    // Another address is not concerned by that.
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE]);

    // What waits is bounded.
    flood(&world, &b, 4000);
    world.settle(&[&b]);
    assert!(b.stat("handshake_queue_full") > 0);
}

/// Theirs: a cookie is for an address without its port, and its secret lives longer than 120 s.
#[test]
fn row_o_a_cookie_is_for_address_and_port_and_two_minutes() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    load(&world, &b);
    // Under load since now, so the secret is as old.
    let born = world.now();
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    let heard = raw.heard(&world);
    assert_eq!(kinds(&heard), [COOKIE_REPLY]);
    raw.take_cookie(&world, &heard[0]);

    let home = raw.at;
    let neighbour = SocketAddr::new(home.ip(), home.port() + 1);
    let mut answer = |from: SocketAddr, after: Duration| {
        world.clock.advance_to(born + after);
        load(&world, &b);
        let mut initiation = raw.initiation(&world);
        // As a sender does that does not stop using its cookie in time.
        raw.stamper.stamp(&mut initiation, &raw.node, born);
        assert_ne!(initiation[132..], [0; 16]);
        world.net.inject(from, raw.node_at, &initiation, 0);
        world.settle(&[&b]);
        world.sent().iter().find(|d| d.to == from).map(|d| kind(&d.payload))
    };
    assert_eq!(answer(neighbour, SECOND), Some(COOKIE_REPLY));
    assert_eq!(answer(SocketAddr::new("192.0.2.77".parse().unwrap(), PORT), SECOND), Some(COOKIE_REPLY));
    assert_eq!(answer(home, SECOND), Some(RESPONSE));
    assert_eq!(answer(home, ms(119_999)), Some(RESPONSE));
    assert_eq!(answer(home, ms(120_000)), Some(COOKIE_REPLY));
}

/// Theirs: indices count up behind a fixed prefix.
#[test]
fn row_r_indices_are_random() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let mut indices = Vec::new();
    for _ in 0..150 {
        world.clock.advance(APART);
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        world.settle(&[&b]);
        indices.extend(raw.heard(&world).iter().map(|m| sender_index(m)));
    }
    assert_eq!(indices.len(), 150);
    let (c, d) = (world.node(3), world.node(4));
    cut(&world);
    for (from, to) in [(&c, &d), (&d, &c)] {
        from.add_peer(to, |_| {});
        from.send_to(to, 100);
    }
    let seen = world.watch(Duration::from_secs(90), &[&c, &d]);
    indices.extend(seen.iter().map(|(_, m)| sender_index(&m.payload)));
    assert!(indices.len() > 180);

    for byte in 0..4 {
        // Of 180 random bytes about 129 differ.
        let distinct = indices.iter().map(|i| i.to_be_bytes()[byte]).collect::<HashSet<_>>().len();
        assert!(distinct > 90, "byte {byte} has {distinct} values");
    }
    let near = indices.windows(2).filter(|w| w[0].abs_diff(w[1]) < 1 << 16).count();
    assert!(near <= 2, "{near} neighbours");
}

/// An initiation to `node` by another implementation, made with these keys; and what takes the response.
fn foreign_initiation(
    world: &World,
    node: &Node,
    private: &[u8; 32],
    ephemeral: &[u8; 32],
    sent: (u64, u32),
) -> (Vec<u8>, snow::HandshakeState) {
    let remote = node.public();
    let builder = noise().local_private_key(private).unwrap().remote_public_key(remote.as_bytes()).unwrap();
    let mut state = builder.fixed_ephemeral_key_for_testing_only(ephemeral).build_initiator().unwrap();
    let mut payload = sent.0.to_be_bytes().to_vec();
    payload.extend(sent.1.to_be_bytes());
    let mut message = vec![0; INITIATION_LEN];
    message[0] = INITIATION;
    assert_eq!(state.write_message(&payload, &mut message[8..]).unwrap(), 108);
    MacStamper::default().stamp(&mut message, &node.public(), world.now());
    (message, state)
}

/// Theirs: a key of low order is used, so that the secret is known to everybody.
#[test]
fn row_s_keys_of_low_order_are_refused_in_every_place() {
    let world = World::new();
    let b = world.node(2);
    let zero = PublicKey::from_bytes([0; 32]);
    let good = [7; 32];
    let stranger = Raw::with_key(&b, 1, PrivateKey::from_bytes(good));
    stranger.introduce(&b);
    let mut low = PeerUpdate::new(zero);
    low.endpoint = Some("192.0.2.66:1".parse::<SocketAddr>().unwrap().into());
    low.allowed_ips = vec![Allowed::add(IpAddr::from([10, 0, 0, 66]).into())];
    b.apply(Update { peers: vec![low], ..Update::default() });

    let secs = KERNEL_EPOCH + world.clock.wall().as_secs();
    let answers = |private, ephemeral, n| {
        let (message, _) = foreign_initiation(&world, &b, private, ephemeral, (secs + n, 0));
        world.clock.advance(APART);
        stranger.send(&world, &message);
        world.settle(&[&b]);
        kinds(&stranger.heard(&world))
    };
    assert_eq!(answers(&good, &LOW_ORDER, 1), [], "es, by the ephemeral");
    assert_eq!(answers(&LOW_ORDER, &good, 2), [], "ss, by the static");
    assert_eq!(b.stat("handshake_refused"), 2);
    assert_eq!(answers(&good, &good, 3), [RESPONSE], "what is refused is the low order");

    // Towards such a peer: no initiation can be made.
    assert!(b.tun.inject(&ipv4(b.inner, IpAddr::from([10, 0, 0, 66]), 100)));
    assert_eq!(world.watch(Duration::from_secs(10), &[&b]), []);

    // In a response.
    let world = World::new();
    let a = world.node(1);
    let responder = Raw::with_key(&a, 2, PrivateKey::from_bytes(good));
    responder.introduce(&a);
    for (ephemeral, expected) in [(&LOW_ORDER, vec![]), (&good, vec![DATA])] {
        world.clock.advance(Duration::from_secs(20));
        assert!(a.tun.inject(&ipv4(a.inner, responder.inner, 100)));
        world.settle(&[&a]);
        let initiation = responder.heard(&world).pop().unwrap();
        let builder = noise().local_private_key(&good).unwrap();
        let mut state = builder.fixed_ephemeral_key_for_testing_only(ephemeral).build_responder().unwrap();
        state.read_message(&initiation[8..116], &mut [0; 12]).unwrap();
        let mut response = [&[RESPONSE, 0, 0, 0, 1, 2, 3, 4], &initiation[4..8], &[0; 80]].concat();
        assert_eq!(state.write_message(&[], &mut response[12..]).unwrap(), 48);
        MacStamper::default().stamp(&mut response, &a.public(), world.now());
        let refused = a.stat("handshake_refused");
        responder.send(&world, &response);
        world.settle(&[&a]);
        assert_eq!(a.stat("handshake_refused") - refused, u64::from(*ephemeral == LOW_ORDER));
        // Two packets wait by then.
        let mut sent = kinds(&responder.heard(&world));
        sent.dedup();
        assert_eq!(sent, expected);
    }
}

/// Theirs: time stamps 27 s ahead of everybody else's, exact to the nanosecond.
#[test]
fn row_t_time_stamps_are_the_kernels() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let key = *a.private.as_bytes();
    a.add_peer(&b, |_| {});
    b.add_peer(&a, |_| {});
    let mut last = (0, 0);
    let mut stamp = |world: &World| {
        world.clock.advance(RETRY);
        a.send_to(&b, 100);
        a.step();
        let sent = world.sent();
        let initiation = sent.iter().find(|d| d.payload[0] == INITIATION).expect("an initiation");
        let stamp = timestamp(&initiation.payload, b.private.as_bytes());
        assert!(stamp > last, "always later");
        last = stamp;
        stamp
    };
    cut(&world);
    world.clock.advance(Duration::from_nanos(123_456_789));
    let (secs, nanos) = stamp(&world);
    let wall = world.clock.wall();
    assert_eq!(secs, KERNEL_EPOCH + wall.as_secs());
    assert_eq!((nanos % (1 << 24), wall.subsec_nanos() - nanos < 1 << 24), (0, true), "only the coarse time");
    // A wall clock that is set back, even to before 1970.
    for wall in [wall - Duration::from_secs(86_400), Duration::ZERO] {
        world.clock.set_wall(wall);
        stamp(&world);
    }
    world.clock.set_wall(wall + Duration::from_secs(3600));
    assert_eq!(stamp(&world).0, KERNEL_EPOCH + wall.as_secs() + 3605);

    // The machine changes from another implementation to ours and back, with its key.
    let world = World::new();
    let b = world.node(2);
    b.add_peer(&a, |_| {});
    let foreign = |n: u8| {
        let wall = world.clock.wall();
        let sent = (KERNEL_EPOCH + wall.as_secs(), wall.subsec_nanos() >> 24 << 24);
        let (message, _) = foreign_initiation(&world, &b, &key, &[n; 32], sent);
        world.net.inject(SocketAddr::new(a.address, PORT), SocketAddr::new(b.address, PORT), &message, 0);
        world.settle(&[&b]);
        world.sent_types()
    };
    assert_eq!(foreign(1), [RESPONSE]);
    world.clock.advance(APART);
    let mut ours = Raw::with_key(&b, 1, PrivateKey::from_bytes(key));
    ours.shake(&world, &b);
    world.clock.advance(APART);
    assert_eq!(foreign(2), [RESPONSE]);
}

/// Theirs: a peer must be made anew for another preshared key or keepalive, and so forgets its session and the newest
/// time stamp.
#[test]
fn row_u_edits_keep_the_session_and_the_newest_time_stamp() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let initiation = world.sent().remove(0);
    world.clock.advance(SECOND);

    let psk = PresharedKey::generate_with(&SystemRandom);
    let refused = b.stat("handshake_refused");
    for (from, to) in [(&a, &b), (&b, &a)] {
        from.change_peer(to, |p| p.preshared_key = Some(Box::new(psk.clone())));
        a.send_to(&b, 100);
        b.send_to(&a, 100);
        world.settle(&[&a, &b]);
        assert_eq!(world.sent_types(), [DATA, DATA], "on the session that is there");
        // The new preshared key has no part in an initiation.
        world.net.inject(initiation.from, initiation.to, &initiation.payload, 0);
        world.settle(&[&a, &b]);
        assert_eq!(world.sent_types(), []);
    }
    assert_eq!(b.stat("handshake_refused") - refused, 2);
    a.change_peer(&b, |p| p.persistent_keepalive = Some(25));
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [KEEPALIVE]);

    // The next handshake has it.
    world.clock.advance(Duration::from_secs(180));
    let _ = b.received();
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
    b.change_peer(&a, |p| p.preshared_key = Some(Box::new(PresharedKey::default())));
    world.clock.advance(Duration::from_secs(180));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), Vec::<Vec<u8>>::new(), "one side alone has it");
}

/// Theirs: a new private key leaves the handshake under way in place, which goes on with both keys mixed.
#[test]
fn row_v_a_new_private_key_ends_the_handshake_under_way() {
    let world = World::new();
    let (a, b) = world.pair();
    let waiting = a.send_to(&b, 100);
    a.step();
    b.step();
    let response = world.sent().pop().unwrap();
    assert_eq!(kind(&response.payload), RESPONSE);

    let key = PrivateKey::generate_with(&SystemRandom);
    let public = key.public_key();
    a.apply(Update { private_key: Some(Some(key)), ..Update::default() });
    world.settle(&[&a]);
    assert_eq!((world.sent_types(), a.stat("handshake_bad_mac")), (vec![], 1), "the response is to the old key");
    // Even if it is made to look like one to the new key.
    let mut again = response.payload.clone();
    MacStamper::default().stamp(&mut again, &public, world.now());
    world.net.inject(response.from, response.to, &again, 0);
    world.settle(&[&a]);
    assert_eq!((world.sent_types(), a.stat("handshake_refused")), (vec![], 1));

    // The next packet begins anew at once, under the new key alone.
    cut(&world);
    let packet = a.send_to(&b, 101);
    let seen = world.watch(Duration::from_secs(6), &[&a]);
    assert_eq!(times(&seen, &a, INITIATION)[0], Duration::ZERO);
    let identity = Identity::new(b.private.clone());
    let mut expected = Handshake::new(public);
    for (at, initiation) in seen {
        let message: [u8; INITIATION_LEN] = initiation.payload.try_into().unwrap();
        let opened = OpenedInitiation::open(&message, &identity).unwrap();
        assert_eq!(opened.remote, public);
        let now = world.now() + at;
        assert!(expected.consume_initiation(opened, &message, &identity, now), "static-static is the new key's");
    }
    world.net.clear_filter();
    let mut renamed = PeerUpdate::new(public);
    renamed.allowed_ips = vec![Allowed::add(a.inner.into())];
    b.apply(Update { replace_peers: true, peers: vec![renamed], ..Update::default() });
    world.pass(RETRY, &[&a, &b]);
    assert_eq!(b.received(), [waiting, packet]);
}

/// Theirs: keys stay in memory that is given back. What is left there is looked at in `wiped.rs`; here, that no key
/// type loses its promise.
#[test]
fn row_w_keys_are_wiped_when_they_are_dropped() {
    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<PrivateKey>();
    wiped::<PresharedKey>();
}

/// Theirs: the same multiplication and the same MAC twice for each initiation, because what finds out the sender hands
/// nothing on.
#[test]
fn row_x_an_initiation_is_computed_once() {
    let (a, b) = (PrivateKey::generate_with(&SystemRandom), PrivateKey::generate_with(&SystemRandom));
    let (a, b) = (Identity::new(a), Identity::new(b));
    let wall = Duration::from_secs(1_700_000_000);
    let mut message = Handshake::new(*b.public()).create_initiation(&a, 1, wall, &SystemRandom).unwrap();
    let opened = OpenedInitiation::open(&message, &b).unwrap();
    // Ephemeral and static are gone from the message: the second step has them from the first, with all that was
    // computed from them.
    message[..88].fill(0);
    let mut handshake = Handshake::new(*a.public());
    assert!(handshake.consume_initiation(opened, &message, &b, Instant::default()));
    assert!(handshake.create_response(2, &SystemRandom).is_some());

    // A wrong mac1 ends it before any multiplication: not even the time stamp is noted.
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let good = raw.initiation(&world);
    let mut bad = good.clone();
    bad[116] ^= 1;
    raw.send(&world, &bad);
    world.settle(&[&b]);
    assert_eq!((b.stat("handshake_bad_mac"), b.stat("handshake_refused")), (1, 0));
    raw.send(&world, &good);
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE]);
}

/// Theirs: only a tick ends the state of being under load.
#[test]
fn row_aa_load_ends_by_itself() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let mut answer = |wait: Duration| {
        world.clock.advance(wait);
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        world.settle(&[&b]);
        kinds(&raw.heard(&world))
    };
    load(&world, &b);
    assert_eq!(answer(Duration::ZERO), [COOKIE_REPLY]);
    assert_eq!(answer(ms(999)), [COOKIE_REPLY]);
    assert_eq!(answer(ms(1)), [RESPONSE], "without any timer");
}

/// Theirs: changing a peer that is there panics.
#[test]
fn row_ab_a_live_peer_can_be_changed() {
    let world = World::new();
    let (a, b) = connected(&world);
    let others: IpAddr = "10.9.0.1".parse().unwrap();
    let prefix = |prefix: &str, remove| {
        let prefix = prefix.parse().unwrap();
        if remove { Allowed::remove(prefix) } else { Allowed::add(prefix) }
    };
    type Change<'a> = Box<dyn Fn(&mut PeerUpdate) + 'a>;
    let changes: Vec<Change<'_>> = vec![
        Box::new(|_| {}),
        Box::new(|p| p.update_only = true),
        Box::new(|p| p.preshared_key = Some(Box::new(PresharedKey::generate_with(&SystemRandom)))),
        Box::new(|p| p.endpoint = Some(SocketAddr::new(b.address, PORT).into())),
        Box::new(move |p| p.allowed_ips = vec![prefix("10.9.0.0/16", false)]),
        Box::new(move |p| {
            p.replace_allowed_ips = true;
            p.allowed_ips = vec![prefix("10.0.0.0/24", false), prefix("10.9.0.0/16", false)];
        }),
        Box::new(move |p| p.allowed_ips = vec![prefix("10.9.0.0/16", true)]),
        Box::new(|p| p.persistent_keepalive = Some(65_535)),
        Box::new(|p| p.persistent_keepalive = Some(0)),
    ];
    for (i, change) in changes.iter().enumerate() {
        for node in [&a, &b] {
            let other = if std::ptr::eq(node, &a) { &b } else { &a };
            if i != 3 {
                node.change_peer(other, change);
            }
        }
        if i == 3 {
            a.change_peer(&b, change);
        }
        let (there, back) = (a.send_to(&b, 100 + i), b.send_to(&a, 100 + i));
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), a.received()), (vec![there], vec![back]), "change {i}");
        let sent = world.sent_types();
        assert!(sent.iter().all(|t| matches!(*t, DATA | KEEPALIVE)), "change {i}: {sent:?}");
    }
    assert!(a.peer(&b.public()).allowed_ips.iter().all(|p| !p.contains(&others)));

    // A peer that moves is followed, until it is said where it is.
    let home = SocketAddr::new(a.address, PORT);
    let moved: IpAddr = "198.51.100.7".parse().unwrap();
    a.bind.set_address(moved);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.peer(&a.public()).endpoint, Some(SocketAddr::new(moved, PORT).into()));
    assert_eq!(
        *b.events.lock().unwrap().last().unwrap(),
        Event::EndpointChanged(a.public(), SocketAddr::new(moved, PORT))
    );
    b.change_peer(&a, |p| p.endpoint = Some(home.into()));
    let _ = world.sent();
    b.send_to(&a, 100);
    world.settle(&[&b]);
    assert_eq!(world.sent().iter().map(|d| (d.to, kind(&d.payload))).collect::<Vec<_>>(), [(home, DATA)]);
}
