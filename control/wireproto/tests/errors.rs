//! Every error of the readers: which, in which field, at which offset; the same from both. And those of the writers.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use common::{Content, answer, built, command, encoded, feed, hex, parse, streamed};
use wg_embed_wireproto::{
    Accept, Builder, Decoder, Encoder, Error, Field, Kind, Message, Problem, ReadOptions, Status, Sum, WriteOptions,
};

/// Both readers report this, and the streaming one at all splits.
fn fails_with(text: &str, options: &ReadOptions, problem: Problem, field: Field, offset: u64) {
    let bytes = hex(text);
    let error = Error { problem, field, offset };
    assert_eq!(parse(&bytes, options), Err(error), "{text}");
    // The streaming one takes what follows for the next message.
    if matches!(problem, Problem::Trailing { .. }) {
        return;
    }
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(feed([first, second], options), Err(error), "{text} {at}");
    }
    assert_eq!(feed(bytes.chunks(1), options), Err(error), "{text}");
    assert!(error.to_string().starts_with(&format!("byte {offset}: {}: ", field.name())));
}

fn fails(text: &str, problem: Problem, field: Field, offset: u64) {
    fails_with(text, &ReadOptions::default(), problem, field, offset);
}

/// A request with these groups.
fn body(text: &str) -> String {
    format!("01 00000001 02 {text} 03 04")
}

