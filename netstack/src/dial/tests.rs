use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use wg_embed::sync::lock;

use super::race::Dialling;
use crate::{
    dns::{
        Family,
        fake::{Fake, UdpEnd},
        resolver::Host,
        tests::response::{self, A, AAAA, Response},
    },
    task::Task,
};

const LONG: Duration = Duration::from_secs(1000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 80))
}

fn at6(n: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 80))
}

fn start_with(fake: &Fake, host: &str, family: Family, timeout: Duration) -> Arc<Task<Dialling<Fake>>> {
    Dialling::start(fake, Host::parse(host).unwrap(), 80, family, timeout)
}

fn start(fake: &Fake) -> Arc<Task<Dialling<Fake>>> {
    start_with(fake, "www.example", Family::Any, LONG)
}

fn asking(fake: &Fake, kind: u16) -> Arc<UdpEnd> {
    let mut ends = fake.open_udp().into_iter().filter(|end| response::question(&end.message()).1 == kind);
    ends.next().expect("it was asked")
}

fn answer(fake: &Fake, kind: u16, addresses: impl IntoIterator<Item = SocketAddr>) {
    let end = asking(fake, kind);
    let response = Response::to(&end.message(), 0);
    end.deliver(addresses.into_iter().fold(response, |r, to| r.address(to.ip(), 60)).build());
}

/// Where the connection goes to, or why there is none.
fn finish(dial: &Task<Dialling<Fake>>) -> Result<SocketAddr, ErrorKind> {
    dial.machine().try_finish().map(|stream| stream.to()).map_err(|e| e.kind())
}

#[test]
fn addresses_of_both_families_are_tried_in_turn() {
    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, AAAA, (1..=4).map(at6));
    assert_eq!(fake.dialled(), [at6(1)]);
    answer(&fake, A, (1..=2).map(at));
    assert_eq!(fake.dialled(), [at6(1)]);
    fake.advance(ms(249));
    assert_eq!(fake.dialled(), [at6(1)]);
    fake.advance(ms(1));
    assert_eq!(fake.dialled(), [at6(1), at(1)]);
    fake.advance(ms(10_000));
    assert_eq!(fake.dialled(), [at6(1), at(1), at6(2), at(2), at6(3), at6(4)]);
    assert_eq!(finish(&dial), Err(ErrorKind::WouldBlock));
    fake.tcp(3).establish();
    assert_eq!(finish(&dial), Ok(at(2)));
    for n in 0..6 {
        assert_eq!(fake.tcp(n).was_reset(), n != 3);
        assert!(!fake.tcp(n).is_held());
    }
    assert_eq!(finish(&dial), Err(ErrorKind::Other));
    assert_eq!(fake.alarms(), 0);
}

#[test]
fn a_black_hole_costs_one_delay() {
    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, AAAA, [at6(1)]);
    answer(&fake, A, [at(1)]);
    fake.advance(ms(250));
    fake.tcp(1).establish();
    assert_eq!(finish(&dial), Ok(at(1)));
    assert!(fake.tcp(0).was_reset() && !fake.tcp(1).was_reset());
}

#[test]
fn the_first_family_is_waited_for_a_moment() {
    let fake = Fake::new();
    let _dial = start(&fake);
    answer(&fake, A, [at(1), at(2)]);
    fake.advance(ms(49));
    assert!(fake.dialled().is_empty());
    answer(&fake, AAAA, [at6(1)]);
    assert_eq!(fake.dialled(), [at6(1)]);

    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, A, [at(1), at(2)]);
    fake.advance(ms(50));
    assert_eq!(fake.dialled(), [at(1)]);
    // It comes next, however late it is.
    answer(&fake, AAAA, [at6(1)]);
    assert_eq!(fake.dialled(), [at(1)]);
    fake.advance(ms(250));
    assert_eq!(fake.dialled(), [at(1), at6(1)]);
    fake.tcp(0).establish();
    assert_eq!(finish(&dial), Ok(at(1)));

    let fake = Fake::new();
    let _dial = start_with(&fake, "www.example", Family::PreferIpv4, LONG);
    answer(&fake, AAAA, [at6(1)]);
    assert!(fake.dialled().is_empty());
    answer(&fake, A, []);
    assert_eq!(fake.dialled(), [at6(1)]);
}

#[test]
fn a_look_up_that_never_ends_does_not_hold_up_the_other_family() {
    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, A, [at(1)]);
    fake.advance(ms(50));
    fake.tcp(0).establish();
    assert_eq!(finish(&dial), Ok(at(1)));
    assert!(fake.open_udp().is_empty());
}

