//! Requests in pieces, one behind the other, and what becomes of a stream with a wrong one.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use common::{answers, error, one, request, request_with, result, tunnel};
use wg_embed::{ErrorKind, error::Result};
use wg_embed_wireproto::{Message, ReadOptions, Status, WriteOptions};
use wg_embed_wireproto_service::{Options, Session, serve};

/// A client whose writes arrive one by one.
#[derive(Default)]
struct Client {
    sends: VecDeque<io::Result<Vec<u8>>>,
    receives: Vec<u8>,
    flushed: usize,
}

impl Read for Client {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(chunk) = self.sends.pop_front() else { return Ok(0) };
        let mut chunk = chunk?;
        let count = chunk.len().min(into.len());
        into[..count].copy_from_slice(&chunk[..count]);
        if count < chunk.len() {
            self.sends.push_front(Ok(chunk.split_off(count)));
        }
        Ok(count)
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.receives.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushed = self.receives.len();
        Ok(())
    }
}

/// Sends the pieces. Returns the responses, and how the connection ended.
fn exchange(pieces: impl IntoIterator<Item = Vec<u8>>, options: Options) -> (Vec<Vec<u8>>, Result<()>) {
    let tunnel = tunnel();
    let sends = pieces.into_iter().filter(|piece| !piece.is_empty()).map(Ok).collect();
    let mut client = Client { sends, ..Client::default() };
    let end = serve(&mut client, &Session::new(options, None), |session, request| session.call(&tunnel, request));
    assert_eq!(client.flushed, client.receives.len());
    let mut rest = &client.receives[..];
    let mut responses = Vec::new();
    while !rest.is_empty() {
        let (_, after) = Message::parse_first(rest, &ReadOptions::default()).unwrap();
        responses.push(rest[..rest.len() - after.len()].to_vec());
        rest = after;
    }
    (responses, end)
}

#[test]
fn requests_are_answered_in_order_however_they_are_split() {
    let checksum = WriteOptions { checksum: true, ..WriteOptions::default() };
    let all = [
        request_with(&[&[&[("cmd", b"set"), ("fwmark", &[0, 0, 0, 9])]]], checksum),
        one(&[("cmd", b"get")]),
        request(&[&[&[("cmd", b"version")], &[("cmd", b"nothing")]]]),
    ]
    .concat();
    let check = |responses: &[Vec<u8>]| {
        assert_eq!(responses.len(), 3);
        assert_eq!((result(&responses[0]), result(&responses[1])), (b"".to_vec(), b"fwmark=9\n".to_vec()));
        assert_eq!(answers(&responses[2]).0, Status::Nak);
    };
    for at in 0..=all.len() {
        let (responses, end) = exchange([all[..at].to_vec(), all[at..].to_vec()], Options::default());
        end.unwrap();
        check(&responses);
    }
    let (responses, end) = exchange(all.iter().map(|byte| vec![*byte]), Options::default());
    end.unwrap();
    check(&responses);
}

#[test]
fn a_wrong_request_is_answered_and_the_next_one_read() {
    let checksum = WriteOptions { checksum: true, ..WriteOptions::default() };
    let set = [("cmd", &b"set"[..]), ("fwmark", &[0, 0, 0, 9])];
    let mut wrong_sum = request_with(&[&[&set]], checksum);
    wrong_sum[1] ^= 1;
    let mut wrong_size = one(&set);
    // The size of the first name.
    wrong_size[14 + 8 + 8 + 3] = 99;
    let mut not_utf8 = one(&set);
    not_utf8[14 + 8 + 8 + 8] = 0xff;
    for wrong in [wrong_sum, wrong_size, not_utf8] {
        let (responses, end) = exchange([wrong, one(&[("cmd", b"get")])], Options::default());
        end.unwrap();
        assert_eq!(error(&responses[0]).0, "protocol");
        assert_eq!(result(&responses[1]), b"", "nothing was set");
        assert_eq!(responses.len(), 2);
    }
}

#[test]
fn where_the_next_request_is_not_known_the_answer_is_the_last() {
    let get = one(&[("cmd", b"get")]);
    let mut no_end = get.clone();
    let last = no_end.len() - 1;
    no_end[last] = 7;
    let mut no_body_end = get.clone();
    no_body_end[last - 1] = 7;
    let small = Options { request: 100, ..Options::default() };
    let large = one(&[("cmd", b"set"), ("uapi", &[b'x'; 100])]);
    let response = b"\x06\x1b".to_vec();
    for (wrong, options, name) in [
        (no_end, Options::default(), "protocol"),
        (no_body_end, Options::default(), "protocol"),
        (large[..20].to_vec(), small, "too_large"),
        (b"get=1\n\n".to_vec(), Options::default(), "protocol"),
        (response, Options::default(), "protocol"),
        (vec![1, 0, 0, 0, 9, 2], Options::default(), "unsupported"),
    ] {
        let (responses, end) = exchange([wrong.clone(), get.clone()], options);
        assert_eq!(responses.len(), 1, "{wrong:?}");
        assert_eq!(error(&responses[0]).0, name, "{wrong:?}");
        assert!(end.is_err());
    }
}

#[test]
fn a_request_that_is_cut_off_is_not_carried_out() {
    let set = one(&[("cmd", b"set"), ("fwmark", &[0, 0, 0, 9])]);
    for len in 1..set.len() {
        let (responses, end) = exchange([set[..len].to_vec()], Options::default());
        assert_eq!((responses.len(), end.unwrap_err().kind()), (0, ErrorKind::Protocol), "{len}");
    }
    let tunnel = tunnel();
    let sends = [Ok(set[..9].to_vec()), Err(io::ErrorKind::Interrupted.into()), Err(io::ErrorKind::TimedOut.into())];
    let mut client = Client { sends: sends.into(), ..Client::default() };
    let session = Session::new(Options::default(), None);
    let end = serve(&mut client, &session, |session, request| session.call(&tunnel, request));
    assert_eq!((end.unwrap_err().kind(), client.receives.len()), (ErrorKind::Io, 0));
}
