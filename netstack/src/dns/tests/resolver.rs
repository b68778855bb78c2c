use std::{
    io::ErrorKind,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use wg_embed::sync::lock;

use super::response::{self, A, AAAA, Response, TRUNCATED};
use crate::{
    dns::{
        Family,
        fake::{Fake, UdpEnd},
        lookup::Looking,
        network::Network as _,
        resolver::Host,
    },
    task::{Task, block},
};

const NAME: &str = "www.example";
const LONG: Duration = Duration::from_secs(1000);

fn ip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn ip6(n: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn start(fake: &Fake, family: Family, timeout: Duration) -> Arc<Task<Looking<Fake>>> {
    Looking::start(fake, Host::parse(NAME).unwrap(), family, timeout)
}

fn outcome(looking: &Task<Looking<Fake>>) -> Option<Result<Vec<IpAddr>, ErrorKind>> {
    looking.machine().outcome().map(|outcome| outcome.map_err(|e| e.kind()))
}

/// The open socket whose message asks for addresses of that type.
fn asking(fake: &Fake, kind: u16) -> Arc<UdpEnd> {
    let mut ends = fake.open_udp().into_iter().filter(|end| response::question(&end.message()).1 == kind);
    ends.next().expect("it was asked")
}

fn answer(end: &UdpEnd, flags: u16, change: impl FnOnce(Response) -> Response) {
    end.deliver(change(Response::to(&end.message(), flags)).build());
}

#[test]
fn both_families_are_asked_at_once_and_ordered() {
    for (family, expected) in
        [(Family::Any, [ip6(1), ip(1)]), (Family::PreferIpv6, [ip6(1), ip(1)]), (Family::PreferIpv4, [ip(1), ip6(1)])]
    {
        let fake = Fake::new();
        let looking = start(&fake, family, LONG);
        assert_eq!(fake.open_udp().len(), 2);
        assert!(fake.open_udp().iter().all(|end| end.to == "192.0.2.53:53".parse().unwrap()));
        answer(&asking(&fake, A), 0, |r| r.address(ip(1), 60));
        assert_eq!(outcome(&looking), None);
        answer(&asking(&fake, AAAA), 0, |r| r.address(ip6(1), 60));
        assert_eq!(outcome(&looking), Some(Ok(expected.to_vec())));
        assert!(fake.open_udp().is_empty());
        assert_eq!(fake.alarms(), 0);
    }
}

#[test]
fn a_family_is_asked_for_if_it_is_wanted_and_of_use() {
    let asked = |family, ipv4, ipv6| {
        let fake = Fake::new();
        fake.0.ipv4.store(ipv4, Ordering::Relaxed);
        fake.0.ipv6.store(ipv6, Ordering::Relaxed);
        let _looking = start(&fake, family, LONG);
        fake.open_udp().iter().map(|end| response::question(&end.message()).1).collect::<Vec<_>>()
    };
    assert_eq!(asked(Family::Any, true, false), [A]);
    assert_eq!(asked(Family::PreferIpv4, false, true), [AAAA]);
    assert_eq!(asked(Family::PreferIpv4, true, true), [A, AAAA]);
    assert_eq!(asked(Family::Ipv6, true, false), [AAAA]);
    assert_eq!(asked(Family::Ipv4, true, true), [A]);
    assert_eq!(asked(Family::Any, false, false), [AAAA, A]);
}

#[test]
fn one_family_does_not_wait_for_long_for_the_other_one() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Any, LONG);
    fake.advance(seconds(1));
    answer(&asking(&fake, A), 0, |r| r.address(ip(1), 60));
    fake.advance(Duration::from_millis(1999));
    assert_eq!(outcome(&looking), None);
    fake.advance(Duration::from_millis(1));
    assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
    assert!(fake.open_udp().is_empty());
    assert_eq!(fake.alarms(), 0);
}