#[test]
fn a_refusal_makes_the_next_attempt_begin_at_once() {
    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, AAAA, [at6(1)]);
    answer(&fake, A, [at(1)]);
    fake.tcp(0).fail(ErrorKind::HostUnreachable);
    assert_eq!(fake.dialled(), [at6(1), at(1)]);
    fake.tcp(1).fail(ErrorKind::ConnectionRefused);
    assert_eq!(finish(&dial), Err(ErrorKind::ConnectionRefused));
    assert_eq!(fake.alarms(), 0);
}

#[test]
fn addresses_that_cannot_be_dialled_are_skipped() {
    let fake = Fake::new();
    lock(&fake.0.unreachable).push((at6(1).ip(), ErrorKind::AddrNotAvailable));
    let dial = start(&fake);
    answer(&fake, A, [at(1)]);
    answer(&fake, AAAA, [at6(1), at6(2)]);
    assert_eq!(fake.dialled(), [at(1)]);
    fake.advance(ms(250));
    assert_eq!(fake.dialled(), [at(1), at6(2)]);
    fake.tcp(1).establish();
    assert_eq!(finish(&dial), Ok(at6(2)));
    let dial = start_with(&fake, "2001:db8::1", Family::Any, LONG);
    assert_eq!(finish(&dial), Err(ErrorKind::AddrNotAvailable));
}

#[test]
fn addresses_are_dialled_without_a_server() {
    let fake = Fake::new();
    let dial = start_with(&fake, "192.0.2.7", Family::Any, LONG);
    assert_eq!(fake.dialled(), [at(7)]);
    fake.tcp(0).establish();
    assert_eq!(finish(&dial), Ok(at(7)));
    assert!(lock(&fake.0.udp).is_empty());
    assert_eq!(finish(&start_with(&fake, "192.0.2.7", Family::Ipv6, LONG)), Err(ErrorKind::NotFound));
}

#[test]
fn known_addresses_race_without_a_server() {
    let fake = Fake::new();
    lock(&fake.0.servers).clear();
    let known = [at(1), at(2), at6(1), at(3)].map(|to| to.ip()).to_vec();
    let dial = Dialling::start(&fake, Host::Known(known), 80, Family::Any, LONG);
    assert_eq!(fake.dialled(), [at(1)]);
    fake.advance(ms(750));
    assert_eq!(fake.dialled(), [at(1), at6(1), at(2), at(3)]);
    fake.tcp(3).establish();
    assert_eq!(finish(&dial), Ok(at(3)));
    assert!((0..3).all(|n| fake.tcp(n).was_reset()) && lock(&fake.0.udp).is_empty());
    assert_eq!(fake.alarms(), 0);
}

#[test]
fn names_without_addresses_are_told_as_the_look_up_tells_them() {
    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, AAAA, []);
    answer(&fake, A, []);
    assert_eq!(finish(&dial), Err(ErrorKind::NotFound));
    lock(&fake.0.servers).clear();
    assert_eq!(finish(&start(&fake)), Err(ErrorKind::Unsupported));
}

#[test]
fn the_time_is_for_all_of_it() {
    let fake = Fake::new();
    let dial = start_with(&fake, "www.example", Family::Any, ms(1000));
    fake.advance(ms(900));
    answer(&fake, A, [at(1), at(2)]);
    fake.advance(ms(99));
    assert_eq!(finish(&dial), Err(ErrorKind::WouldBlock));
    fake.advance(ms(1));
    assert_eq!(finish(&dial), Err(ErrorKind::TimedOut));
    assert!(fake.tcp(0).was_reset() && !fake.tcp(0).is_held());
    assert!(fake.open_udp().is_empty());
    assert_eq!(fake.alarms(), 0);
}

#[test]
fn dropping_a_dial_gives_up_everything() {
    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, AAAA, [at6(1), at6(2)]);
    fake.advance(ms(250));
    drop(dial);
    for n in 0..2 {
        assert!(fake.tcp(n).was_reset() && !fake.tcp(n).is_held());
    }
    assert!(fake.open_udp().is_empty());
    assert_eq!(fake.alarms(), 0);
    assert_eq!(Arc::strong_count(&fake.0), 1);
}

#[test]
fn a_closed_stack_ends_dials() {
    let fake = Fake::new();
    let dial = start(&fake);
    answer(&fake, AAAA, [at6(1), at6(2)]);
    fake.tcp(0).fail(ErrorKind::ConnectionAborted);
    assert_eq!(finish(&dial), Err(ErrorKind::ConnectionAborted));
    assert_eq!(fake.dialled(), [at6(1)]);
}

#[test]
fn only_families_of_the_stack_are_dialled() {
    let fake = Fake::new();
    fake.0.ipv6.store(false, Ordering::Relaxed);
    let _dial = start(&fake);
    answer(&fake, A, [at(1)]);
    assert_eq!(fake.dialled(), [at(1)]);
}
