//! Worked examples: each writer makes exactly these bytes, and each reader finds what was written, at all splits.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use common::{Content, answer, built, command, encoded, feed, hex, parse, reader, streamed, writer};
use wg_embed_wireproto::{Kind, Order, Status};

const PING: &[(&str, &[u8])] = &[("cmd", b"ping")];
const PING_WITH_ARGUMENT: &[(&str, &[u8])] = &[("cmd", b"ping"), ("arg", &[0x00, 0xff])];

fn check(content: &Content, order: Order, checksum: bool, len: usize, bytes: &str) {
    let bytes = hex(bytes);
    assert_eq!(bytes.len(), len);
    let (read, write) = (reader(order), writer(order, checksum));
    assert_eq!(encoded(content, &write).unwrap(), bytes);
    for cut in [1, 2, 100] {
        assert_eq!(built(content, &write, cut).unwrap(), bytes);
        assert_eq!(streamed(content, &write, cut).unwrap(), bytes);
    }
    let (head, parsed) = parse(&bytes, &read).unwrap();
    assert_eq!(parsed, *content);
    assert_eq!(head.checksum.is_some(), checksum || content.kind != Kind::Request);
    assert_eq!((head.version, head.order), (1, order));
    let expected = Ok(vec![(head, parsed)]);
    for first in 0..=len {
        for second in first..=len {
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(feed(pieces, &read), expected, "{first} {second}");
        }
    }
    assert_eq!(feed(bytes.chunks(1), &read), expected);
}

fn request(groups: Vec<Vec<common::OwnedRecord>>) -> Content {
    Content { kind: Kind::Request, groups }
}

#[test]
fn a_request_without_a_checksum() {
    check(
        &request(vec![vec![command(PING)]]),
        Order::Big,
        false,
        47,
        "01 00000001 02 | 00000001 0000001f | 00000001 00000017 | 00000001 0000000f |
         00000003 00000004 636d64 70696e67 | 03 04",
    );
}

#[test]
fn a_request_with_a_checksum_and_two_pairs() {
    check(
        &request(vec![vec![command(PING_WITH_ARGUMENT)]]),
        Order::Big,
        true,
        65,
        "1b c9c6b437 01 00000001 02 | 00000001 0000002c | 00000001 00000024 | 00000002 0000001c |
         00000003 00000004 636d64 70696e67 | 00000003 00000002 617267 00ff | 03 04",
    );
}

#[test]
fn a_response_with_the_copy_of_two_pairs() {
    check(
        &Content {
            kind: Kind::Response(Status::Ack),
            groups: vec![vec![answer(&[("result", b"pong")], PING_WITH_ARGUMENT)]],
        },
        Order::Big,
        false,
        92,
        "06 1b b42e1fa7 01 00000001 02 | 00000001 00000046 | 00000001 0000003e | 00000001 00000036 |
         00000006 00000004 726573756c74 706f6e67 |
         00000002 0000001c 00000003 00000004 636d64 70696e67 00000003 00000002 617267 00ff | 03 04",
    );
}

#[test]
fn a_response_that_reports_an_error() {
    check(
        &Content { kind: Kind::Response(Status::Nak), groups: vec![vec![answer(&[("error", b"no such host")], PING)]] },
        Order::Big,
        false,
        86,
        "151b2bb8bffe010000000102000000010000004000000001000000380000000100000030000000050000000c6572726f726e6f20737563
         6820686f7374000000010000000f0000000300000004636d6470696e670304",
    );
}

#[test]
fn several_commands_with_an_empty_name_and_an_empty_value() {
    check(
        &request(vec![
            vec![command(&[("a", b"1"), ("b", b"2")]), command(&[("c", b"")])],
            vec![command(&[("", b"x")])],
        ]),
        Order::Big,
        true,
        99,
        "1b8a10aca5010000000102000000020000004e000000020000002d00000002000000140000000100000001613100000001000000016232
         0000000100000009000000010000000063000000010000001100000001000000090000000000000001780304",
    );
}

#[test]
fn allocators_in_the_other_order() {
    check(
        &request(vec![vec![command(PING)]]),
        Order::Little,
        false,
        47,
        "010000000102010000001f0000000100000017000000010000000f0000000300000004000000636d6470696e670304",
    );
    check(
        &request(vec![vec![command(PING_WITH_ARGUMENT)]]),
        Order::Little,
        true,
        65,
        "1b 359131e1 01 00000001 02 | 01000000 2c000000 | 01000000 24000000 | 02000000 1c000000 |
         03000000 04000000 636d64 70696e67 | 03000000 02000000 617267 00ff | 03 04",
    );
}
