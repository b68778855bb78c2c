//! Each deviation is an error, and accepted only with its own option.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use common::{OwnedRecord, answer, command, feed, hex, pairs, parse};
use wg_embed_wireproto::{Checksum, Order, ReadOptions, Tolerance};

const NONE: Tolerance = Tolerance {
    other_order: false,
    missing_body_end: false,
    missing_checksum: false,
    little_endian_checksum: false,
    other_copies: false,
    empty: false,
    experimental_version: false,
};

fn with(tolerance: Tolerance) -> ReadOptions {
    ReadOptions { tolerance, ..ReadOptions::default() }
}

/// Both readers, at all splits, find these records with `needed` and with everything, and fail with everything else.
fn only_with(needed: Tolerance, text: &str, groups: &[Vec<OwnedRecord>]) {
    let bytes = hex(text);
    for tolerance in [needed, Tolerance::ALL] {
        let (head, content) = parse(&bytes, &with(tolerance)).unwrap();
        assert_eq!(content.groups, groups);
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(feed([first, second], &with(tolerance)).unwrap(), [(head, content.clone())]);
        }
    }
    let others = Tolerance {
        other_order: !needed.other_order,
        missing_body_end: !needed.missing_body_end,
        missing_checksum: !needed.missing_checksum,
        little_endian_checksum: !needed.little_endian_checksum,
        other_copies: !needed.other_copies,
        empty: !needed.empty,
        experimental_version: !needed.experimental_version,
    };
    for tolerance in [NONE, others] {
        assert!(parse(&bytes, &with(tolerance)).is_err(), "{tolerance:?}");
    }
}

fn ping() -> Vec<Vec<OwnedRecord>> {
    vec![vec![command(&[("cmd", b"ping")])]]
}

const PING: &str = "00000001 0000001f | 00000001 00000017 | 00000001 0000000f | 00000003 00000004 636d64 70696e67";

#[test]
fn all_of_them_are_off_at_first() {
    assert_eq!(ReadOptions::default().tolerance, NONE);
    assert_eq!(Tolerance::default(), NONE);
}

#[test]
fn the_other_order() {
    let needed = Tolerance { other_order: true, ..NONE };
    let text = "010000000102010000001f0000000100000017000000010000000f0000000300000004000000636d6470696e670304";
    only_with(needed, text, &ping());
    // The other way round, with a setting.
    let options = ReadOptions { order: Order::Little, ..with(needed) };
    let (head, content) = parse(&hex(&format!("01 00000001 02 {PING} 03 04")), &options).unwrap();
    assert_eq!((head.order, content.groups), (Order::Big, ping()));
    assert!(parse(&hex(&format!("01 00000001 02 {PING} 03 04")), &common::reader(Order::Little)).is_err());
}

#[test]
fn no_end_of_the_body() {
    only_with(Tolerance { missing_body_end: true, ..NONE }, &format!("01 00000001 02 {PING} 04"), &ping());
    // A checksum covers what is there.
    let sum = Checksum::of(&hex(&format!("02 {PING}")));
    let text = format!("1b {sum:08x} 01 00000001 02 {PING} 04");
    only_with(Tolerance { missing_body_end: true, ..NONE }, &text, &ping());
}

#[test]
fn a_checksum_in_the_other_order() {
    let sum = Checksum::of(&hex(&format!("02 {PING} 03"))).swap_bytes();
    let text = format!("1b {sum:08x} 01 00000001 02 {PING} 03 04");
    only_with(Tolerance { little_endian_checksum: true, ..NONE }, &text, &ping());
}

#[test]
fn version_0() {
    let text = format!("01 00000000 02 {PING} 03 04");
    only_with(Tolerance { experimental_version: true, ..NONE }, &text, &ping());
    assert!(parse(&hex(&format!("01 00000002 02 {PING} 03 04")), &with(Tolerance::ALL)).is_err());
}

