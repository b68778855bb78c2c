//! One peer: its sessions, its handshake, its timers, its staged packets, its endpoint.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    allowed_ips::{Owner, PrefixList},
    endpoints::location::Location,
    lock,
    loops::Looping,
    memory::shared_memory,
    source::LastCheck,
    staged::StagedMessage,
};
use crate::{
    bind::Endpoint,
    key::PublicKey,
    noise::{
        KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT, cookie::MacStamper,
        handshake::Handshake, session::Session, timers::Timers,
    },
    sync::try_lock,
    time::Instant,
};

/// The maximum number of staged packets; the oldest is dropped for a new one. The kernel's limit is 128
/// (`MAX_STAGED_PACKETS`), but it checks before it adds a packet, and so keeps one more.
pub const MAX_STAGED: usize = 128 + 1;

/// A peer. Its two locks are taken in the order `handshake`, `state`, and neither is held across I/O.
pub(super) struct Peer {
    id: u64,
    key: PublicKey,
    /// Held while a handshake message is computed; never by the data path.
    pub(super) handshake: Mutex<Handshaking>,
    /// Held only briefly by the data path, once for a run of packets.
    pub(super) state: Mutex<State>,
    /// The last check of the endpoint's source address. Written with `state` locked.
    pub(super) source: LastCheck,
    prefixes: Mutex<PrefixList>,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
}

/// The state for handshake messages.
pub(super) struct Handshaking {
    pub(super) noise: Handshake,
    pub(super) macs: MacStamper,
    /// The number of our key for the handshake and the sessions.
    pub(super) own_key: u32,
}

/// All other variable state.
#[derive(Default)]
pub(super) struct State {
    pub(super) timers: Timers,
    /// The deadline under which the peer is listed; never later than that of `timers`.
    pub(super) scheduled: Option<Instant>,
    pub(super) sessions: Sessions,
    /// Initiations since the peer's last message, or since the sockets were renewed.
    pub(super) unanswered: u8,
    /// Initiations since the peer's last message, or since it was last reported that it does not answer.
    pub(super) attempts: u8,
    /// Whether that was reported although the handshake goes on.
    pub(super) is_failure_told: bool,
    staged: VecDeque<StagedMessage>,
    /// The memory of the staged packets in the budget.
    staged_size: usize,
    /// Their memory when they were last counted.
    pub(super) listed_size: usize,
    /// Whether staged packets are being sent: until that is done, later packets wait as well, or else they would
    /// overtake them.
    pub(super) is_sending_staged: bool,
    /// The number of runs of packets in the ring of jobs, which have been assigned a session but not yet been sent.
    pub(super) in_ring: u32,
    pub(super) location: Location,
    /// The wall-clock time; zero if there was none.
    pub(super) last_handshake: Duration,
    /// The time of the last change of the endpoint.
    pub(super) last_move: Option<Instant>,
    /// Set if datagrams to the peer have arrived through the TUN.
    pub(super) looping: Option<Box<Looping>>,
    /// Whether there was a session before a pause, which is to be replaced when the interface comes up after it.
    pub(super) had_session: bool,
    /// Whether the app requested a handshake while the interface was down.
    pub(super) wants_handshake: bool,
    /// Whether the peer was removed from the device; nothing is started for it any more.
    pub(super) removed: bool,
}

impl State {
    /// Returns the memory of staged packets in bytes.
    fn staged_memory(&self) -> usize {
        let messages: usize = self.staged.iter().map(|message| message.len()).sum();
        messages + self.staged.capacity() * size_of::<StagedMessage>()
    }

    /// Stages a packet. Returns how many had to be dropped for it.
    pub(super) fn stage(&mut self, message: StagedMessage) -> usize {
        let dropped = (self.staged.len() + 1).saturating_sub(MAX_STAGED);
        (0..dropped).for_each(|_| self.drop_oldest());
        if self.staged.try_reserve(1).is_err() {
            return dropped + 1;
        }
        self.staged_size += message.size();
        self.staged.push_back(message);
        dropped
    }

    /// Drops the oldest staged packet.
    pub(super) fn drop_oldest(&mut self) {
        let oldest = self.staged.pop_front();
        self.staged_size -= oldest.map_or(0, |message| message.size());
    }

    /// Returns the memory of staged packets in the budget.
    pub(super) const fn staged_size(&self) -> usize {
        self.staged_size
    }

    /// Returns whether activities may be started: the interface is up, and the peer not removed.
    pub(super) const fn is_live(&self) -> bool {
        self.timers.is_running() && !self.removed
    }

    pub(super) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Returns whether packets must wait for those before them.
    pub(super) fn must_wait(&self) -> bool {
        self.has_staged() || self.is_sending_staged
    }

