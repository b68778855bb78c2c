//! A session: two keys, a counter and a replay window. Packets are sealed and opened in place.
//!
//! A session is shared: several threads may seal and open with it at once. Whoever owns it decides how long it is used;
//! the limits of section 6 are asked for here ([`Session::may_send`], [`Session::may_receive`]).

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
    aead::AeadKey,
    message::{self, DATA_HEADER_LEN, DATA_OVERHEAD},
    replay::ReplayWindow,
};
use crate::{sync, time::Instant};

/// What a handshake has agreed on. Also called keypair.
pub struct Session {
    local_index: u32,
    remote_index: u32,
    initiator: bool,
    created: Instant,
    sending: AeadKey,
    receiving: AeadKey,
    /// The counter of the next message.
    counter: AtomicU64,
    /// Cleared for good when the session must not be used for sending any more.
    may_send: AtomicBool,
    window: Mutex<ReplayWindow>,
}

/// What a session is made from.
pub(super) struct Keys<'a> {
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) initiator: bool,
    pub(super) sending: &'a [u8; 32],
    pub(super) receiving: &'a [u8; 32],
}

impl Session {
    pub(super) fn new(keys: &Keys<'_>, now: Instant) -> Self {
        Self {
            local_index: keys.local_index,
            remote_index: keys.remote_index,
            initiator: keys.initiator,
            created: now,
            sending: AeadKey::new(keys.sending),
            receiving: AeadKey::new(keys.receiving),
            counter: AtomicU64::new(0),
            may_send: AtomicBool::new(true),
            window: Mutex::default(),
        }
    }

    /// The index by which the other side names this session.
    #[must_use]
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The index by which we name this session to the other side.
    #[must_use]
    pub const fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Whether we began the handshake. Only then do we ask for a successor because of age.
    #[must_use]
    pub const fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// When the handshake was completed.
    #[must_use]
    pub const fn created(&self) -> Instant {
        self.created
    }

    /// Whether packets may still be sealed: not retired, and younger than [`REJECT_AFTER_TIME`].
    #[must_use]
    pub fn may_send(&self, now: Instant) -> bool {
        self.may_send.load(Ordering::Relaxed) && now.since(self.created) < REJECT_AFTER_TIME
    }

    /// Whether packets may still be opened: younger than [`REJECT_AFTER_TIME`]. A session that was retired from
    /// sending still receives, so that nothing on its way is lost.
    #[must_use]
    pub fn may_receive(&self, now: Instant) -> bool {
        now.since(self.created) < REJECT_AFTER_TIME
    }

    /// Never sends with this session again.
    pub fn retire(&self) {
        self.may_send.store(false, Ordering::Relaxed);
    }