/// A response of one record with this content.
fn response(count: u8, content: &str, checksum: bool) -> String {
    let size = hex(content).len();
    let groups = format!("00000001 {:08x} | 00000001 {:08x} | {count:08x} {size:08x} | {content}", size + 16, size + 8);
    let sum = Checksum::of(&hex(&format!("02 {groups} 03")));
    let sum = if checksum { format!("1b {sum:08x}") } else { String::new() };
    format!("06 {sum} 01 00000001 02 {groups} 03 04")
}

const A: &str = "00000001 00000002 61 0102";
const B: &str = "00000001 00000000 62";

#[test]
fn no_checksum_in_a_response() {
    let text = response(1, &format!("{A} 00000001 00000009 {B}"), false);
    let records = [vec![answer(&[("a", &[1, 2])], &[("b", b"")])]];
    only_with(Tolerance { missing_checksum: true, ..NONE }, &text, &records);
}

#[test]
fn copies_of_other_forms() {
    let needed = Tolerance { other_copies: true, ..NONE };
    // Pairs without allocators.
    let text = response(1, &format!("{A} {B} {A}"), true);
    only_with(needed, &text, &[vec![answer(&[("a", &[1, 2])], &[("b", b""), ("a", &[1, 2])])]]);
    // None.
    let records = OwnedRecord { pairs: pairs(&[("a", &[1, 2])]), copies: Vec::new() };
    only_with(needed, &response(1, A, true), &[vec![records]]);
    // One after each pair.
    let text = response(2, &format!("{A} 00000001 00000009 {B} {B} 00000001 0000000b {A}"), true);
    let copies = vec![pairs(&[("b", b"")]), pairs(&[("a", &[1, 2])])];
    let record = OwnedRecord { pairs: pairs(&[("a", &[1, 2]), ("b", b"")]), copies };
    only_with(needed, &text, &[vec![record]]);
    // One after the only pair is not another form.
    let text = response(1, &format!("{A} 00000001 00000009 {B}"), true);
    assert!(parse(&hex(&text), &with(NONE)).is_ok());
    // None of them, and the error is that of the strict reader.
    let text = response(1, &format!("{A} {B} 00"), true);
    assert_eq!(parse(&hex(&text), &with(needed)).unwrap_err(), parse(&hex(&text), &with(NONE)).unwrap_err());
}

#[test]
fn nothing_at_all() {
    let needed = Tolerance { empty: true, ..NONE };
    only_with(needed, "01 00000001 02 00000000 00000000 03 04", &[]);
    let text = "01 00000001 02 00000002 00000018 00000000 00000000 00000001 00000008 00000000 00000000 03 04";
    only_with(needed, text, &[vec![], vec![command(&[])]]);
    // A copy of no pairs: without this option it can also be a pair of nothing without allocators.
    let text = hex(&response(1, &format!("{A} 00000000 00000000"), true));
    for (tolerance, copy) in
        [(needed, &[][..]), (Tolerance::ALL, &[]), (Tolerance { other_copies: true, ..NONE }, &[("", &b""[..])])]
    {
        assert_eq!(parse(&text, &with(tolerance)).unwrap().1.groups, [[answer(&[("a", &[1, 2])], copy)]]);
    }
    assert!(parse(&text, &with(NONE)).is_err());
    let text = response(0, &format!("00000001 00000009 {B}"), true);
    only_with(needed, &text, &[vec![answer(&[], &[("b", b"")])]]);
}

#[test]
fn what_is_never_tolerated() {
    let fails = |text: &str| assert!(parse(&hex(text), &with(Tolerance::ALL)).is_err(), "{text}");
    fails(&format!("01 00000001 02 {PING} 03 04 04"));
    fails(&format!("01 00000001 02 {} 03 04", PING.replace("0000000f", "0000000e")));
    fails(&format!("01 00000001 02 {} 03 04", PING.replace("636d64", "63ff64")));
    fails(&response(1, &format!("{A} {B} ffff"), true));
}