#[test]
fn what_one_family_lacks_the_other_may_have() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Any, LONG);
    answer(&asking(&fake, AAAA), 2, |r| r);
    answer(&fake.last_udp(), 2, |r| r); // the second server
    assert_eq!(outcome(&looking), None);
    answer(&asking(&fake, A), 0, |r| r.address(ip(1), 60));
    assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
    // Without any address a failure counts more than what was not found.
    let fake = Fake::new();
    let looking = start(&fake, Family::Any, LONG);
    answer(&asking(&fake, AAAA), 2, |r| r);
    answer(&fake.last_udp(), 2, |r| r);
    answer(&asking(&fake, A), 3, |r| r);
    assert_eq!(outcome(&looking), Some(Err(ErrorKind::Other)));
}

#[test]
fn addresses_and_localhost_are_answered_at_once() {
    let fake = Fake::new();
    let get = |name: &str, family| outcome(&Looking::start(&fake, Host::parse(name).unwrap(), family, LONG));
    let (v4, v6): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
    assert_eq!(get("192.0.2.1", Family::Any), Some(Ok(vec![ip(1)])));
    assert_eq!(get("2001:db8::1", Family::PreferIpv4), Some(Ok(vec![ip6(1)])));
    assert_eq!(get("192.0.2.1", Family::Ipv6), Some(Err(ErrorKind::NotFound)));
    assert_eq!(get("::1", Family::Ipv4), Some(Err(ErrorKind::NotFound)));
    assert_eq!(get("localhost", Family::Any), Some(Ok(vec![v6, v4])));
    assert_eq!(get("a.localhost.", Family::Ipv4), Some(Ok(vec![v4])));
    assert!(lock(&fake.0.udp).is_empty());
    assert!(Host::parse("a b").is_err());
}

#[test]
fn without_servers_there_are_no_names() {
    let fake = Fake::new();
    lock(&fake.0.servers).clear();
    assert_eq!(outcome(&start(&fake, Family::Any, LONG)), Some(Err(ErrorKind::Unsupported)));
}

#[test]
fn servers_are_asked_in_turn_for_longer_and_longer() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    let mut asked = 1;
    for timeout in [2, 4, 8, 16, 32] {
        for server in ["192.0.2.53:53", "[2001:db8::53]:53"] {
            assert_eq!(fake.last_udp().to, server.parse().unwrap());
            assert_eq!(lock(&fake.0.udp).len(), asked);
            fake.advance(seconds(timeout) - Duration::from_nanos(1));
            assert_eq!((lock(&fake.0.udp).len(), outcome(&looking)), (asked, None));
            fake.advance(Duration::from_nanos(1));
            asked += 1;
        }
    }
    assert_eq!(outcome(&looking), Some(Err(ErrorKind::TimedOut)));
    assert!(fake.open_udp().is_empty());
    assert_eq!(fake.alarms(), 0);
}

#[test]
fn a_look_up_has_its_own_time() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, seconds(3));
    let longer = start(&fake, Family::Ipv4, seconds(5));
    let endless = start(&fake, Family::Ipv4, Duration::MAX);
    fake.advance(seconds(3));
    assert_eq!((outcome(&looking), outcome(&longer)), (Some(Err(ErrorKind::TimedOut)), None));
    answer(&fake.last_udp(), 0, |r| r.address(ip(1), 60));
    assert_eq!(outcome(&looking), Some(Err(ErrorKind::TimedOut)));
    assert_eq!((outcome(&longer), outcome(&endless)), (Some(Ok(vec![ip(1)])), Some(Ok(vec![ip(1)]))));
}

#[test]
fn a_late_answer_counts() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    let first = fake.last_udp();
    fake.advance(seconds(3));
    assert_ne!(fake.last_udp().to, first.to);
    answer(&first, 0, |r| r.address(ip(1), 60));
    assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
}

#[test]
fn no_more_than_four_messages_are_waited_for() {
    let fake = Fake::new();
    let _looking = start(&fake, Family::Ipv4, LONG);
    fake.advance(seconds(100));
    assert!(lock(&fake.0.udp).len() > 6);
    assert_eq!(fake.open_udp().len(), 4);
}

