//! IPv4 addresses in a network that has only IPv6.

use super::*;

/// What DNS64 answers in a network with this prefix.
fn with_nat64(book: &Book, prefix: &str) {
    book.set(
        "ipv4only.arpa",
        &["192.0.0.170", "192.0.0.171", &format!("{prefix}c000:aa"), &format!("{prefix}c000:ab")],
    );
}

/// 192.0.2.2 as an IPv6 address of the usual prefix.
const B64: &str = "64:ff9b::c000:202";

#[test]
fn an_ipv4_address_is_reached_through_nat64() {
    for endpoint_of_b in [Some(at("192.0.2.2").into()), named(HOST)] {
        let world = World::new();
        let book = Book::new(&world);
        with_nat64(&book, "64:ff9b::");
        book.set(HOST, &["192.0.2.2"]);
        let (a, b) = pair(&world, &book);
        b.bind.add_address(B64.parse().unwrap());
        a.change_peer(&b, |peer| peer.endpoint = endpoint_of_b.clone());
        a.bind.set_blocked(&[Family::V4]);
        let packets = [a.send_to(&b, 100), a.send_to(&b, 100)];
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), endpoint(&a, &b)), (packets.to_vec(), Some(at(B64))));
        assert!(events(&a).contains(&Event::EndpointChanged(b.public(), at(B64))));
        assert_eq!(book.asked().last().unwrap(), &(S(0), "ipv4only.arpa".to_owned()));
        // Renewing the session needs no discovery.
        a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
        world.pass(S(300), &[&a, &b]);
        assert_eq!((book.asked(), endpoint(&a, &b)), (vec![], Some(at(B64))));

        // The next networks have IPv4.
        for blocked in [&[][..], &[Family::V6]] {
            a.bind.set_blocked(blocked);
            world.sent();
            a.device.network_changed().unwrap();
            assert_eq!(endpoint(&a, &b), Some(at("192.0.2.2")));
            world.settle(&[&a, &b]);
            assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("192.0.2.2"))));
        }

        // And the next one has another prefix; the session goes on through that.
        a.bind.set_blocked(&[Family::V4]);
        with_nat64(&book, "2001:db8:64::");
        b.bind.add_address("2001:db8:64::c000:202".parse().unwrap());
        book.asked();
        a.device.network_changed().unwrap();
        world.settle(&[&a, &b]);
        assert!(book.asked().iter().any(|(_, host)| host == "ipv4only.arpa"));
        assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("2001:db8:64::c000:202"))));
    }
}

#[test]
fn a_network_without_a_translator_is_asked_now_and_then() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    book.set("ipv4only.arpa", &["192.0.0.170", "192.0.0.171"]);
    a.change_peer(&b, |peer| peer.endpoint = Some(at("192.0.2.2").into()));
    a.bind.set_blocked(&[Family::V4]);
    a.send_to(&b, 100);
    world.pass(S(600), &[&a, &b]);
    let asked = seconds(&book.asked());
    assert!((3..8).contains(&asked.len()) && asked.last() < Some(&110), "with tries to send only: {asked:?}");
    assert_eq!(endpoint(&a, &b), Some(at("192.0.2.2")));
    // A prefix that comes late is used by who waits for it.
    with_nat64(&book, "64:ff9b::");
    b.bind.add_address(B64.parse().unwrap());
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at(B64))));
}

#[test]
fn a_translator_is_one_way_of_several() {
    // The name has an IPv6 address, which does not answer; what answers is its IPv4 address, behind NAT64.
    let world = World::new();
    let book = Book::new(&world);
    with_nat64(&book, "64:ff9b::");
    book.set(HOST, &["2001:db8::66", "192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    b.bind.add_address(B64.parse().unwrap());
    a.bind.set_blocked(&[Family::V4]);
    let packet = a.send_to(&b, 100);
    world.pass(S(40), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at(B64))));
    // The name still has that address, in a way.
    a.change_peer(&b, |peer| peer.endpoint = named(HOST));
    world.sent();
    world.settle(&[&a, &b]);
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![], Some(at(B64))));
    // Without any route, the next attempt begins with IPv4.
    a.bind.set_send_blocked(true);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((endpoint(&a, &b), a.stat("out_send_failed")), (Some(at("192.0.2.2")), 1));
    a.bind.set_send_blocked(false);
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("192.0.2.2"))));
}

#[test]
fn without_a_resolver_a_missing_route_is_only_counted() {
    let world = World::new();
    let (a, b) = world.pair();
    a.bind.set_blocked(&[Family::V4]);
    a.send_to(&b, 100);
    world.pass(S(200), &[&a, &b]);
    assert_eq!((a.stat("out_send_failed"), endpoint(&a, &b)), (20, Some(at("192.0.2.2"))));
}
