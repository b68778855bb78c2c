//! Recorded conversations of the original programs, with a speaker in the place of either side: it writes what was
//! recorded, byte by byte, and receives what was.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{CONVERSATIONS, Line, PATIENCE, Wire, message, opened, transcript};
use prost::Message;
use std::{collections::HashMap, thread};
use wg_embed_manager::{
    messages::{ClientMessage, Envelope, ManagerMessage, ManagerSide, ServiceMessage, Side, TunnelMessage, TunnelSide},
    speaker::{End, Incoming},
    stream::{Header, Kind, encode, weigh},
};

/// One conversation, with `ours` as the speaker's side. What the other side wrote arrives `step` bytes at a time.
fn replay<S: Side>(name: &str, ours: char, wire: Wire, step: usize) {
    let lines = transcript(name);
    let (headers, frames) = lines.split_at(2);
    for header in headers {
        let bytes = header.bytes.as_ref().unwrap();
        let parsed = Header::parse(bytes.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!(parsed.role, if header.by == ours { S::ROLE } else { S::ROLE.peer() });
        assert_eq!(parsed.encode().unwrap(), *bytes);
    }
    let (speaker, mut raw) = opened::<S>(wire);
    thread::scope(|scope| {
        let (mut calls, mut asked) = (HashMap::new(), HashMap::new());
        for Line { by, bytes } in frames {
            let Some(bytes) = bytes else {
                if *by != ours {
                    raw.finish();
                }
                continue;
            };
            if *by == ours {
                let (rpc, body) = S::Sent::decode(message(bytes)).unwrap().split();
                let body = body.unwrap();
                match Kind::of(rpc.as_ref()) {
                    Kind::Request(id) => {
                        let speaker = &speaker;
                        calls.insert(id, scope.spawn(move || speaker.call(body, PATIENCE)));
                    }
                    Kind::Response(id) => {
                        let asked = asked.remove(&id.get()).expect("a request");
                        speaker.respond(asked, body).unwrap();
                    }
                    Kind::Notice => speaker.notify(body).unwrap(),
                }
                assert_eq!(raw.read(bytes.len()), *bytes, "{name}");
            } else {
                for part in bytes.chunks(step) {
                    raw.write(part);
                }
                let (rpc, body) = S::Received::decode(message(bytes)).unwrap().split();
                let body = body.unwrap();
                match Kind::of(rpc.as_ref()) {
                    Kind::Response(id) => {
                        assert_eq!(calls.remove(&id).unwrap().join().unwrap(), Ok(body), "{name}");
                    }
                    Kind::Request(id) => match speaker.recv().unwrap() {
                        Incoming::Request { id: found, body: received } => {
                            assert_eq!((found.get(), received), (id.get(), body), "{name}");
                            asked.insert(id.get(), found);
                        }
                        other => panic!("{name}: {other:?}"),
                    },
                    Kind::Notice => assert_eq!(speaker.recv(), Ok(Incoming::Notice(body)), "{name}"),
                }
            }
        }
        assert!(calls.is_empty());
    });
    assert_eq!(raw.rest(), [], "{name}: something follows");
    assert_eq!(speaker.recv(), Err(if ours == 'T' { End::Finished } else { End::PeerClosed }), "{name}");
    assert_eq!(speaker.stats(), Default::default());
}

fn all<S: Side>(ours: char) {
    for name in CONVERSATIONS {
        for wire in [Wire::Pipes, Wire::Socket] {
            for step in [usize::MAX, 1, 7] {
                replay::<S>(name, ours, wire, step);
            }
        }
    }
}

#[test]
fn a_manager_writes_what_was_recorded() {
    all::<ManagerSide>('M');
}

#[test]
fn a_tunnel_writes_what_was_recorded() {
    all::<TunnelSide>('T');
}

/// Decodes a frame and encodes it again.
fn again<E: Envelope>(frame: &[u8]) {
    let decoded = E::decode(message(frame)).unwrap();
    assert_eq!(encode(&decoded).unwrap(), frame, "{decoded:?}");
    assert!(weigh(message(frame), E::SHAPE).is_some(), "{decoded:?}");
}

#[test]
fn single_frames_are_encoded_as_they_were() {
    let lines = transcript("frames");
    for Line { by, bytes } in &lines {
        let frame = bytes.as_ref().unwrap();
        match by {
            'M' => again::<ManagerMessage>(frame),
            'T' => again::<TunnelMessage>(frame),
            'C' => again::<ClientMessage>(frame),
            'S' => again::<ServiceMessage>(frame),
            other => panic!("{other}"),
        }
    }
    assert!(lines.len() >= 20);
}
