//! The handshake, byte for byte against `snow`, an independent implementation of the Noise framework.
//!
//! Both sides of each are given the same static, ephemeral and preshared keys and the same time stamp, so that every
//! message and every transport key must be the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

use std::{sync::Mutex, time::Duration};

use proptest::prelude::*;
use wg_embed::{
    key::{PresharedKey, PrivateKey},
    noise::{
        handshake::{Handshake, Identity, OpenedInitiation},
        message::{Data, Message},
        session::Session,
        tai64n::Tai64N,
    },
    random::Random,
    time::Instant,
};

/// Gives out these bytes once, and nothing after.
struct Script(Mutex<Option<[u8; 32]>>);

impl Script {
    fn new(bytes: [u8; 32]) -> Self {
        Self(Mutex::new(Some(bytes)))
    }
}

impl Random for Script {
    fn fill(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.lock().unwrap().take().expect("one key for each message"));
    }
}

/// What both implementations are given.
#[derive(Clone, Debug)]
struct Given {
    initiator: [u8; 32],
    responder: [u8; 32],
    initiator_ephemeral: [u8; 32],
    responder_ephemeral: [u8; 32],
    preshared: Option<[u8; 32]>,
    wall: Duration,
}

fn snow<'a>(private: &'a [u8; 32], ephemeral: &'a [u8; 32], preshared: &'a [u8; 32]) -> snow::Builder<'a> {
    snow::Builder::new("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap())
        .prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com")
        .unwrap()
        .psk(2, preshared)
        .unwrap()
        .local_private_key(private)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(ephemeral)
}

/// A packet from `from` to `to`, by the same counter, in each implementation's hands.
fn same_transport(
    counter: u64,
    text: &[u8],
    (from, snow_from): (&Session, &snow::StatelessTransportState),
    (to, snow_to): (&Session, &snow::StatelessTransportState),
) {
    let mut ours = vec![0; 16 + text.len() + 16];
    ours[16..16 + text.len()].copy_from_slice(text);
    from.seal(counter, &mut ours);
    let mut theirs = vec![0; text.len() + 16];
    assert_eq!(snow_from.write_message(counter, text, &mut theirs).unwrap(), theirs.len());
    assert_eq!(ours[16..], theirs);

    let mut opened = vec![0; text.len()];
    assert_eq!(snow_to.read_message(counter, &ours[16..], &mut opened).unwrap(), text.len());
    assert_eq!(opened, text);
    let Some(Message::Data(Data { receiver, counter: read, body })) = Message::parse(&mut ours) else {
        panic!("a data message")
    };
    assert_eq!((receiver, read), (to.local_index(), counter));
    assert_eq!(to.open(counter, body), Some(text.len()));
    assert_eq!(body[..text.len()], *text);
}

/// Runs one handshake in both implementations and compares everything that can be seen.
fn same_transcript(given: &Given) {
    let (a, b) = (
        Identity::new(PrivateKey::from_bytes(given.initiator)),
        Identity::new(PrivateKey::from_bytes(given.responder)),
    );
    let (mut to_b, mut to_a) = (Handshake::new(*b.public()), Handshake::new(*a.public()));
    if let Some(key) = given.preshared {
        to_b.set_preshared(PresharedKey::from_bytes(key));
        to_a.set_preshared(PresharedKey::from_bytes(key));
    }
    let preshared = given.preshared.unwrap_or_default();
    let mut snow_a = snow(&given.initiator, &given.initiator_ephemeral, &preshared)
        .remote_public_key(b.public().as_bytes())
        .unwrap()
        .build_initiator()
        .unwrap();
    let mut snow_b = snow(&given.responder, &given.responder_ephemeral, &preshared).build_responder().unwrap();
    let stamp = Tai64N::new(given.wall).0;

    let initiation =
        to_b.create_initiation(&a, 0x0403_0201, given.wall, &Script::new(given.initiator_ephemeral)).unwrap();
    let mut theirs = [0; 108];
    assert_eq!(snow_a.write_message(&stamp, &mut theirs).unwrap(), 108);
    assert_eq!(initiation[..8], [1, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(initiation[8..116], theirs);

    let opened = OpenedInitiation::open(&initiation, &b).unwrap();
    assert_eq!(opened.remote, *a.public());
    assert!(to_a.consume_initiation(opened, &initiation, &b, Instant::default()));
    let mut payload = [0; 12];
    assert_eq!(snow_b.read_message(&initiation[8..116], &mut payload).unwrap(), 12);
    assert_eq!(payload, stamp);

    let response = to_a.create_response(0x0807_0605, &Script::new(given.responder_ephemeral)).unwrap();
    let mut theirs = [0; 48];
    assert_eq!(snow_b.write_message(&[], &mut theirs).unwrap(), 48);
    assert_eq!(response[..12], [2, 0, 0, 0, 5, 6, 7, 8, 1, 2, 3, 4]);
    assert_eq!(response[12..60], theirs);
    assert!(to_b.consume_response(&response, &a));
    assert_eq!(snow_a.read_message(&response[12..60], &mut []).unwrap(), 0);

    let (a, b) = (to_b.begin_session(Instant::default()).unwrap(), to_a.begin_session(Instant::default()).unwrap());
    let (snow_a, snow_b) =
        (snow_a.into_stateless_transport_mode().unwrap(), snow_b.into_stateless_transport_mode().unwrap());
    for (counter, text) in [
        (0, &b""[..]),
        (1, &[7; 16]),
        (u64::from(u32::MAX) + 5, &[8; 1420]),
        (wg_embed::noise::REJECT_AFTER_MESSAGES - 1, b"the last one"),
    ] {
        same_transport(counter, text, (&a, &snow_a), (&b, &snow_b));
        same_transport(counter, text, (&b, &snow_b), (&a, &snow_a));
    }
}

const GIVEN: Given = Given {
    initiator: [0x11; 32],
    responder: [0x22; 32],
    initiator_ephemeral: [0x33; 32],
    responder_ephemeral: [0x44; 32],
    preshared: None,
    wall: Duration::new(1_700_000_000, 999_999_999),
};

#[test]
fn without_a_preshared_key() {
    same_transcript(&GIVEN);
}

#[test]
fn with_a_preshared_key() {
    same_transcript(&Given { preshared: Some([0x55; 32]), ..GIVEN });
}

/// Private keys are clamped before use, so these differ from what the generator gives in both first and last byte.
#[test]
fn with_keys_of_ones_and_at_the_epoch() {
    same_transcript(&Given {
        initiator: [0xff; 32],
        initiator_ephemeral: [0xff; 32],
        preshared: Some([0xff; 32]),
        wall: Duration::ZERO,
        ..GIVEN
    });
}

#[test]
fn when_both_ends_have_the_same_keys() {
    same_transcript(&Given { responder: GIVEN.initiator, responder_ephemeral: GIVEN.initiator_ephemeral, ..GIVEN });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn with_any_keys(
        initiator: [u8; 32],
        responder: [u8; 32],
        initiator_ephemeral: [u8; 32],
        responder_ephemeral: [u8; 32],
        preshared: Option<[u8; 32]>,
        nanos in 0u64..1 << 62,
    ) {
        let wall = Duration::from_nanos(nanos);
        same_transcript(&Given { initiator, responder, initiator_ephemeral, responder_ephemeral, preshared, wall });
    }
}
