//! A session: two keys, a counter and a replay window. Packets are sealed and opened in place.
//!
//! Sessions are shared: several threads may seal and open with one at the same time. The owner decides how long it is
//! used; the limits of section 6 are checked by [`Session::may_send`] and [`Session::may_receive`].

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

/// The result of a handshake, also called keypair.
pub struct Session {
    local_index: u32,
    remote_index: u32,
    initiator: bool,
    created: Instant,
    sending: AeadKey,
    receiving: AeadKey,
    /// The counter of the next message.
    counter: AtomicU64,
    /// Cleared permanently when the session must no longer be used for sending.
    may_send: AtomicBool,
    window: Mutex<ReplayWindow>,
}

/// The values that a session is created from.
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

    /// Returns our index of this session, which the other side sends to.
    #[must_use]
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Returns the other side's index of this session, which we send to.
    #[must_use]
    pub const fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Returns whether we initiated the handshake. Only the initiator replaces a session because of its age.
    #[must_use]
    pub const fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Returns the time at which the handshake was completed.
    #[must_use]
    pub const fn created(&self) -> Instant {
        self.created
    }

    /// Returns whether packets may still be sealed: not retired, and younger than [`REJECT_AFTER_TIME`].
    #[must_use]
    pub fn may_send(&self, now: Instant) -> bool {
        self.may_send.load(Ordering::Relaxed) && now.since(self.created) < REJECT_AFTER_TIME
    }

    /// Returns whether packets may still be opened: younger than [`REJECT_AFTER_TIME`]. A retired session still
    /// receives, so that no packet in transit is lost.
    #[must_use]
    pub fn may_receive(&self, now: Instant) -> bool {
        now.since(self.created) < REJECT_AFTER_TIME
    }

    /// Stops sending with this session permanently.
    pub fn retire(&self) {
        self.may_send.store(false, Ordering::Relaxed);
    }

    /// Returns whether the number of sent messages requires a successor.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.counter.load(Ordering::Relaxed) > REKEY_AFTER_MESSAGES
    }

    /// Takes the counters of `n` messages at once and returns the first. If there are not enough left, the session is
    /// retired.
    #[must_use]
    pub fn take_counters(&self, n: usize) -> Option<u64> {
        // Not a plain addition: that would exceed the limit first and be corrected afterwards, and concurrent calls
        // could wrap it around to counters that were already used.
        let advance = |next: u64| next.checked_add(n as u64).filter(|end| *end <= REJECT_AFTER_MESSAGES);
        #[allow(deprecated, reason = "Rust 1.89 does not have its new name, try_update")]
        let taken = self.counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance);
        if taken.is_err() {
            self.retire();
        }
        taken.ok()
    }

    /// Seals a padded packet as a data message in place: `message` is 16 bytes for the header, the packet, and 16 bytes
    /// for the tag. Each counter must be used only once.
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

    /// Records authentic messages in the replay window, in order and under one lock. Calls `fresh` for each one that is
    /// neither a replay nor too old.
    pub fn accept<'m, M: 'm>(
        &self,
        messages: impl IntoIterator<Item = &'m mut M>,
        counter: impl Fn(&M) -> u64,
        mut fresh: impl FnMut(&'m mut M),
    ) {
        let mut window = sync::lock(&self.window);
        for message in messages {
            if window.accept(counter(message)) {
                fresh(message);
            }
        }
    }

    /// Advances the counter, for tests of its end.
    #[cfg(feature = "test-util")]
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
