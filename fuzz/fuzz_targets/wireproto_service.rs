//! The service of control calls: any bytes have a response that is a valid message, and requests in pieces are found
//! where they are.
//!
//! The input is one byte for the length of pieces, two for the limit of a response, and requests.
#![no_main]

use std::{
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    bind::mem::MemNetwork,
    config::Update,
    device::{Options, Tunnel},
    tun::mem::MemTun,
};
use wg_embed_wireproto::{Kind, Message, Pair, ReadOptions, Status};
use wg_embed_wireproto_service::{self as service, Framer, Session};

/// A tunnel that is stopped: nothing about it changes by itself.
fn tunnel() -> &'static Tunnel {
    static TUNNEL: OnceLock<Tunnel> = OnceLock::new();
    TUNNEL.get_or_init(|| {
        let bind = MemNetwork::new().bind(Ipv4Addr::new(192, 0, 2, 1).into());
        let tunnel = Tunnel::start(Arc::new(MemTun::new("wg0", 1420).0), bind, Options::default()).unwrap();
        tunnel.stop().unwrap();
        tunnel
    })
}

/// Checks a response to `request`, and that it has an answer for each command unless all were refused.
fn check(request: &[u8], response: &[u8], limit: usize) {
    let message = Message::parse(response, &ReadOptions::default()).unwrap();
    let Kind::Response(status) = message.head().kind else { panic!("not a response") };
    let is_error = |record: &wg_embed_wireproto::Record<'_>| record.pairs().get("error").is_some();
    assert_eq!(status == Status::Nak, message.records().any(|record| is_error(&record)));
    // The copy of a refusal is one pair of nothing.
    let copies: Vec<_> = message.records().map(|record| record.copy().unwrap()).collect();
    if let [copy] = &copies[..]
        && copy.iter().eq([Pair::new("", b"")])
    {
        return assert!(response.len() < 1024);
    }
    assert!(response.len() <= limit);
    let request = Message::parse(request, &ReadOptions::default()).unwrap();
    assert!(copies.into_iter().eq(request.records().map(|record| record.pairs())));
}

fuzz_target!(|input: &[u8]| {
    let [piece, high, low, bytes @ ..] = input else { return };
    let tunnel = tunnel();
    tunnel.device().apply(Update { replace_peers: true, ..Update::default() }).unwrap();
    let limit = usize::from(u16::from_be_bytes([*high, *low]));
    let options = service::Options { response: limit, wait: Duration::ZERO, ..service::Options::default() };
    let session = Session::new(options, Some(Arc::default()));
    check(bytes, &session.call(tunnel, bytes), limit);
    let mut framer = Framer::new(options);
    let (mut begin, mut taken) = (0, 0);
    for mut part in bytes.chunks(usize::from(*piece).max(1)) {
        let whole = part.len();
        loop {
            let before = part.len();
            match framer.read(&mut part) {
                Ok(Some(request)) => {
                    taken += before - part.len();
                    assert_eq!(request, &bytes[begin..taken]);
                    check(request, &session.call(tunnel, request), limit);
                    begin = taken;
                    framer.next();
                }
                Ok(None) => {
                    taken += before - part.len();
                    break assert!(part.is_empty() && whole > 0);
                }
                Err(error) => {
                    // Where it is not known where a request ends, there is none either.
                    assert!(Message::parse_first(&bytes[begin..], &options_of_requests()).is_err(), "{error}");
                    return;
                }
            }
        }
    }
});

fn options_of_requests() -> ReadOptions {
    ReadOptions { accept: wg_embed_wireproto::Accept::Requests, ..ReadOptions::default() }
}
