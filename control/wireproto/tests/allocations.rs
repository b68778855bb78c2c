//! Readers allocate nothing where they borrow, and never what was only announced; a lack of memory is an error. An
//! allocator counts, and refuses.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unsafe_code,
    reason = "a test may fail loudly, and an allocator is unsafe by nature"
)]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
    ptr,
};

use common::{Content, answer, command, encoded, hex, reader, writer};
use wg_embed_wireproto::{
    Builder, Decoder, Encoder, Error, Field, Kind, Message, NewRecord, Order, Pair, Problem, ReadOptions, Status, Sum,
    Tolerance, WriteOptions, encode,
};

thread_local! {
    /// How often this thread has allocated, and the bytes of all that.
    static TAKEN: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// The largest block that this thread gets.
    static LARGEST: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Counting;

fn is_refused(bytes: usize) -> bool {
    LARGEST.try_with(|largest| bytes > largest.get()).unwrap_or(false)
}

fn count(bytes: usize) {
    let _ = TAKEN.try_with(|taken| {
        let (times, before) = taken.get();
        taken.set((times + 1, before + bytes));
    });
}

// SAFETY: everything is the system allocator's, or no memory; beside it numbers are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract is this one's.
        if is_refused(layout.size()) { ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is this one's.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's contract is this one's.
        if is_refused(size) { ptr::null_mut() } else { unsafe { System.realloc(block, layout, size) } }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `call` allocates, and the bytes of all that.
fn taken_by(call: impl FnOnce()) -> (usize, usize) {
    let before = TAKEN.get();
    call();
    let after = TAKEN.get();
    (after.0 - before.0, after.1 - before.1)
}

fn contents() -> [Content; 2] {
    let value = vec![7; 5000];
    let asked: Vec<_> = (0..50).map(|_| command(&[("cmd", b"ping"), ("arg", &value)])).collect();
    let answered = (0..50).map(|_| answer(&[("result", &value)], &[("cmd", b"ping"), ("arg", &value)])).collect();
    [
        Content { kind: Kind::Request, groups: vec![asked.clone(), asked] },
        Content { kind: Kind::Response(Status::Ack), groups: vec![answered] },
    ]
}

fn is_within(outer: &[u8], inner: &[u8]) -> bool {
    let (outer, inner) = (outer.as_ptr_range(), inner.as_ptr_range());
    outer.start <= inner.start && inner.end <= outer.end
}

#[test]
fn the_counter_counts() {
    assert_eq!(taken_by(|| drop(black_box(vec![0_u8; 1000]))), (1, 1000));
}

#[test]
fn a_message_in_memory_is_parsed_without_an_allocation() {
    for content in contents() {
        for order in [Order::Big, Order::Little] {
            let bytes = encoded(&content, &writer(order, true)).unwrap();
            for tolerance in [Tolerance::default(), Tolerance::ALL] {
                let options = ReadOptions { tolerance, ..reader(order) };
                let mut pairs = 0;
                let taken = taken_by(|| {
                    let message = Message::parse(&bytes, &options).unwrap();
                    for record in message.records() {
                        for pair in record.pairs().iter().chain(record.copies().flatten()) {
                            assert!(is_within(&bytes, pair.value) && is_within(&bytes, pair.name.as_bytes()));
                            pairs += 1;
                        }
                        black_box(record.pairs().get("arg"));
                    }
                });
                assert_eq!(taken, (0, 0));
                assert_eq!(pairs, if content.kind == Kind::Request { 200 } else { 150 });
            }
        }
    }
}

#[test]
fn errors_cost_no_allocation() {
    let mut bytes = encoded(&contents()[0], &writer(Order::Big, true)).unwrap();
    let len = bytes.len();
    bytes[len / 2] ^= 1;
    for bytes in [&bytes[..], &bytes[..len / 2], &[]] {
        assert_eq!(taken_by(|| assert!(Message::parse(bytes, &ReadOptions::default()).is_err())), (0, 0));
    }
}

#[test]
fn whole_records_in_a_stream_are_borrowed() {
    let bytes = encoded(&contents()[0], &writer(Order::Big, true)).unwrap();
    let mut decoder = Decoder::new(ReadOptions::default());
    let taken = taken_by(|| {
        let mut input = &bytes[..];
        while let Some(event) = decoder.read(&mut input).unwrap() {
            black_box(event);
        }
    });
    assert_eq!(taken, (0, 0));
    assert!(decoder.is_between());
}

#[test]
fn memory_grows_with_what_has_arrived() {
    // A record of 16 MB, of which 3000 bytes come.
    let mut input = hex("01 00000001 02 00000001 00f00010 00000001 00f00008 00000001 00f00000 00000000 00effff8");
    input.resize(3000, 7);
    let mut decoder = Decoder::new(ReadOptions::default());
    let (_, bytes) = taken_by(|| {
        for mut piece in input.chunks(100) {
            while decoder.read(&mut piece).unwrap().is_some() {}
        }
    });
    assert_eq!(decoder.offset(), 3000);
    // It doubles, and each time what there was is counted again.
    assert!((3000..4 * 3000).contains(&bytes), "{bytes}");
}

#[test]
fn a_message_of_known_records_is_one_allocation() {
    let value = vec![7; 100_000];
    let pairs = [Pair::new("name", &value)];
    let records = [NewRecord { pairs: &pairs, copy: None }; 10];
    let (times, bytes) = taken_by(|| {
        let message = encode(Kind::Request, &[&records], &writer(Order::Big, true)).unwrap();
        assert!(message.len() > 1_000_000);
    });
    assert_eq!(times, 1);
    assert!(bytes < 1_001_000, "{bytes}");
}

/// What `call` returns if no block may have more than 4000 bytes.
fn with_little_memory<T>(call: impl FnOnce() -> T) -> T {
    LARGEST.set(4000);
    let outcome = call();
    LARGEST.set(usize::MAX);
    outcome
}

#[test]
fn a_lack_of_memory_is_an_error() {
    let no_memory = |field, offset| Error { problem: Problem::NoMemory, field, offset };
    let value = vec![7; 5000];
    let pairs = [Pair::new("name", &value)];
    let records = [NewRecord { pairs: &pairs, copy: None }];
    let options = WriteOptions::default();
    let encoded = with_little_memory(|| encode(Kind::Request, &[&records], &options));
    assert_eq!(encoded, Err(no_memory(Field::Groups, 0)));
    let whole = encode(Kind::Request, &[&records], &options).unwrap();

    let mut builder = Builder::new(Kind::Request, options);
    builder.group().unwrap().record().unwrap();
    let refused = with_little_memory(|| builder.pair("name", &value).err());
    assert_eq!(refused, Some(no_memory(Field::NameSize, 30)));
    builder.pair("name", &value).unwrap();
    assert_eq!(builder.finish().unwrap(), whole);

    let mut encoder = Encoder::new(Kind::Request, options);
    let mut out = Vec::new();
    encoder.start(&mut out, Sum::None, 1, 5028).unwrap();
    encoder.group(&mut out, 1, 5020).unwrap();
    encoder.record(&mut out, 1, 5012).unwrap();
    let refused = with_little_memory(|| encoder.pair(&mut out, "name", &value));
    assert_eq!(refused, Err(no_memory(Field::NameSize, 30)));
    encoder.pair(&mut out, "name", &value).unwrap();
    encoder.finish(&mut out).unwrap();
    assert_eq!(out, whole);

    let mut decoder = Decoder::new(ReadOptions::default());
    let (mut first, mut second) = whole.split_at(4500);
    let mut read = |input: &mut &[u8]| loop {
        match decoder.read(input) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    };
    assert_eq!(with_little_memory(|| read(&mut first)), Err(no_memory(Field::Record, 30)));
    assert_eq!(read(&mut second), Err(no_memory(Field::Record, 30)));
}