#[test]
fn every_truncation_is_reported_in_its_field() {
    let bytes = hex("06 1b b42e1fa7 01 00000001 02 | 00000001 00000046 | 00000001 0000003e | 00000001 00000036 |
        00000006 00000004 726573756c74 706f6e67 |
        00000002 0000001c 00000003 00000004 636d64 70696e67 00000003 00000002 617267 00ff | 03 04");
    // Where each field begins and ends.
    let fields = [
        (0, 1, Field::Status),
        (1, 2, Field::ChecksumStart),
        (2, 6, Field::Checksum),
        (6, 7, Field::MessageStart),
        (7, 11, Field::Version),
        (11, 12, Field::BodyStart),
        (12, 16, Field::GroupCount),
        (16, 20, Field::GroupsSize),
        (20, 24, Field::RecordCount),
        (24, 28, Field::RecordsSize),
        (28, 32, Field::PairCount),
        (32, 36, Field::PairsSize),
        (36, 90, Field::Record),
        (90, 91, Field::BodyEnd),
        (91, 92, Field::MessageEnd),
    ];
    for len in 0..bytes.len() {
        let (start, end, field) = *fields.iter().find(|(start, end, _)| (*start..*end).contains(&len)).unwrap();
        let error = Error { problem: Problem::Truncated { missing: (end - len) as u64 }, field, offset: start as u64 };
        assert_eq!(Message::parse(&bytes[..len], &ReadOptions::default()).unwrap_err(), error);
        // Between messages the end of a stream is no error.
        if len > 0 {
            for chunk in [1, 7, 100] {
                assert_eq!(feed(bytes[..len].chunks(chunk), &ReadOptions::default()), Err(error));
            }
        }
    }
}

#[test]
fn bytes_after_a_message() {
    let whole = body("00000001 0000001f 00000001 00000017 00000001 0000000f 00000003 00000004 636d64 70696e67");
    fails(&format!("{whole} 04 00"), Problem::Trailing { bytes: 2 }, Field::Rest, 47);
    let two = hex(&format!("{whole} {whole}"));
    let (first, rest) = Message::parse_first(&two, &ReadOptions::default()).unwrap();
    assert_eq!((first.records().count(), rest.len()), (1, 47));
    assert_eq!(feed([&two[..]], &ReadOptions::default()).unwrap().len(), 2);
}

#[test]
fn bytes_that_must_be_others() {
    let unexpected = |text: &str, found, field, offset| fails(text, Problem::Unexpected { found }, field, offset);
    unexpected("00", 0, Field::Status, 0);
    unexpected("16", 0x16, Field::Status, 0);
    unexpected("06 02", 2, Field::ChecksumStart, 1);
    unexpected("1b 00000000 1b", 0x1b, Field::MessageStart, 5);
    unexpected("01 00000001 01", 1, Field::BodyStart, 5);
    let one = "00000001 00000019 00000001 00000011 00000001 00000009 00000001 00000000 78";
    unexpected(&format!("01 00000001 02 {one} 04"), 4, Field::BodyEnd, 39);
    unexpected(&format!("01 00000001 02 {one} 03 03"), 3, Field::MessageEnd, 40);
}

#[test]
fn messages_that_are_not_accepted() {
    let only = |accept| ReadOptions { accept, ..ReadOptions::default() };
    for request in ["01", "1b"] {
        fails_with(request, &only(Accept::Responses), Problem::NotAccepted, Field::Status, 0);
    }
    for response in ["06", "15"] {
        fails_with(response, &only(Accept::Requests), Problem::NotAccepted, Field::Status, 0);
    }
}

#[test]
fn versions() {
    for (text, found) in [("00000000", 0), ("00000002", 2), ("01000000", 0x0100_0000)] {
        fails(&format!("01 {text}"), Problem::Version { found }, Field::Version, 1);
    }
}

#[test]
fn checksums() {
    let text = "1b c9c6b436 01 00000001 02 | 00000001 0000002c | 00000001 00000024 | 00000002 0000001c |
        00000003 00000004 636d64 70696e67 | 00000003 00000002 617267 00ff | 03 04";
    let wrong = Problem::Checksum { announced: 0xc9c6_b436, computed: 0xc9c6_b437 };
    fails(text, wrong, Field::Checksum, 1);
    fails("06 01", Problem::NoChecksum, Field::ChecksumStart, 1);
    fails("15 01", Problem::NoChecksum, Field::ChecksumStart, 1);
}

#[test]
fn the_limit_is_checked_before_anything_else_of_the_body() {
    let limit = ReadOptions::default().limit as u64;
    let problem = Problem::TooLarge { size: 16 + u64::from(u32::MAX), limit };
    fails(&body("00000001 ffffffff"), problem, Field::GroupsSize, 10);
    fails(&body("00000000 ffffffff"), problem, Field::GroupsSize, 10);
    let bytes = hex(&body("00000001 00000019 00000001 00000011 00000001 00000009 00000001 00000000 78"));
    let limited = |limit| ReadOptions { limit, ..ReadOptions::default() };
    assert!(parse(&bytes, &limited(bytes.len())).is_ok());
    let error = parse(&bytes, &limited(bytes.len() - 1)).unwrap_err();
    assert_eq!(error.problem, Problem::TooLarge { size: 41, limit: 40 });
}

#[test]
fn nothing_where_there_must_be_something() {
    fails(&body("00000000 00000000"), Problem::Empty, Field::GroupCount, 6);
    fails(&body("00000001 00000008 00000000 00000000"), Problem::Empty, Field::RecordCount, 14);
    fails(&body("00000001 00000010 00000001 00000008 00000000 00000000"), Problem::Empty, Field::PairCount, 22);
    // The copy of a response.
    fails(
        "06 1b 00000000 01 00000001 02 | 00000001 00000021 | 00000001 00000019 | 00000001 00000011 |
         00000001 00000000 78 | 00000000 00000000",
        Problem::Empty,
        Field::CopyCount,
        45,
    );
}

#[test]
fn counts_that_do_not_fit_in_their_sizes() {
    fails(&body("00000002 0000000f"), Problem::Count { count: 2, size: 15 }, Field::GroupCount, 6);
    fails(&body("ffffffff 00000010"), Problem::Count { count: u32::MAX, size: 16 }, Field::GroupCount, 6);
    fails(&body("00000001 00000010 00000002 00000008"), Problem::Count { count: 2, size: 8 }, Field::RecordCount, 14);
    fails(
        &body("00000001 00000018 00000001 00000010 00000002 00000008"),
        Problem::Count { count: 2, size: 8 },
        Field::PairCount,
        22,
    );
    fails(
        "06 1b 00000000 01 00000001 02 | 00000001 00000021 | 00000001 00000019 | 00000001 00000011 |
         00000001 00000000 78 | 00000001 00000000",
        Problem::Count { count: 1, size: 0 },
        Field::CopyCount,
        45,
    );
}

#[test]
fn children_that_do_not_fit_in_their_parents() {
    let exceeds = |text: &str, size, left, field, offset| {
        fails(&body(text), Problem::Exceeds { size, left }, field, offset);
    };
    exceeds("00000001 00000019 00000001 00000012", 18, 17, Field::RecordsSize, 18);
    // The second group needs its allocators.
    exceeds("00000002 00000032 00000001 00000023", 35, 34, Field::RecordsSize, 18);
    exceeds("00000001 00000019 00000001 00000011 00000001 0000000a", 10, 9, Field::PairsSize, 26);
    let record = "00000001 00000019 00000001 00000011 00000001 00000009";
    exceeds(&format!("{record} 00000002 00000000 78"), 2, 1, Field::NameSize, 30);
    exceeds(&format!("{record} 00000001 00000001 78"), 1, 0, Field::ValueSize, 34);
    exceeds(&format!("{record} ffffffff ffffffff 78"), u32::MAX.into(), 1, Field::NameSize, 30);
    exceeds(&format!("{record} 00000000 ffffffff 78"), u32::MAX.into(), 1, Field::ValueSize, 34);
}

#[test]
fn parents_that_are_not_filled() {
    let left_over = |text: &str, bytes, field, offset| {
        fails(&body(text), Problem::LeftOver { bytes }, field, offset);
    };
    left_over("00000001 0000001a 00000001 00000011", 1, Field::RecordsSize, 18);
    left_over("00000001 00000021 00000001 00000019 00000001 00000009", 8, Field::PairsSize, 26);
    let record = "00000001 0000001b 00000001 00000013 00000001 0000000b";
    left_over(&format!("{record} 00000001 00000000 78 0000"), 2, Field::ValueSize, 34);
}

#[test]
fn copies_of_responses() {
    let with = |size: u8, copy: &str| {
        format!(
            "06 1b 00000000 01 00000001 02 | 00000001 000000{:02x} | 00000001 000000{:02x} | 00000001 000000{size:02x} |
             00000001 00000000 78 | {copy}",
            size + 16,
            size + 8
        )
    };
    fails(&with(9, ""), Problem::NoCopy, Field::CopyCount, 45);
    fails(&with(12, "000000"), Problem::Exceeds { size: 8, left: 3 }, Field::CopyCount, 45);
    fails(&with(25, "00000001 00000009 0000000000000001"), Problem::Exceeds { size: 9, left: 8 }, Field::CopySize, 49);
    fails(&with(27, "00000001 00000009 0000000000000001 78 00"), Problem::LeftOver { bytes: 1 }, Field::CopySize, 49);
    fails(&with(27, "00000001 0000000a 0000000000000001 78 00"), Problem::LeftOver { bytes: 1 }, Field::ValueSize, 57);
    // A request has none.
    fails(
        &body(
            "00000001 0000002a 00000001 00000022 00000001 0000001a 00000001 00000000 78
             00000001 00000009 0000000000000001 78",
        ),
        Problem::LeftOver { bytes: 17 },
        Field::ValueSize,
        34,
    );
}

#[test]
fn names_are_utf8() {
    let record = "00000001 0000001c 00000001 00000014 00000001 0000000c 00000004 00000000";
    fails(&body(&format!("{record} 6162ff61")), Problem::NotUtf8, Field::Name, 40);
    // Cut in the middle of a character.
    fails(&body(&format!("{record} 616263c3")), Problem::NotUtf8, Field::Name, 41);
    assert!(parse(&hex(&body(&format!("{record} 6162c3a4"))), &ReadOptions::default()).is_ok());
}

#[test]
fn a_decoder_stays_where_it_failed() {
    let mut decoder = Decoder::new(ReadOptions::default());
    let mut input: &[u8] = &[0xff, 1, 2];
    let error = decoder.read(&mut input).unwrap_err();
    assert_eq!(error.offset, 0);
    let mut input: &[u8] = &[1, 0, 0, 0, 1];
    assert_eq!(decoder.read(&mut input), Err(error));
    assert_eq!(decoder.finish(), Err(error));
    assert!(!decoder.is_between());
}

#[test]
fn a_decoder_counts_what_it_took() {
    let bytes = hex(&body("00000001 00000019 00000001 00000011 00000001 00000009 00000001 00000000 78"));
    let mut decoder = Decoder::new(ReadOptions::default());
    for (taken, byte) in bytes.iter().enumerate() {
        assert_eq!((decoder.offset(), decoder.is_between()), (taken as u64, taken == 0));
        let mut input = std::slice::from_ref(byte);
        while decoder.read(&mut input).unwrap().is_some() {}
    }
    assert_eq!((decoder.offset(), decoder.is_between()), (0, true));
}

fn problem<T: std::fmt::Debug>(result: Result<T, Error>) -> (Problem, Field) {
    let error = result.unwrap_err();
    (error.problem, error.field)
}

#[test]
fn writers_refuse_what_readers_would_refuse() {
    let options = WriteOptions::default();
    let answered = answer(&[("a", b"")], &[("b", b"")]);
    let asked = command(&[("a", b"")]);
    let (request, response) = (Kind::Request, Kind::Response(Status::Nak));
    let no_pairs = answer(&[], &[("b", b"")]);
    let no_copied_pairs = answer(&[("a", b"")], &[]);
    for (kind, groups, expected) in [
        (request, vec![], (Problem::Empty, Field::GroupCount)),
        (request, vec![vec![]], (Problem::Empty, Field::RecordCount)),
        (request, vec![vec![command(&[])]], (Problem::Empty, Field::PairCount)),
        (response, vec![vec![no_pairs]], (Problem::Empty, Field::PairCount)),
        (response, vec![vec![no_copied_pairs]], (Problem::Empty, Field::CopyCount)),
        (request, vec![vec![answered]], (Problem::Sequence, Field::CopyCount)),
        (response, vec![vec![asked]], (Problem::NoCopy, Field::CopyCount)),
    ] {
        let content = Content { kind, groups };
        assert_eq!(problem(encoded(&content, &options)), expected);
        assert_eq!(problem(built(&content, &options, 9)), expected);
        streamed(&content, &options, 9).unwrap_err();
    }
    let content = Content { kind: request, groups: vec![vec![command(&[("name", &[0; 100])])]] };
    let len = encoded(&content, &options).unwrap().len();
    let limited = |limit| WriteOptions { limit, ..options };
    for write in
        [encoded, |c: &Content, o: &WriteOptions| built(c, o, 7), |c: &Content, o: &WriteOptions| streamed(c, o, 7)]
    {
        assert_eq!(write(&content, &limited(len)).unwrap().len(), len);
        let (problem, _) = problem(write(&content, &limited(len - 1)));
        assert!(matches!(problem, Problem::TooLarge { limit, .. } if limit == len as u64 - 1));
    }
}

#[test]
fn a_builder_that_refuses_goes_on() {
    let mut builder = Builder::new(Kind::Response(Status::Ack), WriteOptions::default());
    assert_eq!(problem(builder.record()), (Problem::Sequence, Field::PairCount));
    assert_eq!(problem(builder.pair("a", b"")), (Problem::Sequence, Field::NameSize));
    assert_eq!(problem(builder.copy()), (Problem::Sequence, Field::CopyCount));
    assert_eq!(problem(builder.value(b"")), (Problem::Sequence, Field::Value));
    builder.group().unwrap();
    assert_eq!(problem(builder.group()), (Problem::Empty, Field::RecordCount));
    builder.record().unwrap();
    assert_eq!(problem(builder.copy()), (Problem::Empty, Field::PairCount));
    builder.pair("a", b"1").unwrap();
    assert_eq!(problem(builder.record()), (Problem::NoCopy, Field::CopyCount));
    builder.copy().unwrap();
    assert_eq!(problem(builder.value(b"2")), (Problem::Sequence, Field::Value));
    assert_eq!(problem(builder.copy()), (Problem::Sequence, Field::CopyCount));
    assert_eq!(problem(builder.record()), (Problem::Empty, Field::CopyCount));
    builder.pair("b", b"").unwrap().value(b"23").unwrap();
    let (_, content) = parse(&builder.finish().unwrap(), &ReadOptions::default()).unwrap();
    assert_eq!(content.groups, [[answer(&[("a", b"1")], &[("b", b"23")])]]);
}

#[test]
fn a_copy_is_written_whole_or_not_at_all() {
    for source in [WriteOptions::default(), common::writer(wg_embed_wireproto::Order::Little, false)] {
        let mut request = Builder::new(Kind::Request, source);
        request.group().unwrap().record().unwrap().pair("a", &[7; 50]).unwrap().pair("b", &[8; 50]).unwrap();
        let request = request.finish().unwrap();
        let message = Message::parse(&request, &common::reader(source.order)).unwrap();
        let copied = message.records().next().unwrap().pairs();
        let respond = |limit| {
            let options = WriteOptions { limit, ..WriteOptions::default() };
            let mut response = Builder::new(Kind::Response(Status::Ack), options);
            response.group().unwrap().record().unwrap().pair("c", b"").unwrap();
            let refused = response.copy_of(copied).err();
            if refused.is_some() {
                response.value(b"not copied").unwrap().copy().unwrap().pair("", b"").unwrap();
            }
            (refused, parse(&response.finish().unwrap(), &ReadOptions::default()).unwrap().1.groups)
        };
        let (refused, whole) = respond(1000);
        assert_eq!(refused, None);
        assert_eq!(whole, [[answer(&[("c", b"")], &[("a", &[7; 50]), ("b", &[8; 50])])]]);
        let (refused, other) = respond(150);
        assert!(matches!(refused.unwrap().problem, Problem::TooLarge { .. }));
        assert_eq!(other, [[answer(&[("c", b"not copied")], &[("", b"")])]]);
    }
}

#[test]
fn an_encoder_that_refuses_appends_nothing_and_goes_on() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(Kind::Response(Status::Ack), WriteOptions::default());
    type Call<'a> = &'a dyn Fn(&mut Encoder, &mut Vec<u8>) -> Result<(), Error>;
    let refuse = |encoder: &mut Encoder, call: Call<'_>, expected: (Problem, Field)| {
        let mut out = Vec::new();
        assert_eq!(problem(call(encoder, &mut out)), expected);
        assert!(out.is_empty());
    };
    let sequence = |field| (Problem::Sequence, field);
    refuse(&mut encoder, &|e, out| e.group(out, 1, 9), sequence(Field::RecordCount));
    refuse(&mut encoder, &|e, out| e.finish(out).map(|_| ()), sequence(Field::BodyEnd));
    refuse(&mut encoder, &|e, out| e.start(out, Sum::None, 1, 60), (Problem::NoChecksum, Field::ChecksumStart));
    refuse(&mut encoder, &|e, out| e.start(out, Sum::Later, 0, 60), (Problem::Empty, Field::GroupCount));
    encoder.start(&mut out, Sum::Known(1), 1, 42).unwrap();
    refuse(&mut encoder, &|e, out| e.start(out, Sum::Later, 1, 42), sequence(Field::MessageStart));
    refuse(&mut encoder, &|e, out| e.record(out, 1, 9), sequence(Field::PairCount));
    refuse(&mut encoder, &|e, out| e.group(out, 1, 35), (Problem::Exceeds { size: 35, left: 34 }, Field::RecordsSize));
    refuse(&mut encoder, &|e, out| e.group(out, 1, 33), (Problem::LeftOver { bytes: 1 }, Field::RecordsSize));
    encoder.group(&mut out, 1, 34).unwrap();
    refuse(&mut encoder, &|e, out| e.group(out, 1, 34), sequence(Field::RecordCount));
    refuse(&mut encoder, &|e, out| e.pair(out, "a", b""), sequence(Field::NameSize));
    encoder.record(&mut out, 1, 26).unwrap();
    refuse(&mut encoder, &|e, out| e.copy(out, 1, 9), sequence(Field::CopyCount));
    refuse(
        &mut encoder,
        &|e, out| e.pair(out, "a", &[0; 18]),
        (Problem::Exceeds { size: 18, left: 17 }, Field::ValueSize),
    );
    encoder.pair(&mut out, "a", b"").unwrap();
    refuse(&mut encoder, &|e, out| e.pair(out, "a", b""), sequence(Field::NameSize));
    refuse(&mut encoder, &|e, out| e.finish(out).map(|_| ()), sequence(Field::BodyEnd));
    encoder.copy(&mut out, 1, 9).unwrap();
    encoder.pair_head(&mut out, "", 1).unwrap();
    refuse(&mut encoder, &|e, _| e.value(b"12"), (Problem::Exceeds { size: 2, left: 1 }, Field::Value));
    refuse(&mut encoder, &|e, out| e.finish(out).map(|_| ()), sequence(Field::BodyEnd));
    encoder.value(b"1").unwrap();
    let error = encoder.finish(&mut out).unwrap_err();
    let Problem::Checksum { announced: 1, computed } = error.problem else { panic!("{error}") };
    assert_ne!(computed, 1);
}
