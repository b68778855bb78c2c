//! WireProto: both readers agree on any input in any pieces, and a message that the strict one accepts is, written
//! again, the same bytes.
//!
//! The input is two bytes for options, one for the length of pieces, and messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wg_embed_wireproto::{
    Builder, Decoder, Error, Event, Kind, Message, Order, Pairs, Problem, ReadOptions, Record, Tolerance, WriteOptions,
};

/// All of a record: for each pair the length of its name, and its bytes.
type Summary = Vec<(usize, Vec<u8>)>;

fn summary(record: &Record<'_>) -> Summary {
    let pairs = |pairs: Pairs<'_>| {
        assert_eq!(pairs.iter().count(), pairs.len());
        pairs.iter().map(|pair| (pair.name.len(), [pair.name.as_bytes(), pair.value].concat())).collect::<Vec<_>>()
    };
    let mut all = pairs(record.pairs());
    for copy in record.copies() {
        all.push((usize::MAX, Vec::new()));
        all.extend(pairs(copy));
    }
    all
}

/// What the static reader finds in the first message; and how long that is.
fn parse(bytes: &[u8], options: &ReadOptions) -> Result<(Vec<Summary>, usize), Error> {
    let (message, rest) = Message::parse_first(bytes, options)?;
    Ok((message.records().map(|record| summary(&record)).collect(), bytes.len() - rest.len()))
}

/// What the streaming reader finds in it.
fn feed(bytes: &[u8], piece: usize, options: &ReadOptions) -> Result<Vec<Summary>, Error> {
    let mut decoder = Decoder::new(*options);
    let mut records = Vec::new();
    for mut input in bytes.chunks(piece) {
        while let Some(event) = decoder.read(&mut input)? {
            match event {
                Event::Record(record) => records.push(summary(&record)),
                Event::End => return Ok(records),
                Event::Start(_) | Event::Group { .. } => {}
            }
        }
    }
    decoder.finish()?;
    Ok(records)
}

/// Writes again what was read.
fn rebuild(message: &Message<'_>) -> Result<Vec<u8>, Error> {
    let head = message.head();
    let options = WriteOptions { order: head.order, checksum: head.checksum.is_some(), ..WriteOptions::default() };
    let mut builder = Builder::new(head.kind, options);
    for group in message.groups() {
        builder.group()?;
        for record in group.records() {
            builder.record()?;
            for pair in record.pairs() {
                builder.pair(pair.name, pair.value)?;
            }
            if let Some(copy) = record.copy() {
                builder.copy_of(copy)?;
            }
        }
    }
    builder.finish()
}

fuzz_target!(|input: &[u8]| {
    let [flags, more, piece, bytes @ ..] = input else { return };
    let on = |bit: u8| flags >> bit & 1 == 1;
    let options = ReadOptions {
        order: if more & 1 == 1 { Order::Little } else { Order::Big },
        limit: if more & 2 == 2 { 100 } else { 16 << 20 },
        tolerance: Tolerance {
            other_order: on(0),
            missing_body_end: on(1),
            missing_checksum: on(2),
            little_endian_checksum: on(3),
            other_copies: on(4),
            empty: on(5),
            experimental_version: on(6),
        },
        ..ReadOptions::default()
    };
    match (parse(bytes, &options), feed(bytes, usize::from(*piece).max(1), &options)) {
        (Ok((records, len)), streamed) => {
            assert_eq!(streamed, Ok(records));
            assert!(len <= options.limit);
        }
        (Err(error), Ok(records)) => {
            assert!(bytes.is_empty() && records.is_empty(), "{error}");
        }
        (Err(error), Err(streamed)) => {
            assert_eq!(streamed, error);
            assert!(error.offset <= bytes.len() as u64 && !matches!(error.problem, Problem::Sequence));
        }
    }
    let strict = ReadOptions { tolerance: Tolerance::default(), ..options };
    if let Ok((message, rest)) = Message::parse_first(bytes, &strict) {
        assert!(message.head().kind == Kind::Request || message.head().checksum.is_some());
        assert_eq!(rebuild(&message).as_deref(), Ok(&bytes[..bytes.len() - rest.len()]));
    }
});
