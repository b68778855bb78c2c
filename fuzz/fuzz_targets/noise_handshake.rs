//! Two ends that send each other handshake messages, which a network loses, repeats, delays and damages: an end accepts
//! exactly the messages that a plain model accepts, and both get the same keys.
//!
//! The input is a row of operations: a byte that chooses one and an end, and its parameters.
#![no_main]

use std::{sync::Arc, time::Duration};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    PresharedKey, PrivateKey,
    noise::{
        REJECT_AFTER_MESSAGES,
        handshake::{Handshake, Identity, OpenedInitiation},
        message::{INITIATION_LEN, RESPONSE_LEN},
        replay::WINDOW,
        session::Session,
    },
    time::{Clock, Instant, ManualClock},
};
use wg_embed_fuzz::{Input, Numbers};

/// The minimum time between two accepted initiations.
const INTERVAL: Duration = Duration::from_millis(20);
const MAX_OPERATIONS: usize = 24;

/// The model of the handshake in progress.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    None,
    /// The number of our initiation.
    Sent(usize),
    /// The number of their initiation.
    Received(usize),
    /// The number of the response, ours or theirs.
    Answered(usize),
}

struct End {
    identity: Identity,
    handshake: Handshake,
    stage: Stage,
    preshared: u8,
    newest: Option<usize>,
    accepted_at: Option<Instant>,
    /// Each with the number of the response that completed its handshake.
    sessions: Vec<(usize, Arc<Session>)>,
}

impl End {
    /// Forgets the handshake, or sets a preshared key.
    fn reset(&mut self, how: u8) {
        match how {
            0 => self.handshake.clear(),
            1 => self.handshake.identity_changed(),
            preshared => {
                self.preshared = preshared;
                return self.handshake.set_preshared(PresharedKey::from_bytes([preshared; 32]));
            }
        }
        self.stage = Stage::None;
    }
}

struct Initiation {
    from: usize,
    message: [u8; INITIATION_LEN],
}

struct Response {
    from: usize,
    to: usize,
    preshared: u8,
    message: [u8; RESPONSE_LEN],
}

struct Pair {
    clock: ManualClock,
    random: Numbers,
    ends: [End; 2],
    next_index: u32,
    initiations: Vec<Initiation>,
    responses: Vec<Response>,
}

impl Pair {
    fn new() -> Self {
        let random = Numbers::new(2);
        let identities = [(); 2].map(|()| Identity::new(PrivateKey::generate_with(&random)));
        let remotes = [*identities[1].public(), *identities[0].public()];
        let mut remotes = remotes.into_iter();
        let ends = identities.map(|identity| End {
            identity,
            handshake: Handshake::new(remotes.next().unwrap()),
            stage: Stage::None,
            preshared: 0,
            newest: None,
            accepted_at: None,
            sessions: Vec::new(),
        });
        Self { clock: ManualClock::new(), random, ends, next_index: 0, initiations: vec![], responses: vec![] }
    }

    fn initiate(&mut self, at: usize) {
        self.next_index += 1;
        let end = &mut self.ends[at];
        let wall = self.clock.wall();
        let message = end.handshake.create_initiation(&end.identity, self.next_index, wall, &self.random).unwrap();
        end.stage = Stage::Sent(self.initiations.len());
        self.initiations.push(Initiation { from: at, message });
    }

    fn respond(&mut self, at: usize) {
        self.next_index += 1;
        let end = &mut self.ends[at];
        let made = end.handshake.create_response(self.next_index, &self.random);
        let Stage::Received(to) = end.stage else { return assert!(made.is_none()) };
        end.stage = Stage::Answered(self.responses.len());
        self.responses.push(Response { from: at, to, preshared: end.preshared, message: made.unwrap() });
    }

    /// An end receives an initiation. With a `change` of one of its authenticated bytes it must refuse it.
    fn receive_initiation(&mut self, at: usize, number: usize, place: u8, change: u8) {
        let Some(initiation) = self.initiations.get(number) else { return };
        let mut message = initiation.message;
        message[8 + usize::from(place) % 108] ^= change;
        let end = &mut self.ends[at];
        let opened = OpenedInitiation::open(&message, &end.identity);
        let is_for_us = initiation.from != at;
        assert!(opened.is_none() || is_for_us);
        assert!(opened.is_some() || !is_for_us || change != 0);
        let Some(opened) = opened else { return };
        assert_eq!(opened.remote, *end.handshake.remote());
        let now = self.clock.now();
        let is_new = end.newest.is_none_or(|newest| number > newest);
        let is_flood = end.accepted_at.is_some_and(|last| now.since(last) < INTERVAL);
        let accepted = end.handshake.consume_initiation(opened, &message, &end.identity, now);
        assert_eq!(accepted, change == 0 && is_new && !is_flood);
        if accepted {
            (end.newest, end.accepted_at, end.stage) = (Some(number), Some(now), Stage::Received(number));
        }
    }

