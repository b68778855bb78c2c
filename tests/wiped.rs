//! Secrets do not stay in memory that is given back: an allocator looks at every block on its way out.
//!
//! What it cannot see is the stack, where computing with a secret or moving it may leave a copy behind:
//! tests/key_copies and tests/c/secrets.c look there. Secrets that live for longer than one call are on the heap, as
//! here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unsafe_code,
    reason = "a test that cannot go on should stop where it is, and an allocator is unsafe by nature"
)]

#[path = "common/freed.rs"]
mod freed;

use std::{sync::Arc, time::Duration};

use freed::{contains, freed_by};
use wg_embed::{
    key::{PresharedKey, PrivateKey},
    noise::{
        handshake::{Handshake, Identity, OpenedInitiation},
        message::INITIATION_LEN,
        session::Session,
    },
    random::Random,
    time::Instant,
};

/// Fills with one byte.
struct Constant(u8);

impl Random for Constant {
    fn fill(&self, out: &mut [u8]) {
        out.fill(self.0);
    }
}

/// The ephemeral private keys that `Constant` leads to.
fn ephemeral(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes([byte; 32])
}

const WALL: Duration = Duration::from_secs(1_700_000_000);

struct End {
    identity: Identity,
    handshake: Handshake,
}

fn ends() -> (End, End) {
    let (a, b) = (Identity::new(PrivateKey::from_bytes([0x11; 32])), Identity::new(PrivateKey::from_bytes([0x22; 32])));
    let (to_b, to_a) = (Handshake::new(*b.public()), Handshake::new(*a.public()));
    let end = |identity, mut handshake: Handshake| {
        handshake.set_preshared(PresharedKey::from_bytes([0x33; 32]));
        End { identity, handshake }
    };
    (end(a, to_b), end(b, to_a))
}

fn initiate(a: &mut End) -> [u8; INITIATION_LEN] {
    a.handshake.create_initiation(&a.identity, 1, WALL, &Constant(0x44)).unwrap()
}

/// Ends a handshake on both sides; the sessions.
fn shake(a: &mut End, b: &mut End) -> (Arc<Session>, Arc<Session>) {
    let m1 = initiate(a);
    let opened = OpenedInitiation::open(&m1, &b.identity).unwrap();
    let now = Instant::from_nanos(1);
    assert!(b.handshake.consume_initiation(opened, &m1, &b.identity, now));
    let m2 = b.handshake.create_response(2, &Constant(0x55)).unwrap();
    assert!(a.handshake.consume_response(&m2, &a.identity));
    (a.handshake.begin_session(now).unwrap(), b.handshake.begin_session(now).unwrap())
}

/// All bytes of a value.
fn bytes_of<T>(value: &T) -> Vec<u8> {
    let start = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: within the value, which is live; volatile, so that padding is read as whatever is there.
    (0..size_of::<T>()).map(|at| unsafe { start.wrapping_add(at).read_volatile() }).collect()
}

#[test]
fn the_allocator_sees_what_is_not_wiped() {
    let secret = [0x99; 32];
    assert!(contains(&freed_by(|| drop(std::hint::black_box(Box::new(secret)))), &secret));
}

#[test]
fn a_dropped_key_is_wiped() {
    let key = Box::new(ephemeral(0x66));
    let bytes = *key.as_bytes();
    let freed = freed_by(|| drop(key));
    assert!(!freed.is_empty() && !contains(&freed, &bytes));
}

#[test]
fn an_abandoned_handshake_is_wiped() {
    let (mut a, _) = ends();
    let freed = freed_by(|| {
        let _ = initiate(&mut a);
        a.handshake.clear();
    });
    assert!(!freed.is_empty(), "the handshake under way is on the heap");
    assert!(!contains(&freed, ephemeral(0x44).as_bytes()));
}

#[test]
fn a_finished_handshake_is_wiped() {
    let (mut a, mut b) = ends();
    let freed = freed_by(|| drop(shake(&mut a, &mut b)));
    assert!(freed.len() >= 2, "one for each side");
    for secret in [ephemeral(0x44), ephemeral(0x55)] {
        assert!(!contains(&freed, secret.as_bytes()));
    }
    let statics = a.identity.private().diffie_hellman(b.identity.public()).unwrap();
    let freed = freed_by(|| drop((Box::new(a), Box::new(b))));
    for secret in [&[0x33; 32], &*statics] {
        assert!(!contains(&freed, secret));
    }
}

#[test]
fn a_dropped_session_is_wiped() {
    let (mut a, mut b) = ends();
    let (session, _) = shake(&mut a, &mut b);
    let before = bytes_of(&*session);
    let freed = freed_by(|| drop(session));
    // Half a key is enough to tell that it is still there. Nothing else in a session has no zeros for so long.
    let random = |w: &&[u8]| w.iter().all(|byte| *byte != 0);
    let keys: Vec<&[u8]> = before.windows(16).filter(random).collect();
    assert!(keys.len() >= 16, "the keys are in there");
    assert!(!keys.iter().any(|key| contains(&freed, key)));
}
