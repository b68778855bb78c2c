//! When a name is looked up, and what becomes of the answer.

use super::*;

#[test]
fn packets_wait_for_the_address_and_the_handshake_begins_with_it() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    assert_eq!(endpoint(&a, &b), None);
    let packets = [a.send_to(&b, 100), a.send_to(&b, 200)];
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), packets);
    assert_eq!((book.asked().len(), endpoint(&a, &b)), (1, Some(at("192.0.2.2"))));
    assert_eq!(events(&a)[0], Event::EndpointChanged(b.public(), at("192.0.2.2")));
    assert_eq!((a.stat("out_no_endpoint"), a.stat("out_unstaged")), (0, 0));
    // And back.
    let packet = b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!(a.received(), [packet]);
    world.pass(S(3600), &[&a, &b]);
    assert_eq!(book.asked(), []);
}

#[test]
fn who_has_nothing_to_send_sends_nothing_and_sleeps() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    world.settle(&[&a, &b]);
    assert_eq!((endpoint(&a, &b), world.sent_types(), a.device.next_deadline()), (Some(at("192.0.2.2")), vec![], None));
    // With a keepalive there is something to send.
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [1, 2, 0]);
}

#[test]
fn without_a_resolver_a_name_is_refused_whole() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let peer = PeerUpdate { endpoint: named(HOST), ..PeerUpdate::new(b.public()) };
    let update = Update { fwmark: Some(7), peers: vec![peer], ..Update::default() };
    assert_eq!(a.device.apply(update).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!((a.device.snapshot().interface.fwmark, a.device.snapshot().peers.flatten().count()), (0, 0));
    assert!(!a.device.resolves_names());
}

#[test]
fn a_failed_look_up_is_repeated_only_while_something_waits() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    world.pass(S(600), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [0]);
    assert!(matches!(events(&a).as_slice(), [Event::ResolveFailed(key, why)]
        if *key == b.public() && why == "b.example: no such name"));
    assert_eq!(a.device.next_deadline(), None);
    // A packet that waits is a reason, for as long as a handshake would be tried.
    a.send_to(&b, 100);
    world.pass(S(600), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [600, 602, 606, 614, 630, 662, 722]);
    assert_eq!((a.stat("out_unstaged"), a.device.next_deadline(), events(&a)), (1, None, vec![]));
    // A keepalive is one for ever.
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
    world.pass(S(300), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [1200, 1260, 1320, 1380, 1440, 1500]);
    book.set(HOST, &["192.0.2.2"]);
    world.pass(S(60), &[&a, &b]);
    assert_eq!((seconds(&book.asked()), world.sent_types()[..3].to_vec()), (vec![1560], vec![1, 2, 0]));
    world.pass(S(600), &[&a, &b]);
    assert_eq!(book.asked(), []);
}

#[test]
fn an_answer_for_a_name_that_was_replaced_is_dropped() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    let a = Arc::new(a);
    book.set(HOST, &["192.0.2.66"]);
    book.set("c.example", &["192.0.2.2"]);
    let (during, key) = (Arc::downgrade(&a), b.public());
    book.meanwhile(move || {
        let peer = PeerUpdate { endpoint: named("c.example"), ..PeerUpdate::new(key) };
        Weak::upgrade(&during).unwrap().apply(Update { peers: vec![peer], ..Update::default() });
    });
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(book.asked().len(), 2);
    assert_eq!((endpoint(&a, &b), b.received().len()), (Some(at("192.0.2.2")), 1));
    assert_eq!(events(&a)[0], Event::EndpointChanged(b.public(), at("192.0.2.2")), "and it never was elsewhere");

    // By an address, or with the whole peer.
    for remove in [false, true] {
        let (during, key) = (Arc::downgrade(&a), b.public());
        book.meanwhile(move || {
            let endpoint = Some(at("192.0.2.3").into());
            let peer = PeerUpdate { endpoint, remove, ..PeerUpdate::new(key) };
            Weak::upgrade(&during).unwrap().apply(Update { peers: vec![peer], ..Update::default() });
        });
        a.change_peer(&b, |peer| peer.endpoint = named(HOST));
        world.settle(&[&a, &b]);
        let left: Vec<_> = a.device.snapshot().peers.flatten().map(|peer| peer.endpoint).collect();
        assert_eq!(left, if remove { vec![] } else { vec![Some(at("192.0.2.3").into())] });
    }
}

#[test]
fn a_name_is_kept_until_another_endpoint_is_configured() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    // The same one again: it is looked up again, and the address is not lost meanwhile, whatever comes of that.
    book.remove(HOST);
    a.change_peer(&b, |peer| peer.endpoint = named(HOST));
    assert_eq!(endpoint(&a, &b), Some(at("192.0.2.2")));
    world.settle(&[&a, &b]);
    assert_eq!((book.asked().len(), endpoint(&a, &b)), (1, Some(at("192.0.2.2"))));
    // Another one: the address of the old one is not its.
    a.change_peer(&b, |peer| peer.endpoint = named("c.example"));
    assert_eq!(endpoint(&a, &b), None);
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), []);
    book.set("c.example", &["2001:db8::2"]);
    world.pass(S(1), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("2001:db8::2"))));
    book.asked();
    // An address, even if it is the same.
    a.change_peer(&b, |peer| peer.endpoint = Some(at("2001:db8::2").into()));
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(book.asked(), []);
}

#[test]
fn a_device_that_is_down_asks_nothing_and_asks_when_it_comes_up() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    let c = world.node(3);
    // What is waiting to be looked up is looked up no more.
    a.change_peer(&b, |peer| peer.endpoint = named(HOST));
    a.device.pause();
    a.add_peer(&c, |peer| peer.endpoint = named("c.example"));
    a.device.network_changed().unwrap();
    world.pass(S(600), &[&a, &b, &c]);
    assert_eq!((book.asked(), a.device.next_deadline()), (vec![], None));
    book.set(HOST, &["2001:db8::2"]);
    b.bind.set_address("2001:db8::2".parse().unwrap());
    world.sent();
    a.device.resume().unwrap();
    world.settle(&[&a, &b, &c]);
    assert_eq!(book.asked().iter().map(|(_, host)| host.as_str()).collect::<Vec<_>>(), [HOST, "c.example"]);
    assert_eq!(endpoint(&a, &b), Some(at("2001:db8::2")));
    assert_eq!(world.sent_types(), [1, 1, 2, 0], "with the old address, and then at once with the new one");
}

#[test]
fn peers_of_one_name_are_looked_up_together() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["192.0.2.2"]);
    let a = world.node_of(1, book.options(), |bind| bind);
    let key = |n| wg_embed::key::PublicKey::from_bytes([n; 32]);
    let peers = (1..9).map(|n| PeerUpdate { endpoint: named(HOST), ..PeerUpdate::new(key(n)) }).collect();
    a.apply(Update { peers, ..Update::default() });
    world.settle(&[&a]);
    assert_eq!(book.asked().len(), 1);
    assert!(a.device.snapshot().peers.flatten().all(|peer| peer.endpoint == Some(at("192.0.2.2").into())));
}