#[test]
fn each_message_has_an_identifier_and_a_case_of_its_own() {
    let fake = Fake::new();
    let _looking = start(&fake, Family::Any, LONG);
    fake.advance(seconds(2));
    let messages: Vec<_> = fake.open_udp().iter().map(|end| end.message()).collect();
    assert_eq!(messages.len(), 4);
    for (n, message) in messages.iter().enumerate() {
        assert!(messages[..n].iter().all(|other| other[..2] != message[..2]));
        assert!(messages[..n].iter().all(|other| other[12..24] != message[12..24]));
    }
}

#[test]
fn messages_that_are_no_answers_are_ignored() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    let end = fake.last_udp();
    let mut wrong = Response::to(&end.message(), 0).address(ip(66), 60).build();
    wrong[1] ^= 1;
    end.deliver(wrong);
    end.deliver(vec![]);
    end.deliver(vec![0; 5000]);
    assert_eq!(outcome(&looking), None);
    answer(&end, 0, |r| r.address(ip(1), 60));
    assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
}

#[test]
fn many_wrong_answers_are_a_reason_to_ask_over_tcp() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    let end = fake.last_udp();
    for n in 0..20 {
        assert!(fake.dialled().is_empty(), "{n}");
        end.deliver(vec![n; 40]);
    }
    assert_eq!(fake.dialled(), [end.to]);
    answer(&end, 0, |r| r.address(ip(66), 60));
    assert_eq!(outcome(&looking), None);
}

#[test]
fn servers_that_fail_are_left_at_once_and_for_good() {
    for flags in [2, 5, 9] {
        let fake = Fake::new();
        let looking = start(&fake, Family::Ipv4, LONG);
        answer(&fake.last_udp(), flags, |r| r);
        assert_eq!(fake.last_udp().to, "[2001:db8::53]:53".parse().unwrap());
        fake.advance(seconds(2));
        assert_eq!(fake.last_udp().to, "[2001:db8::53]:53".parse().unwrap());
        assert_eq!(fake.open_udp().len(), 2);
        answer(&fake.last_udp(), flags, |r| r);
        assert_eq!(outcome(&looking), Some(Err(ErrorKind::Other)));
    }
}

#[test]
fn servers_that_cannot_be_reached_are_left_at_once() {
    let fake = Fake::new();
    lock(&fake.0.unreachable).push((ip(53), ErrorKind::AddrNotAvailable));
    let looking = start(&fake, Family::Ipv4, LONG);
    let end = fake.last_udp();
    assert_eq!(end.to.ip(), ip6(0x53));
    end.fail(ErrorKind::ConnectionRefused);
    assert_eq!(outcome(&looking), Some(Err(ErrorKind::Other)));
}

#[test]
fn a_closed_stack_ends_look_ups() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Any, LONG);
    for end in fake.open_udp() {
        end.fail(ErrorKind::ConnectionAborted);
    }
    assert_eq!(outcome(&looking), Some(Err(ErrorKind::ConnectionAborted)));
    lock(&fake.0.unreachable).push((ip(53), ErrorKind::NotConnected));
    assert_eq!(outcome(&start(&fake, Family::Any, LONG)), Some(Err(ErrorKind::ConnectionAborted)));
}

#[test]
fn a_full_queue_of_the_stack_delays_the_question() {
    let fake = Fake::new();
    fake.0.full.store(true, Ordering::Relaxed);
    let looking = start(&fake, Family::Ipv4, LONG);
    let end = fake.last_udp();
    assert_eq!(end.sent(), 0);
    end.has_room();
    end.has_room();
    assert_eq!(end.sent(), 1);
    answer(&end, 0, |r| r.address(ip(1), 60));
    assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_without() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    let first = fake.last_udp();
    assert_eq!(first.message()[11], 1);
    answer(&first, 1, |r| r);
    let second = fake.last_udp();
    assert_eq!(second.to, first.to);
    assert_eq!(second.message()[11], 0);
    answer(&second, 0, |r| r.address(ip(1), 60));
    assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
}

