//! Any message: all writers make the same bytes, both readers find what was written at any split, and agree on
//! damaged ones.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use common::{Content, OwnedPairs, OwnedRecord, built, encoded, feed, parse, streamed};
use proptest::{collection::vec, prelude::*};
use wg_embed_wireproto::{Kind, Order, Problem, ReadOptions, Status, Tolerance, WriteOptions};

fn pairs() -> impl Strategy<Value = OwnedPairs> {
    let name = prop_oneof![Just(String::new()), "[a-z]{1,8}", "\\PC{0,5}"];
    let value = prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 0..2000)];
    vec((name, value), 1..5)
}

fn content() -> impl Strategy<Value = Content> {
    let kind = prop_oneof![Just(Kind::Request), Just(Kind::Response(Status::Ack)), Just(Kind::Response(Status::Nak))];
    let groups = vec(vec((pairs(), pairs()), 1..4), 1..4);
    (kind, groups).prop_map(|(kind, groups)| {
        let record = |(pairs, copy)| {
            let copies = if kind == Kind::Request { Vec::new() } else { vec![copy] };
            OwnedRecord { pairs, copies }
        };
        Content { kind, groups: groups.into_iter().map(|group| group.into_iter().map(record).collect()).collect() }
    })
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Big), Just(Order::Little)]
}

fn tolerance() -> impl Strategy<Value = Tolerance> {
    any::<[bool; 7]>().prop_map(|[a, b, c, d, e, f, g]| Tolerance {
        other_order: a,
        missing_body_end: b,
        missing_checksum: c,
        little_endian_checksum: d,
        other_copies: e,
        empty: f,
        experimental_version: g,
    })
}

/// `bytes` in pieces whose lengths are `lens`, and the rest.
fn pieces<'a>(mut bytes: &'a [u8], lens: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for len in lens {
        let (piece, rest) = bytes.split_at((*len).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        content in content(),
        order in order(),
        checksum: bool,
        cut in 1_usize..50,
        lens in vec(0_usize..200, 0..30),
    ) {
        let write = WriteOptions { order, checksum, ..WriteOptions::default() };
        let read = common::reader(order);
        let bytes = encoded(&content, &write).unwrap();
        prop_assert_eq!(&built(&content, &write, cut).unwrap(), &bytes);
        prop_assert_eq!(&streamed(&content, &write, cut).unwrap(), &bytes);
        let (head, parsed) = parse(&bytes, &read).unwrap();
        prop_assert_eq!(&parsed, &content);
        // Three on one stream.
        let all = [&bytes[..], &bytes, &bytes].concat();
        let message = (head, parsed);
        prop_assert_eq!(feed(pieces(&all, &lens), &read).unwrap(), vec![message.clone(); 3]);
        prop_assert_eq!(feed(bytes.chunks(1), &read).unwrap(), vec![message.clone()]);
        // A strict message is what it was with every tolerance.
        let tolerant = ReadOptions { tolerance: Tolerance::ALL, ..read };
        prop_assert_eq!(parse(&bytes, &tolerant).unwrap(), message);
    }

    #[test]
    fn both_readers_agree_on_damaged_messages(
        content in content(),
        order in order(),
        checksum: bool,
        tolerance in tolerance(),
        damages in vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), 0_u8..4]), 1..4),
        end in any::<prop::sample::Index>(),
        lens in vec(0_usize..60, 0..30),
    ) {
        let mut bytes = encoded(&content, &WriteOptions { order, checksum, ..WriteOptions::default() }).unwrap();
        for (index, byte) in damages {
            // Most of them in front, where the allocators are.
            let at = index.index(bytes.len().min(64));
            bytes[at] = byte;
        }
        let whole = bytes.len();
        bytes.truncate(whole - end.index(whole) / 4);
        agree(&bytes, &lens, &ReadOptions { order, tolerance, ..ReadOptions::default() })?;
    }

    #[test]
    fn both_readers_agree_on_anything(
        bytes in vec(prop_oneof![any::<u8>(), 0_u8..4, Just(0)], 0..200),
        tolerance in tolerance(),
        lens in vec(0_usize..60, 0..10),
    ) {
        let head = [1, 0, 0, 0, 1, 2];
        let options = ReadOptions { tolerance, ..ReadOptions::default() };
        agree(&bytes, &lens, &options)?;
        agree(&[&head, &bytes[..]].concat(), &lens, &options)?;
    }
}

fn agree(bytes: &[u8], lens: &[usize], options: &ReadOptions) -> Result<(), TestCaseError> {
    if let Err(error) = parse(bytes, options) {
        prop_assert!(error.offset <= bytes.len() as u64, "{}", error);
    }
    match (parse(bytes, options), feed(pieces(bytes, lens), options)) {
        (Ok(message), messages) => prop_assert_eq!(messages, Ok(vec![message])),
        (Err(error), _) if matches!(error.problem, Problem::Trailing { .. }) => {}
        (Err(_), messages) if bytes.is_empty() => prop_assert_eq!(messages, Ok(Vec::new())),
        (Err(error), messages) => prop_assert_eq!(messages, Err(error)),
    }
    Ok(())
}
