//! A tunnel in memory, and requests to it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test crate uses a part of it")]

use std::{net::Ipv4Addr, sync::Arc};

use serde_json::Value;
use wg_embed::{
    bind::mem::MemNetwork,
    config::Update,
    device::{Options, Tunnel},
    tun::mem::MemTun,
};
use wg_embed_wireproto::{Builder, Kind, Message, ReadOptions, Status, WriteOptions};

/// A private key.
pub const PRIVATE: [u8; 32] = [0x48; 32];
/// A peer.
pub const PEER: [u8; 32] = [0xb8; 32];

/// A tunnel that is stopped: nothing about it changes by itself.
pub fn tunnel() -> Arc<Tunnel> {
    let (tun, _) = MemTun::new("wg0", 1420);
    let bind = MemNetwork::new().bind(Ipv4Addr::new(192, 0, 2, 1).into());
    let tunnel = Tunnel::start(Arc::new(tun), bind, Options::default()).unwrap();
    tunnel.stop().unwrap();
    // It may have been up, and have kept the port of that time.
    tunnel.device().apply(Update { listen_port: Some(0), ..Update::default() }).unwrap();
    Arc::new(tunnel)
}

/// The fields of a command.
pub type Command<'a> = &'a [(&'a str, &'a [u8])];

/// A request of groups of commands.
pub fn request(groups: &[&[Command<'_>]]) -> Vec<u8> {
    request_with(groups, WriteOptions::default())
}

pub fn request_with(groups: &[&[Command<'_>]], options: WriteOptions) -> Vec<u8> {
    let mut builder = Builder::new(Kind::Request, options);
    for group in groups {
        builder.group().unwrap();
        for command in *group {
            builder.record().unwrap();
            for (name, value) in *command {
                builder.pair(name, value).unwrap();
            }
        }
    }
    builder.finish().unwrap()
}

/// A request of one command.
pub fn one(command: Command<'_>) -> Vec<u8> {
    request(&[&[command]])
}

/// An answer: the name and the value of its only pair, and the copy.
pub type Answer = (String, Vec<u8>, Vec<(String, Vec<u8>)>);

/// The status and the answers of a response.
pub fn answers(response: &[u8]) -> (Status, Vec<Answer>) {
    answers_with(response, &ReadOptions::default())
}

pub fn answers_with(response: &[u8], options: &ReadOptions) -> (Status, Vec<Answer>) {
    let message = Message::parse(response, options).unwrap();
    let Kind::Response(status) = message.head().kind else { unreachable!("a request") };
    let answer = |record: wg_embed_wireproto::Record<'_>| {
        let pairs: Vec<_> = record.pairs().iter().collect();
        assert_eq!(pairs.len(), 1);
        let copy = record.copy().unwrap().iter().map(|pair| (pair.name.to_owned(), pair.value.to_vec()));
        (pairs[0].name.to_owned(), pairs[0].value.to_vec(), copy.collect())
    };
    (status, message.records().map(answer).collect())
}

/// The result of the only answer.
pub fn result(response: &[u8]) -> Vec<u8> {
    let (status, mut answers) = answers(response);
    let (name, value, _) = answers.pop().unwrap();
    assert!(answers.is_empty());
    assert_eq!((status, name.as_str()), (Status::Ack, "result"), "{}", String::from_utf8_lossy(&value));
    value
}

pub fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The name and the text of the only answer, an error.
pub fn error(response: &[u8]) -> (String, String) {
    let (status, mut answers) = answers(response);
    let (name, value, _) = answers.pop().unwrap();
    assert!(answers.is_empty());
    assert_eq!((status, name.as_str()), (Status::Nak, "error"));
    let value = json(&value);
    (value["error"].as_str().unwrap().to_owned(), value["text"].as_str().unwrap().to_owned())
}