#[test]
fn truncated_answers_are_asked_for_over_tcp() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    answer(&fake.last_udp(), TRUNCATED, |r| r.address(ip(1), 60));
    assert_eq!(fake.dialled(), ["192.0.2.53:53".parse().unwrap()]);
    assert!(fake.open_udp().is_empty());
    let tcp = fake.tcp(0);
    assert_eq!(tcp.written(), []);
    tcp.establish();
    let written = tcp.written();
    let message = &written[2..];
    assert_eq!(usize::from(u16::from_be_bytes([written[0], written[1]])), message.len());
    assert_eq!(response::question(message), (NAME.to_owned(), A));
    let answer = (0..100).fold(Response::to(message, 0), |r, n| r.address(ip(n), 60)).build();
    let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
    let framed = [&len[..], &answer].concat();
    let (last, most) = framed.split_last().unwrap();
    for piece in most.chunks(7) {
        tcp.deliver(piece);
        assert_eq!(outcome(&looking), None);
    }
    tcp.deliver(&[*last]);
    assert_eq!(outcome(&looking), Some(Ok((0..32).map(ip).collect())));
    assert!(!tcp.is_held());
}

#[test]
fn tcp_that_fails_is_a_server_that_fails() {
    for way in 0..4 {
        let fake = Fake::new();
        let looking = start(&fake, Family::Ipv4, LONG);
        answer(&fake.last_udp(), TRUNCATED, |r| r);
        let tcp = fake.tcp(0);
        match way {
            0 => tcp.fail(ErrorKind::ConnectionRefused),
            1 => {
                tcp.establish();
                tcp.deliver(&[0]);
                tcp.end();
            }
            2 => {
                tcp.establish();
                tcp.deliver(&[0, 2, 1, 1]);
            }
            _ => fake.advance(seconds(2)),
        }
        let second = fake.last_udp();
        assert_eq!(second.to, "[2001:db8::53]:53".parse().unwrap());
        answer(&second, 0, |r| r.address(ip(1), 60));
        assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
        assert!(tcp.was_reset() && !tcp.is_held());
    }
}

#[test]
fn names_that_do_not_exist_are_not_found() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Any, LONG);
    answer(&asking(&fake, A), 3, |r| r.soa(60, 60));
    answer(&asking(&fake, AAAA), 3, |r| r.soa(60, 60));
    assert_eq!(outcome(&looking), Some(Err(ErrorKind::NotFound)));
    // And that is remembered.
    assert_eq!(outcome(&start(&fake, Family::Any, LONG)), Some(Err(ErrorKind::NotFound)));
    fake.advance(seconds(60));
    assert_eq!(outcome(&start(&fake, Family::Any, LONG)), None);
}

#[test]
fn answers_are_remembered_for_their_time() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    answer(&fake.last_udp(), 0, |r| r.address(ip(1), 60));
    assert_eq!(outcome(&looking), Some(Ok(vec![ip(1)])));
    fake.advance(seconds(59));
    // It is the questions' time that counts, not how long the look-up is held.
    assert_eq!(outcome(&start(&fake, Family::Ipv4, LONG)), Some(Ok(vec![ip(1)])));
    assert_eq!(lock(&fake.0.udp).len(), 1);
    fake.advance(seconds(1));
    assert_eq!(outcome(&start(&fake, Family::Ipv4, LONG)), None);
    assert_eq!(lock(&fake.0.udp).len(), 2);
}

#[test]
fn other_servers_are_asked_afresh() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    let old = fake.last_udp();
    *lock(&fake.0.servers) = vec![ip(54)];
    let newer = start(&fake, Family::Ipv4, LONG);
    let end = fake.last_udp();
    assert_eq!(end.to.ip(), ip(54));
    answer(&old, 0, |r| r.address(ip(1), 60));
    assert_eq!((outcome(&looking), outcome(&newer)), (Some(Ok(vec![ip(1)])), None));
    assert_eq!(outcome(&start(&fake, Family::Ipv4, LONG)), None);
    answer(&end, 0, |r| r.address(ip(2), 60));
    assert_eq!(outcome(&newer), Some(Ok(vec![ip(2)])));
    assert_eq!(outcome(&start(&fake, Family::Ipv4, LONG)), Some(Ok(vec![ip(2)])));
    *lock(&fake.0.servers) = vec![ip(53)];
    assert_eq!(outcome(&start(&fake, Family::Ipv4, LONG)), None);
}