    /// Whether so many messages were sent that it is time for a successor.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.counter.load(Ordering::Relaxed) > REKEY_AFTER_MESSAGES
    }

    /// Takes the counters of `n` messages at once and returns the first. If there are not that many left the session
    /// is retired.
    #[must_use]
    pub fn take_counters(&self, n: usize) -> Option<u64> {
        // Not a plain addition: that would go over the limit first and be put back afterwards, and calls in between could
        // carry it round to counters that were used before.
        let advance = |next: u64| next.checked_add(n as u64).filter(|end| *end <= REJECT_AFTER_MESSAGES);
        #[allow(deprecated, reason = "Rust 1.89 does not have its new name, try_update")]
        let taken = self.counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance);
        if taken.is_err() {
            self.retire();
        }
        taken.ok()
    }

    /// Turns a padded packet into a data message, in place: `message` is 16 bytes for the header, the packet, and 16
    /// bytes for the tag. Each counter is used once.
    pub fn seal(&self, counter: u64, message: &mut [u8]) {
        debug_assert!(message.len() >= DATA_OVERHEAD);
        message::write_data_header(message, self.remote_index, counter);
        self.sending.seal(counter, &[], &mut message[DATA_HEADER_LEN..]);
    }

    /// Decrypts the body of a data message in place and returns the length of the padded packet; `None` if it is not
    /// authentic. The counter must then be [accepted](Self::accept).
    #[must_use]
    pub fn open(&self, counter: u64, body: &mut [u8]) -> Option<usize> {
        self.receiving.open(counter, &[], body)
    }

    /// Notes authentic messages in the replay window, in order and under one lock. Calls `fresh` for each that was not
    /// seen before and is not too old to tell.
    pub fn accept<M>(&self, messages: &mut [M], counter: impl Fn(&M) -> u64, mut fresh: impl FnMut(&mut M)) {
        let mut window = sync::lock(&self.window);
        for message in messages {
            if window.accept(counter(message)) {
                fresh(message);
            }
        }
    }

    /// Winds the counter forward, for tests of what happens at its end.
    #[doc(hidden)]
    pub fn set_counter(&self, counter: u64) {
        self.counter.store(counter, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn session(initiator: bool, now: Instant) -> Session {
        let (a, b) = ([1; 32], [2; 32]);
        let (sending, receiving) = if initiator { (&a, &b) } else { (&b, &a) };
        Session::new(&Keys { local_index: 1, remote_index: 2, initiator, sending, receiving }, now)
    }

    #[test]
    fn packets_go_both_ways_in_place() {
        let now = Instant::default();
        let (i, r) = (session(true, now), session(false, now));
        for (from, to) in [(&i, &r), (&r, &i)] {
            let mut message = [3; 16 + 32 + 16];
            from.seal(from.take_counters(1).unwrap(), &mut message);
            let message::Message::Data(data) = message::Message::parse(&mut message).unwrap() else { unreachable!() };
            assert_eq!((data.receiver, data.counter), (2, 0));
            assert_eq!(to.open(data.counter, data.body), Some(32));
            assert_eq!(data.body[..32], [3; 32]);
        }
    }

    #[test]
    fn counters_end_before_they_repeat() {
        let s = session(true, Instant::default());
        assert_eq!(s.take_counters(3), Some(0));
        assert_eq!(s.take_counters(1), Some(3));
        s.set_counter(REKEY_AFTER_MESSAGES);
        assert!(!s.is_worn());
        assert!(s.take_counters(1).is_some());
        assert!(s.is_worn());
        s.set_counter(REJECT_AFTER_MESSAGES - 2);
        assert_eq!(s.take_counters(2), Some(REJECT_AFTER_MESSAGES - 2));
        assert!(s.may_send(Instant::default()));
        for _ in 0..3 {
            assert_eq!(s.take_counters(1), None);
            assert!(!s.may_send(Instant::default()));
        }
        s.set_counter(REJECT_AFTER_MESSAGES - 2);
        assert_eq!(s.take_counters(3), None, "not part of a run");
    }

    #[test]
    fn no_counter_is_given_out_twice_however_many_ask_at_the_end() {
        let s = session(true, Instant::default());
        let first = REJECT_AFTER_MESSAGES - 100;
        s.set_counter(first);
        let mut taken: Vec<u64> = std::thread::scope(|scope| {
            let ask = |greed: usize| {
                let s = &s;
                move || {
                    let all = (0..20_000).flat_map(|i| match s.take_counters(if i % 2 == 0 { 1 } else { greed }) {
                        Some(c) if i % 2 == 0 => vec![c],
                        Some(c) => (c..c + greed as u64).collect(),
                        None => vec![],
                    });
                    all.collect::<Vec<_>>()
                }
            };
            // More than there is between the limit and the end of the number space.
            let threads = [3, 8195, usize::MAX, 1 << 20].map(|greed| scope.spawn(ask(greed)));
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        taken.sort_unstable();
        assert_eq!(taken, (first..REJECT_AFTER_MESSAGES).collect::<Vec<_>>());
    }

    #[test]
    fn age_ends_a_session() {
        let s = session(true, Instant::default());
        let end = Instant::default() + REJECT_AFTER_TIME;
        let before = Instant::from_nanos(end.as_nanos() - 1);
        assert!(s.may_send(before) && s.may_receive(before));
        assert!(!s.may_send(end) && !s.may_receive(end));
        s.retire();
        assert!(!s.may_send(before) && s.may_receive(before));
        assert_eq!(s.created() + Duration::from_secs(180), end);
    }
}
