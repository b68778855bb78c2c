//! Properties of headers and frames, for any input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use wg_embed_manager::{
    messages::{Envelope, ManagerMessage, TunnelMessage},
    stream::{FrameDecoder, Header, HeaderDecoder, HeaderOrder, Role, Version, Versions, weigh},
};

fn versions() -> impl Strategy<Value = Versions> {
    proptest::collection::btree_map(1..=u64::MAX, any::<u64>(), 1..4).prop_map(|all| {
        let all: Vec<_> = all.into_iter().map(|(major, minor)| Version { major, minor }).collect();
        Versions::new(all).unwrap()
    })
}

fn header() -> impl Strategy<Value = Header> {
    let role = prop_oneof![Just(Role::Manager), Just(Role::Tunnel), Just(Role::Service), Just(Role::Client)];
    let order = prop_oneof![Just(HeaderOrder::RoleFirst), Just(HeaderOrder::VersionsFirst)];
    (role, versions(), order).prop_map(|(role, versions, order)| Header { role, versions, order })
}

proptest! {
    #[test]
    fn a_header_is_read_as_it_was_written(header in header(), behind in any::<Vec<u8>>()) {
        let line = header.encode().unwrap();
        let mut decoder = HeaderDecoder::new();
        let mut found = None;
        let mut read = 0;
        for byte in line.iter().chain(&behind) {
            read += 1;
            if let Some(header) = decoder.push(*byte).unwrap() {
                found = Some(header);
                break;
            }
        }
        prop_assert_eq!(read, line.len());
        prop_assert_eq!(found, Some(header));
    }

    #[test]
    fn any_line_is_read_or_refused(line in "codervpn [a-z0-9., ]{0,40}", bytes in any::<Vec<u8>>()) {
        for line in [line.as_bytes(), &bytes] {
            if let Ok(header) = Header::parse(line) {
                let again = header.encode().unwrap();
                prop_assert_eq!(Header::parse(again.strip_suffix(b"\n").unwrap()), Ok(header));
            }
        }
    }

    #[test]
    fn both_sides_find_the_same_version(ours in versions(), theirs in versions(), shared in 1..5u64) {
        prop_assert_eq!(ours.common(&theirs), theirs.common(&ours));
        let list = |minor| Versions::new([Version { major: shared, minor }]).unwrap();
        prop_assert_eq!(list(4).common(&list(2)), Some(Version { major: shared, minor: 2 }));
        prop_assert_eq!(ours.common(&ours), ours.as_slice().last().copied());
    }

    #[test]
    fn frames_are_found_at_any_split(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6000), 0..4),
        cuts in proptest::collection::vec(1..5000usize, 1..8),
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            stream.extend((message.len() as u32).to_be_bytes());
            stream.extend(message);
        }
        let mut decoder = FrameDecoder::new();
        let mut found = Vec::new();
        let mut left = &stream[..];
        for cut in cuts.iter().cycle() {
            let (mut part, rest) = left.split_at(left.len().min(*cut));
            left = rest;
            while !part.is_empty() {
                if let Some(message) = decoder.push(&mut part).unwrap() {
                    found.push(message);
                }
            }
            if left.is_empty() {
                break;
            }
        }
        prop_assert!(!decoder.is_inside());
        prop_assert_eq!(found, messages);
    }

    /// Whatever can be decoded has a weight, unless it is too much.
    #[test]
    fn what_is_decoded_was_weighed(message in any::<Vec<u8>>()) {
        fn check<E: Envelope>(message: &[u8]) {
            if E::decode(message).is_ok() {
                assert!(weigh(message, E::SHAPE).is_some());
            }
        }
        check::<ManagerMessage>(&message);
        check::<TunnelMessage>(&message);
    }
}