#[test]
fn equal_questions_are_asked_once() {
    let fake = Fake::new();
    let all: Vec<_> = (0..100).map(|_| start(&fake, Family::Any, LONG)).collect();
    let _v4 = start(&fake, Family::Ipv4, LONG);
    assert_eq!(lock(&fake.0.udp).len(), 2);
    answer(&asking(&fake, A), 0, |r| r.address(ip(1), 0));
    answer(&asking(&fake, AAAA), 0, |r| r.address(ip6(1), 0));
    assert!(all.iter().all(|looking| outcome(looking) == Some(Ok(vec![ip6(1), ip(1)]))));
    // What may not be remembered is not given to later ones, though a look-up still holds it.
    let waiting = start(&fake, Family::Any, LONG);
    answer(&asking(&fake, A), 0, |r| r.address(ip(1), 0));
    assert_eq!(outcome(&start(&fake, Family::Ipv4, LONG)), None);
    assert_eq!(outcome(&waiting), None);
}

#[test]
fn a_question_is_given_up_with_its_last_look_up() {
    let fake = Fake::new();
    let (one, other) = (start(&fake, Family::Any, LONG), start(&fake, Family::Any, LONG));
    drop(one);
    assert_eq!(fake.open_udp().len(), 2);
    drop(other);
    assert!(fake.open_udp().is_empty());
    assert_eq!(fake.alarms(), 0);
    let again = start(&fake, Family::Ipv4, LONG);
    answer(&fake.last_udp(), TRUNCATED, |r| r);
    drop(again);
    assert!(fake.tcp(0).was_reset() && !fake.tcp(0).is_held());
    assert_eq!((fake.alarms(), fake.resolver().running()), (0, 0));
    assert_eq!(Arc::strong_count(&fake.0), 1);
}

#[test]
fn whoever_waits_is_told_once() {
    let fake = Fake::new();
    let looking = start(&fake, Family::Ipv4, LONG);
    let count = Arc::new(AtomicUsize::new(0));
    let told = {
        let (count, fake) = (Arc::clone(&count), fake.clone());
        move || {
            count.fetch_add(1, Ordering::SeqCst);
            // A notifier may use the resolver.
            assert_eq!(outcome(&start(&fake, Family::Ipv4, LONG)), Some(Ok(vec![ip(1)])));
        }
    };
    looking.machine().told.set(Some(Arc::new(told)));
    answer(&fake.last_udp(), 0, |r| r.address(ip(1), 60));
    fake.advance(seconds(10));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn many_threads_look_up_while_answers_come() {
    let fake = Fake::new();
    std::thread::scope(|scope| {
        let look_up = |thread: usize| {
            let fake = &fake;
            scope.spawn(move || {
                for n in 0..200 {
                    let host = Host::parse(&format!("n{}.example", n % 7)).unwrap();
                    let looking = Looking::start(fake, host, Family::Any, LONG);
                    if (n + thread).is_multiple_of(3) {
                        continue; // given up
                    }
                    let machine = looking.machine();
                    let attempt = || machine.outcome().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()));
                    let found = block(LONG, |notify| machine.told.set(Some(notify)), attempt);
                    assert_eq!(found.unwrap(), [ip6(1), ip(1)]);
                }
            })
        };
        let threads: Vec<_> = (0..4).map(look_up).collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            for end in fake.open_udp() {
                if end.sent() == 0 {
                    continue; // It is being opened.
                }
                let address = if response::question(&end.message()).1 == A { ip(1) } else { ip6(1) };
                answer(&end, 0, |r| r.address(address, 0));
            }
            std::thread::yield_now();
        }
    });
    assert!(fake.open_udp().is_empty());
    assert_eq!((fake.alarms(), fake.resolver().running()), (0, 0));
    assert_eq!(Arc::strong_count(&fake.0), 1);
}