    /// Returns the staged packets, oldest first.
    pub(super) const fn staged(&self) -> &VecDeque<StagedMessage> {
        &self.staged
    }

    /// Takes the staged packets, and frees their memory.
    pub(super) fn take_staged(&mut self) -> VecDeque<StagedMessage> {
        self.staged_size = 0;
        std::mem::take(&mut self.staged)
    }

    /// Takes all staged packets, a session to send them with, and the first of its counters; or nothing, if there is no
    /// session.
    pub(super) fn begin_sending_staged(
        &mut self,
        now: Instant,
    ) -> Option<(VecDeque<StagedMessage>, Arc<Session>, u64)> {
        let (session, first) = self.begin_sending(self.staged.len(), now)?;
        Some((self.take_staged(), session, first))
    }

    /// Returns the session for sending, and the first of `n` counters taken from it.
    pub(super) fn begin_sending(&self, n: usize, now: Instant) -> Option<(Arc<Session>, u64)> {
        let session = self.sessions.current.as_ref().filter(|s| s.may_send(now))?;
        let first = session.take_counters(n)?;
        Some((session.clone(), first))
    }

    /// Returns the time of the peer's next deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next_deadline().into_iter().chain(self.location.next_lookup()).min()
    }

    /// Returns whether there is a reason to resolve the peer's name.
    pub(super) fn is_wanted(&self) -> bool {
        self.has_staged() || self.timers.is_retrying() || self.timers.keepalive_interval() != 0
    }

    /// Returns whether it is time to resolve the peer's name again, and there still is a reason for it.
    pub(super) fn take_due_lookup(&mut self, now: Instant) -> bool {
        self.location.take_due_lookup(now) && self.is_wanted()
    }

    /// Returns whether packets can be sent at once.
    pub(super) fn has_session(&self, now: Instant) -> bool {
        self.sessions.current.as_ref().is_some_and(|s| s.may_send(now))
    }

    /// Returns whether a keepalive could only start a handshake that is already in progress. The next attempt of that
    /// comes by itself, at a random time; if both ends had keepalives at the interval of the retries (5 s) or below,
    /// they would repeatedly start theirs at the same time, and cancel each other.
    pub(super) fn keepalive_is_idle(&self, now: Instant) -> bool {
        self.timers.is_retrying() && !self.has_session(now)
    }

    /// Returns whether it is time for a new session after a packet was sent: the current one has sent too many
    /// messages, or is old and ours to renew. It may even have expired, if sending took long.
    pub(super) fn is_stale_for_sending(&self, now: Instant) -> bool {
        self.sessions
            .current
            .as_ref()
            .is_some_and(|s| s.is_worn() || (s.is_initiator() && now.since(s.created()) >= REKEY_AFTER_TIME))
    }

    /// Returns, once for each session, whether it is the last chance to renew the session after a packet was received,
    /// so that a peer that only receives does not lose its session.
    pub(super) fn take_lastminute_handshake(&mut self, now: Instant) -> bool {
        const AGE: Duration = REJECT_AFTER_TIME.saturating_sub(KEEPALIVE_TIMEOUT).saturating_sub(REKEY_TIMEOUT);
        let due = self
            .sessions
            .current
            .as_ref()
            .is_some_and(|s| s.may_send(now) && s.is_initiator() && now.since(s.created()) >= AGE);
        due && self.timers.take_lastminute_handshake()
    }
}

/// The sessions of a peer, in the kernel's three slots.
#[derive(Default)]
pub(super) struct Sessions {
    /// For receiving messages that are still in transit.
    previous: Option<Arc<Session>>,
    /// For sending.
    current: Option<Arc<Session>>,
    /// Created as responder, and not used until the other side has proven that it also has it.
    next: Option<Arc<Session>>,
}

impl Sessions {
    /// Returns the session for sending, whatever its age.
    pub(super) const fn current(&self) -> Option<&Arc<Session>> {
        self.current.as_ref()
    }

    /// Returns whether messages with this receiver index are ours.
    pub(super) fn send_to(&self, receiver: u32) -> bool {
        let sessions = [&self.previous, &self.current, &self.next];
        sessions.into_iter().flatten().any(|session| session.remote_index() == receiver)
    }

    /// Returns the memory of the sessions in bytes.
    fn memory(&self) -> usize {
        [&self.previous, &self.current, &self.next].into_iter().flatten().count() * shared_memory::<Session>()
    }