    /// The same for a response.
    fn receive_response(&mut self, at: usize, number: usize, place: u8, change: u8) {
        let Some(response) = self.responses.get(number) else { return };
        let mut message = response.message;
        message[8 + usize::from(place) % 52] ^= change;
        let end = &mut self.ends[at];
        let accepted = end.handshake.consume_response(&message, &end.identity);
        let is_awaited = response.from != at && end.stage == Stage::Sent(response.to);
        assert_eq!(accepted, is_awaited && change == 0 && response.preshared == end.preshared);
        if accepted {
            end.stage = Stage::Answered(number);
        }
    }

    fn begin_session(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let session = end.handshake.begin_session(self.clock.now());
        let Stage::Answered(number) = end.stage else { return assert!(session.is_none()) };
        let session = session.unwrap();
        assert_eq!(session.is_initiator(), self.responses[number].from != at);
        end.stage = Stage::None;
        end.sessions.push((number, session));
    }

    /// Each session opens what its other end seals, and nothing else.
    fn exchange(&self, place: u8, change: u8, counters: &[u8]) {
        let [first, second] = &self.ends;
        for (number, a) in &first.sessions {
            for (other, b) in &second.sessions {
                let is_same = number == other;
                assert_eq!((a.local_index(), a.remote_index()) == (b.remote_index(), b.local_index()), is_same);
                for (from, to) in [(a, b), (b, a)] {
                    let counter = from.take_counters(1).unwrap();
                    let mut message = [place; 64];
                    from.seal(counter, &mut message);
                    assert_eq!(message[..4], [4, 0, 0, 0]);
                    let body = &mut message[16..];
                    body[usize::from(place) % 48] ^= change;
                    let opened = to.open(counter, body);
                    assert_eq!(opened, (is_same && change == 0).then_some(32));
                    if opened.is_some() {
                        assert_eq!(message[16..48], [place; 32]);
                    }
                }
            }
        }
        if let Some((_, session)) = first.sessions.last() {
            check_counters(session, counters);
        }
    }

    fn run(&mut self, kind: u8, input: &mut Input<'_>) {
        let (at, newest_but) = (usize::from(kind & 1), 1 + usize::from(kind >> 4 & 3));
        match kind >> 1 & 7 {
            0 => self.initiate(at),
            1 => {
                let (place, change) = damage(kind, input);
                self.receive_initiation(at, self.initiations.len().wrapping_sub(newest_but), place, change);
            }
            2 => self.respond(at),
            3 => {
                let (place, change) = damage(kind, input);
                self.receive_response(at, self.responses.len().wrapping_sub(newest_but), place, change);
            }
            4 => self.begin_session(at),
            5 => {
                let (place, change) = (input.byte(), input.byte());
                self.exchange(place, change, input.bytes(usize::from(kind >> 4) * 2));
                self.ends.iter_mut().for_each(|end| end.sessions.clear());
            }
            6 => self.clock.advance(Duration::from_millis(u64::from(kind >> 4) * 5)),
            _ => self.ends[at].reset(kind >> 4 & 3),
        }
    }
}

/// The replay window accepts what a list of all counters accepts. Counters are differences to the newest.
fn check_counters(session: &Session, differences: &[u8]) {
    let mut seen: Vec<u64> = Vec::new();
    let mut counters = Vec::new();
    let mut newest = 0_u64;
    for difference in differences.chunks_exact(2) {
        let step = i64::from(i16::from_be_bytes([difference[0], difference[1]]));
        let counter = newest.wrapping_add_signed(step);
        counters.push(counter);
        newest = newest.max(counter.min(REJECT_AFTER_MESSAGES - 1));
    }
    let mut accepted = Vec::new();
    session.accept(&mut counters, |counter| *counter, |counter| accepted.push(*counter));
    let mut accepted = accepted.into_iter();
    for counter in counters {
        let newest = seen.iter().max().copied().unwrap_or_default();
        let is_dead = newest == REJECT_AFTER_MESSAGES - 1;
        let is_old = newest > WINDOW && counter < newest - WINDOW;
        if !is_dead && !is_old && counter < REJECT_AFTER_MESSAGES && !seen.contains(&counter) {
            assert_eq!(accepted.next(), Some(counter));
            seen.push(counter);
        }
    }
    assert_eq!(accepted.next(), None);
}

/// Returns a place and a change for a message that is damaged, and no change for any other.
fn damage(kind: u8, input: &mut Input<'_>) -> (u8, u8) {
    if kind & 0x80 == 0 { (0, 0) } else { (input.byte(), input.byte()) }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mut pair = Pair::new();
    for _ in 0..MAX_OPERATIONS {
        let Some(kind) = input.next_byte() else { break };
        pair.run(kind, &mut input);
        for end in &pair.ends {
            assert_eq!(end.handshake.is_pending(), end.stage != Stage::None);
            let has_index = matches!(end.stage, Stage::Sent(_) | Stage::Answered(_));
            assert_eq!(end.handshake.local_index().is_some(), has_index);
        }
    }
});
