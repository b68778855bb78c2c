use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::response::{self, CNAME, RESPONSE, Response, TRUNCATED};
use crate::dns::{
    message::{Asked, Kind, Reply},
    name::Name,
};

const NAME: &str = "www.example";

fn asked(kind: Kind) -> Asked {
    Asked { id: 0x1234, name: Name::parse(NAME).unwrap().in_random_case(&[0xa5, 0x5a]), kind, edns: true }
}

fn reply(change: impl FnOnce(Response) -> Response) -> Option<Reply> {
    let asked = asked(Kind::A);
    asked.read(&change(Response::to(&asked.to_message(), 0)).build(), false)
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

#[test]
fn a_question_has_edns_and_asks_for_recursion() {
    let message = asked(Kind::Aaaa).to_message();
    assert_eq!(&message[..12], &[0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(response::question(&message), (NAME.to_owned(), response::AAAA));
    assert!(message.ends_with(&[0, 28, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]));
    let without = Asked { edns: false, ..asked(Kind::A) }.to_message();
    assert_eq!(&without[6..12], &[0; 6]);
    assert!(without.ends_with(&[0, 0, 1, 0, 1]));
}

#[test]
fn addresses_are_those_of_the_name() {
    let found =
        reply(|r| r.address(ip(1), 60).answer(&response::name("other.example"), 1, 9, &[9; 4]).address(ip(2), 50));
    assert_eq!(found, Some(Reply::Found(vec![ip(1), ip(2)], seconds(50))));
    let twice = reply(|r| r.address(ip(1), 60).address(ip(1), 60).address("2001:db8::1".parse().unwrap(), 60));
    assert_eq!(twice, Some(Reply::Found(vec![ip(1)], seconds(60))));
    let all = reply(|r| (0..100).fold(r, |r, n| r.address(ip(n), 60)));
    let Some(Reply::Found(all, _)) = all else { panic!("{all:?}") };
    assert_eq!(all.len(), 32);
}

#[test]
fn a_time_to_live_has_limits() {
    for (ttl, valid) in
        [(0, 0), (86_400, 86_400), (86_401, 86_400), (0x7fff_ffff, 86_400), (0x8000_0000, 0), (u32::MAX, 0)]
    {
        assert_eq!(reply(|r| r.address(ip(1), ttl)), Some(Reply::Found(vec![ip(1)], seconds(valid))));
    }
}

#[test]
fn aliases_are_followed() {
    let chain = reply(|r| {
        r.alias("b.example", "c.example", 20).alias(NAME, "B.example", 30).answer(
            &response::name("C.Example"),
            1,
            40,
            &[192, 0, 2, 7],
        )
    });
    assert_eq!(chain, Some(Reply::Found(vec![ip(7)], seconds(20))));
    let dangling = reply(|r| r.alias(NAME, "b.example", 30).soa(100, 50));
    assert_eq!(dangling, Some(Reply::Nothing(seconds(50))));
    let cycle = reply(|r| r.alias(NAME, "b.example", 30).alias("b.example", NAME, 30));
    assert_eq!(cycle, Some(Reply::Failed));
    let long = |aliases: usize| {
        reply(|r| {
            let name = |n| if n == 0 { NAME.to_owned() } else { format!("n{n}.example") };
            let r = (0..aliases).fold(r, |r, n| r.alias(&name(n), &name(n + 1), 30));
            r.answer(&response::name(&name(aliases)), 1, 30, &[192, 0, 2, 1])
        })
    };
    assert_eq!(long(16), Some(Reply::Found(vec![ip(1)], seconds(30))));
    assert_eq!(long(17), Some(Reply::Failed));
}

#[test]
fn nothing_is_valid_as_long_as_the_soa_record_allows() {
    for (flags, ttl, minimum, valid) in [(0, 100, 60, 60), (3, 30, 60, 30), (3, 100_000, 100_000, 900), (0, 0, 60, 0)] {
        let asked = asked(Kind::Aaaa);
        let answer = Response::to(&asked.to_message(), flags).soa(ttl, minimum).build();
        assert_eq!(asked.read(&answer, false), Some(Reply::Nothing(seconds(valid))));
    }
    assert_eq!(reply(|r| r), Some(Reply::Nothing(Duration::ZERO)));
}

#[test]
fn failures_are_told_apart() {
    for (flags, failure) in
        [(1, Reply::WithoutEdns), (2, Reply::Failed), (4, Reply::WithoutEdns), (5, Reply::Failed), (9, Reply::Failed)]
    {
        let asked = asked(Kind::A);
        assert_eq!(asked.read(&Response::to(&asked.to_message(), flags).build(), false), Some(failure));
    }
    let without = Asked { edns: false, ..asked(Kind::A) };
    assert_eq!(without.read(&Response::to(&without.to_message(), 1).build(), false), Some(Reply::Failed));
    // The header only.
    let mut header = Response::to(&without.to_message(), 1).build();
    header.truncate(12);
    header[4..6].fill(0);
    assert_eq!(asked(Kind::A).read(&header, false), Some(Reply::WithoutEdns));
    header[3] = 0;
    assert_eq!(asked(Kind::A).read(&header, false), None);
    // A server that is not recursive and knows nothing of the name.
    let mut lame = Response::to(&without.to_message(), 0).build();
    lame[3] = 0;
    assert_eq!(without.read(&lame, false), Some(Reply::Failed));
}

#[test]
fn truncated_answers_and_those_in_another_case_are_asked_for_over_tcp() {
    let asked = asked(Kind::A);
    let truncated = Response::to(&asked.to_message(), TRUNCATED).address(ip(1), 60).build();
    assert_eq!(asked.read(&truncated, false), Some(Reply::OverTcp));
    assert_eq!(asked.read(&truncated, true), Some(Reply::Found(vec![ip(1)], seconds(60))));
    let mut small = Response::to(&asked.to_message(), 0).address(ip(1), 60).build();
    small[12..24].make_ascii_lowercase();
    assert_eq!(asked.read(&small, false), Some(Reply::OverTcp));
    assert_eq!(asked.read(&small, true), Some(Reply::Found(vec![ip(1)], seconds(60))));
}

#[test]
fn messages_that_are_no_answers_are_left_out() {
    let asked = asked(Kind::A);
    let good = Response::to(&asked.to_message(), 0).address(ip(1), 60).build();
    assert!(asked.read(&good, false).is_some());
    let changed = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    for (at, byte) in [
        (1, 0x35),  // the identifier
        (2, 0x01),  // a question
        (2, 0x91),  // another operation
        (5, 2),     // two questions
        (13, b'x'), // another name
        (26, 28),   // another type
        (28, 3),    // another class
    ] {
        assert_eq!(asked.read(&changed(at, byte), false), None, "{at}");
    }
    assert_eq!(asked.read(&asked.to_message(), false), None);
    for len in 0..good.len() {
        assert_eq!(asked.read(&good[..len], false), None, "{len} bytes");
    }
}

#[test]
fn loops_and_counts_of_bad_messages_end() {
    let asked = asked(Kind::A);
    let mut counts = Response::to(&asked.to_message(), 0).build();
    counts[6..12].fill(0xff);
    assert_eq!(asked.read(&counts, false), None);
    // A name that points to itself, and two that point to each other.
    let end = u8::try_from(Response::to(&asked.to_message(), 0).build().len()).unwrap();
    assert_eq!(reply(|r| r.answer(&[0xc0, end], 1, 60, &[1; 4])), None);
    assert_eq!(reply(|r| r.answer(&[0xc0, end + 2, 0xc0, end], 1, 60, &[1; 4])), None);
    let alias = end + 12;
    assert_eq!(reply(|r| r.answer(&[0xc0, 12], CNAME, 60, &[0xc0, alias])), None);
    assert_eq!(reply(|r| r.answer(&[0xc0, 12], CNAME, 60, &[1, b'a', 0xc0, alias])), None);
    assert_eq!(reply(|r| r.answer(&[0xc0, 12], 1, 60, &[1; 3])), None);
    // As many pointers as fit, each to the one before.
    let mut pointers = Response::to(&asked.to_message(), 0).answer(&[0xc0, 12], 99, 60, &[]).build();
    let start = pointers.len();
    pointers.extend_from_slice(&[0xc0, 12]);
    for at in (start..0x3ff0).step_by(2) {
        let [high, low] = u16::try_from(at).unwrap().to_be_bytes();
        pointers.extend_from_slice(&[0xc0 | high, low]);
    }
    let data = u16::try_from(pointers.len() - start).unwrap();
    pointers[start - 2..start].copy_from_slice(&data.to_be_bytes());
    let [high, low] = u16::try_from(pointers.len() - 2).unwrap().to_be_bytes();
    for _ in 0..3000 {
        pointers.extend_from_slice(&[0xc0 | high, low, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    pointers[6..8].copy_from_slice(&3001_u16.to_be_bytes());
    assert_eq!(asked.read(&pointers, true), Some(Reply::Found(vec![ip(1)], seconds(60))));
}

proptest! {
    #[test]
    fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), tcp: bool) {
        let asked = asked(Kind::A);
        let _any = asked.read(&bytes, tcp);
        // Behind a header and a question that are right.
        let mut message = Response::to(&asked.to_message(), 0).build();
        message[6..12].copy_from_slice(&[0, 3, 0, 2, 0, 1]);
        message.extend_from_slice(&bytes);
        let _any = asked.read(&message, tcp);
    }

    #[test]
    fn changed_answers_can_be_read(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let asked = asked(Kind::A);
        let mut message = Response::to(&asked.to_message(), RESPONSE)
            .alias(NAME, "b.example", 30)
            .answer(&response::name("b.example"), 1, 30, &[192, 0, 2, 1])
            .soa(1, 2)
            .build();
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        let _any = asked.read(&message, false);
    }
}