    /// Installs a new session. Returns the indices of those that it displaces.
    pub(super) fn install(&mut self, new: Arc<Session>) -> [Option<u32>; 2] {
        let out = if new.is_initiator() {
            // The other side has proven that it has the session, so it is used at once. An unconfirmed `next` may still
            // be confirmed, so it continues to receive.
            let current = self.current.replace(new);
            match self.next.take() {
                Some(next) => [self.previous.replace(next), current],
                None => [std::mem::replace(&mut self.previous, current), None],
            }
        } else {
            [self.next.replace(new), self.previous.take()]
        };
        out.map(index)
    }

    /// Reports that a message was received with `session`. If that confirms it, it becomes the current one; returns the
    /// index of a session that it displaces.
    pub(super) fn confirm(&mut self, session: &Arc<Session>) -> Option<Option<u32>> {
        let next = self.next.take_if(|next| Arc::ptr_eq(next, session))?;
        let current = self.current.replace(next);
        Some(index(std::mem::replace(&mut self.previous, current)))
    }

    /// Returns whether this is still one of them: it has been neither replaced nor forgotten.
    pub(super) fn contains(&self, session: &Session) -> bool {
        let sessions = [&self.previous, &self.current, &self.next];
        sessions.into_iter().flatten().any(|one| std::ptr::eq(&**one, session))
    }

    /// Stops sending with these sessions.
    pub(super) fn retire(&self) {
        for session in [&self.previous, &self.current, &self.next].into_iter().flatten() {
            session.retire();
        }
    }

    /// Forgets all sessions and returns their indices. Another thread that is sending with one stops.
    pub(super) fn clear(&mut self) -> [Option<u32>; 3] {
        self.retire();
        [self.previous.take(), self.current.take(), self.next.take()].map(index)
    }
}

fn index(session: Option<Arc<Session>>) -> Option<u32> {
    session.map(|s| s.local_index())
}

impl Peer {
    pub(super) fn new(id: u64, key: PublicKey, own_key: u32) -> Self {
        Self {
            id,
            key,
            handshake: Mutex::new(Handshaking { noise: Handshake::new(key), macs: MacStamper::default(), own_key }),
            state: Mutex::default(),
            source: LastCheck::default(),
            prefixes: Mutex::default(),
            tx_bytes: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
        }
    }

    /// Returns the peer's number, which is unique in the device and never reused.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Reports that an authentic message came from here, which sets the endpoint. Returns true if the peer has moved.
    pub(super) fn roam(&self, state: &mut State, from: Endpoint) -> bool {
        let before = state.location.endpoint();
        let moved = state.location.roam(from);
        (state.unanswered, state.attempts, state.is_failure_told) = (0, 0, false);
        if state.location.endpoint() != before {
            self.source.forget();
        }
        moved
    }

    /// Counts sent UDP payload.
    pub(super) fn add_tx(&self, bytes: usize) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts received authentic UDP payload.
    pub(super) fn add_rx(&self, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> (u64, u64) {
        (self.tx_bytes.load(Ordering::Relaxed), self.rx_bytes.load(Ordering::Relaxed))
    }

    /// Returns the memory of the peer, and of its staged packets, in bytes.
    pub(super) fn memory(&self) -> (usize, usize) {
        // While a message is being computed there is a handshake, and this does not wait for it.
        let is_pending = try_lock(&self.handshake).is_none_or(|handshaking| handshaking.noise.is_pending());
        let pending = if is_pending { Handshake::PENDING_MEMORY } else { 0 };
        let prefixes = lock(&self.prefixes).memory();
        let state = lock(&self.state);
        let looping = state.looping.as_ref().map_or(0, |_| size_of::<Looping>());
        let own =
            shared_memory::<Self>() + pending + prefixes + state.location.memory() + looping + state.sessions.memory();
        (own, state.staged_memory())
    }

    /// Releases unused memory.
    pub(super) fn trim(&self) {
        lock(&self.prefixes).trim();
        lock(&self.state).staged.shrink_to_fit();
    }

    /// Forgets the source address of our packets, which may be wrong: the system chooses another.
    pub(super) fn forget_source(&self) {
        lock(&self.state).location.clear_source();
    }
}

impl Owner for Arc<Peer> {
    fn with_list<R>(&self, f: impl FnOnce(&mut PrefixList) -> R) -> R {
        f(&mut lock(&self.prefixes))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_wanted_any_more_is_not_looked_up_again() {
        const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
        let mut state = State::default();
        state.location.set_host("b.example:7".parse().unwrap());
        for (interval, expected) in [(25, true), (0, false)] {
            let _ = state.timers.set_keepalive_interval(interval);
            state.location.retry_lookup();
            assert!(state.next_deadline().is_some());
            assert_eq!((state.take_due_lookup(NOW), state.next_deadline()), (expected, None));
        }
    }
}
