//! What reading and writing cost: bytes of large values, and small records, with and without a checksum.
//!
//! `cargo bench -p wg-embed-wireproto`
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use wg_embed_wireproto::{
    Builder, Checksum, Decoder, Kind, Message, NewRecord, Pair, ReadOptions, Status, WriteOptions, encode,
};

const RUNS: u32 = 25;
const LARGE: usize = 1 << 20;
const LARGE_RECORDS: usize = 4;
const SMALL_RECORDS: usize = 10_000;

/// The shortest of some runs: the machine may have other things to do.
fn shortest(mut run: impl FnMut()) -> Duration {
    (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn report(what: &str, bytes: usize, records: usize, run: impl FnMut()) {
    let seconds = shortest(run).as_secs_f64();
    let (bytes, records) = (bytes as f64 / seconds / 1e9, records as f64 / seconds / 1e6);
    println!("{what:<52} {bytes:8.2} GB/s {records:9.2} M records/s");
}

/// Parses, and looks at every pair.
fn parse(bytes: &[u8]) {
    let message = Message::parse(bytes, &ReadOptions::default()).unwrap();
    for record in message.records() {
        for pair in record.pairs() {
            black_box(pair);
        }
    }
}

fn feed(bytes: &[u8], piece: usize) {
    let mut decoder = Decoder::new(ReadOptions::default());
    for mut input in bytes.chunks(piece) {
        while let Some(event) = decoder.read(&mut input).unwrap() {
            black_box(event);
        }
    }
    decoder.finish().unwrap();
}

fn messages(kind: Kind, checksum: bool, what: &str) {
    let options = WriteOptions { checksum, limit: usize::MAX, ..WriteOptions::default() };
    let value = vec![0x5a; LARGE];
    let copied = [Pair::new("cmd", b"ping")];
    let copy = (kind != Kind::Request).then_some(&copied[..]);
    let (large, small) = ([Pair::new("data", &value)], [Pair::new("cmd", b"ping"), Pair::new("id", b"12345")]);
    for (pairs, records, size) in
        [(&large[..], LARGE_RECORDS, "1 MiB values"), (&small[..], SMALL_RECORDS, "small records")]
    {
        let group = vec![NewRecord { pairs, copy }; records];
        let bytes = encode(kind, &[&group], &options).unwrap();
        let line = |how: &str, run: &mut dyn FnMut()| {
            report(&format!("{what}, {size}: {how}"), bytes.len(), records, run);
        };
        line("parse", &mut || parse(&bytes));
        line("stream, whole", &mut || feed(&bytes, usize::MAX));
        line("stream, pieces of 64 KiB", &mut || feed(&bytes, 64 << 10));
        line("encode", &mut || drop(black_box(encode(kind, &[&group], &options))));
        line("build", &mut || {
            let mut builder = Builder::new(kind, options);
            builder.group().unwrap();
            for record in &group {
                builder.record().unwrap();
                for pair in record.pairs {
                    builder.pair(pair.name, pair.value).unwrap();
                }
                if let Some(copy) = record.copy {
                    builder.copy().unwrap();
                    for pair in copy {
                        builder.pair(pair.name, pair.value).unwrap();
                    }
                }
            }
            black_box(builder.finish().unwrap());
        });
    }
}

fn main() {
    // `cargo test --benches` only shows that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bytes = vec![0x5a; LARGE];
    report("checksum alone", bytes.len(), 0, || {
        black_box(Checksum::of(black_box(&bytes)));
    });
    messages(Kind::Request, false, "request");
    messages(Kind::Request, true, "request with checksum");
    messages(Kind::Response(Status::Ack), true, "response");
}
