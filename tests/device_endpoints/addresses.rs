//! Which address of a name is used: when one does not answer, when the network changes, when the peer roams.

use super::*;

#[test]
fn an_address_that_does_not_answer_gives_way_to_the_next_one() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["2001:db8::66", "2001:db8::67", "192.0.2.66"]);
    let (a, b) = pair(&world, &book);
    a.send_to(&b, 100);
    let seen = world.watch(S(120), &[&a, &b]);
    let (times, sent): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    let (x, y, z) = ("2001:db8::66", "192.0.2.66", "2001:db8::67");
    let round = [x, x, y, y, z, z];
    assert_eq!(targets(&sent, 1), ips(&[&round[..], &round, &round, &[x, x]].concat()), "20 tries, families in turn");
    assert!((S(10)..S(10) + 2 * JITTER).contains(&times[2]), "{times:?}");
    // When the handshake is given up, the name is looked up again.
    let asked = book.asked();
    assert_eq!((asked.len(), asked[0].0), (2, S(0)));
    assert!((S(100)..S(107)).contains(&asked[1].0), "{asked:?}");
    assert!(events(&a).contains(&Event::HandshakeFailed(b.public())));
    assert_eq!(endpoint(&a, &b), Some(at(x)));

    // One that answers stays.
    book.set(HOST, &["2001:db8::66", "192.0.2.2", "2001:db8::67"]);
    a.device.network_changed().unwrap();
    let packet = a.send_to(&b, 100);
    world.pass(S(20), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("192.0.2.2"))));
    world.sent();
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
    let seen: Vec<_> = world.watch(S(600), &[&a, &b]).into_iter().map(|(_, d)| d).collect();
    assert!(targets(&seen, 1).iter().chain(&targets(&seen, 0)).all(|ip| *ip != at(x).ip()));
    assert!(targets(&seen, 1).len() >= 4, "sessions were renewed");
}

/// With traffic or a persistent keepalive, the attempts start over each time, and the handshake is never given up.
#[test]
fn a_name_that_does_not_answer_is_looked_up_again_whatever_is_sent() {
    for (interval, keepalive) in [(S(1), None), (S(40), Some(25))] {
        let world = World::new();
        let book = Book::new(&world);
        book.set(HOST, &["192.0.2.66"]);
        let (a, b) = pair(&world, &book);
        a.change_peer(&b, |peer| peer.persistent_keepalive = keepalive);
        let begin = world.now();
        let mut failed = 0;
        while failed < 3 {
            a.send_to(&b, 100);
            world.pass(interval, &[&a, &b]);
            failed += events(&a).iter().filter(|event| **event == Event::HandshakeFailed(b.public())).count();
            assert!(world.now().since(begin) < S(400), "{failed} times");
        }
        // 20 initiations at least 5 s apart each time.
        assert!(world.now().since(begin) >= S(300));
        assert!((4..=5).contains(&book.asked().len()));
        book.set(HOST, &["192.0.2.2"]);
        while b.received().is_empty() {
            a.send_to(&b, 100);
            world.pass(interval, &[&a, &b]);
            assert!(world.now().since(begin) < S(600));
        }
    }
}

#[test]
fn a_failure_is_reported_once_if_traffic_ends_during_the_attempts() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["192.0.2.66"]);
    let (a, b) = pair(&world, &book);
    for _ in 0..10 {
        a.send_to(&b, 100);
        world.pass(S(1), &[&a, &b]);
    }
    world.pass(S(300), &[&a, &b]);
    assert_eq!(events(&a).iter().filter(|event| **event == Event::HandshakeFailed(b.public())).count(), 1);
}

#[test]
fn the_next_address_is_tried_after_two_attempts_whatever_is_sent() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["2001:db8::66", "192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    let begin = world.now();
    while b.received().is_empty() {
        a.send_to(&b, 100);
        world.pass(Duration::from_millis(20), &[&a, &b]);
        assert!(world.now().since(begin) < S(12));
    }
}

#[test]
fn a_family_that_cannot_be_sent_to_is_skipped_at_once() {
    for (blocked, ip) in [(Family::V6, "192.0.2.2"), (Family::V4, "2001:db8::2")] {
        let world = World::new();
        let book = Book::new(&world);
        book.set(
            HOST,
            if blocked == Family::V6 { &["2001:db8::2", "192.0.2.2"] } else { &["192.0.2.2", "2001:db8::2"] },
        );
        let (a, b) = pair(&world, &book);
        a.bind.set_blocked(&[blocked]);
        let packet = a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at(ip))));
        assert_eq!(
            events(&a).iter().filter(|e| matches!(e, Event::EndpointChanged(..))).count(),
            2,
            "named, and skipped"
        );
        assert_eq!(a.stat("out_send_failed"), 0);

        // Later too, and a session goes on elsewhere.
        world.sent();
        a.bind.set_blocked(&[if blocked == Family::V6 { Family::V4 } else { Family::V6 }]);
        let packets = [a.send_to(&b, 100), a.send_to(&b, 100)];
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), world.sent_types()), (packets.to_vec(), vec![4, 4]));
        assert_ne!(endpoint(&a, &b), Some(at(ip)));
    }
}

#[test]
fn without_any_route_nothing_is_lost_but_time() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["2001:db8::2", "192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    a.bind.set_send_blocked(true);
    let packet = a.send_to(&b, 100);
    world.pass(S(12), &[&a, &b]);
    assert_eq!((world.sent_types(), b.received().len()), (vec![], 0));
    a.bind.set_send_blocked(false);
    world.pass(S(6), &[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

#[test]
fn a_changed_network_keeps_the_session_if_the_address_stays() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    book.set(HOST, &["192.0.2.66", "192.0.2.2"]);
    let opens = a.bind.opens();
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!((a.bind.opens(), book.asked().len()), (opens + 1, 1));
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("192.0.2.2"))), "a keepalive on the session");
    assert_eq!(events(&a), []);
    // Nor does it matter that the name cannot be resolved now.
    book.remove(HOST);
    a.device.network_changed().unwrap();
    world.pass(S(5), &[&a, &b]);
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("192.0.2.2"))));
    assert_eq!((book.asked().len(), a.device.next_deadline().is_some()), (1, true), "only keys to be wiped");
    // But when nothing can be sent there, it is looked up again.
    a.bind.set_blocked(&[Family::V4]);
    book.set(HOST, &["2001:db8::2"]);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(book.asked().iter().map(|(_, host)| host.as_str()).collect::<Vec<_>>(), ["ipv4only.arpa", HOST]);
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![1, 2, 0], Some(at("2001:db8::2"))));
}

#[test]
fn a_changed_network_makes_a_session_with_another_address() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    b.bind.add_address("198.51.100.2".parse().unwrap());
    book.set(HOST, &["198.51.100.2"]);
    world.pass(S(1), &[&a, &b]);
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    // The handshake may follow the last one at once, as it goes elsewhere.
    assert_eq!(world.sent_types(), [0, 1, 2, 0]);
    assert_eq!(endpoint(&a, &b), Some(at("198.51.100.2")));
    assert_eq!(
        events(&a),
        [Event::EndpointChanged(b.public(), at("198.51.100.2")), Event::HandshakeCompleted(b.public())]
    );
}

#[test]
fn a_changed_network_ends_the_waiting() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    a.send_to(&b, 100);
    world.pass(S(40), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [0, 1, 3, 7, 15, 31]);
    a.device.network_changed().unwrap();
    world.pass(S(4), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [40, 41, 43], "at once, and then again as at first");
    book.set(HOST, &["192.0.2.2"]);
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
}

#[test]
fn a_peer_may_roam_away_from_its_name() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    b.bind.set_address("198.51.100.9".parse().unwrap());
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!(endpoint(&a, &b), Some(at("198.51.100.9")));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
    // If it is not there any more, it may be where its name says.
    b.bind.set_address("192.0.2.2".parse().unwrap());
    world.pass(S(200), &[&b]);
    world.sent();
    let packet = a.send_to(&b, 100);
    world.pass(S(12), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("192.0.2.2"))));

    // Without roaming the peer stays where the name says, and follows only that.
    a.device.disable_roaming();
    b.bind.set_address("198.51.100.9".parse().unwrap());
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!((a.received().len(), endpoint(&a, &b)), (2, Some(at("192.0.2.2"))));
    book.set(HOST, &["198.51.100.9"]);
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(endpoint(&a, &b), Some(at("198.51.100.9")));
    book.set("c.example", &["198.51.100.8"]);
    for (name, expected) in [(HOST, "198.51.100.9"), ("c.example", "198.51.100.8")] {
        a.change_peer(&b, |peer| peer.endpoint = named(name));
        world.settle(&[&a]);
        b.bind.set_address("192.0.2.2".parse().unwrap());
        b.send_to(&a, 100);
        world.settle(&[&a, &b]);
        assert_eq!((a.received().len(), endpoint(&a, &b)), (1, Some(at(expected))));
    }
}
