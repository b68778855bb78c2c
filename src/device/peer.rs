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

/// Packets that wait for a session; the oldest is dropped for one more. The kernel's limit is 128
/// (`MAX_STAGED_PACKETS`), but it looks before it adds a packet, and so keeps one more.
pub const MAX_STAGED: usize = 128 + 1;

/// A peer. Its two locks are taken in the order `handshake`, `state`, and neither is held across I/O.
pub(super) struct Peer {
    id: u64,
    key: PublicKey,
    /// Held while a handshake message is computed; never by the data path.
    pub(super) handshake: Mutex<Handshaking>,
    /// Held for a moment by the data path, once for a run of packets.
    pub(super) state: Mutex<State>,
    /// About the source address of the endpoint. Written with `state` locked.
    pub(super) source: LastCheck,
    prefixes: Mutex<PrefixList>,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
}

/// What making and taking handshake messages needs.
pub(super) struct Handshaking {
    pub(super) noise: Handshake,
    pub(super) macs: MacStamper,
    /// The number of our key that the handshake and the sessions were made with.
    pub(super) own_key: u32,
}

/// Everything else that changes.
#[derive(Default)]
pub(super) struct State {
    pub(super) timers: Timers,
    /// The deadline under which the peer is listed; never later than that of `timers`.
    pub(super) scheduled: Option<Instant>,
    pub(super) sessions: Sessions,
    /// Initiations since the peer was heard last, or the sockets were renewed.
    pub(super) unanswered: u8,
    staged: VecDeque<StagedMessage>,
    /// What they take of the budget.
    staged_size: usize,
    /// What they took when they were counted last.
    pub(super) listed_size: usize,
    /// What waited is being sent: until that is done, later packets wait as well, or else they would overtake it.
    pub(super) is_sending_staged: bool,
    pub(super) location: Location,
    /// Wall-clock time; zero if there was none.
    pub(super) last_handshake: Duration,
    /// When the endpoint became another one.
    pub(super) last_move: Option<Instant>,
    /// Datagrams to it have come in through the TUN.
    pub(super) looping: Option<Box<Looping>>,
    /// There was a session before a pause, and one is to be made when the interface comes up after it.
    pub(super) had_session: bool,
    /// The app has asked for a handshake while the interface was down.
    pub(super) wants_handshake: bool,
    /// The peer was taken out of the device; nothing is begun for it any more.
    pub(super) removed: bool,
}

impl State {
    /// Bytes that what waits takes.
    fn staged_memory(&self) -> usize {
        let messages: usize = self.staged.iter().map(|message| message.len()).sum();
        messages + self.staged.capacity() * size_of::<StagedMessage>()
    }

    /// Adds a packet to those that wait. Returns how many had to be dropped for it.
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

    /// Drops the packet that has waited longest.
    pub(super) fn drop_oldest(&mut self) {
        let oldest = self.staged.pop_front();
        self.staged_size -= oldest.map_or(0, |message| message.size());
    }

    /// What waits takes so much of the budget.
    pub(super) const fn staged_size(&self) -> usize {
        self.staged_size
    }

    /// Whether anything may be begun: the interface is up, and the peer not removed.
    pub(super) const fn is_live(&self) -> bool {
        self.timers.is_running() && !self.removed
    }

    pub(super) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Whether packets must wait for those before them.
    pub(super) fn must_wait(&self) -> bool {
        self.has_staged() || self.is_sending_staged
    }

    /// What waits, oldest first.
    pub(super) const fn staged(&self) -> &VecDeque<StagedMessage> {
        &self.staged
    }

    /// Takes what waits, and frees the memory.
    pub(super) fn take_staged(&mut self) -> VecDeque<StagedMessage> {
        self.staged_size = 0;
        std::mem::take(&mut self.staged)
    }

    /// Takes everything that waits, a session to send it with, and the first of its counters; or nothing, if there is
    /// no session.
    pub(super) fn begin_sending_staged(
        &mut self,
        now: Instant,
    ) -> Option<(VecDeque<StagedMessage>, Arc<Session>, u64)> {
        let (session, first) = self.begin_sending(self.staged.len(), now)?;
        Some((self.take_staged(), session, first))
    }

    /// The session to send with, and the first of `n` counters taken from it.
    pub(super) fn begin_sending(&self, n: usize, now: Instant) -> Option<(Arc<Session>, u64)> {
        let session = self.sessions.current.as_ref().filter(|s| s.may_send(now))?;
        let first = session.take_counters(n)?;
        Some((session.clone(), first))
    }

    /// When something is to be done for the peer.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next_deadline().into_iter().chain(self.location.next_lookup()).min()
    }

    /// Whether there is a reason to look for the peer.
    pub(super) fn is_wanted(&self) -> bool {
        self.has_staged() || self.timers.is_retrying() || self.timers.keepalive_interval() != 0
    }

    /// Whether the time has come to look the peer's name up again, and there still is a reason for it.
    pub(super) fn take_due_lookup(&mut self, now: Instant) -> bool {
        self.location.take_due_lookup(now) && self.is_wanted()
    }

    /// Whether packets can be sent at once.
    pub(super) fn has_session(&self, now: Instant) -> bool {
        self.sessions.current.as_ref().is_some_and(|s| s.may_send(now))
    }

    /// Whether a keepalive could only begin a handshake that is under way already. Its next try comes by itself, at a
    /// random moment; keepalives of two ends at the interval of the retries (5 s) or below would begin theirs in the
    /// same moment again and again, and undo each other's.
    pub(super) fn keepalive_is_idle(&self, now: Instant) -> bool {
        self.timers.is_retrying() && !self.has_session(now)
    }

    /// Whether it is time for a new session after a packet was sent: the current one is worn, or old and ours to renew.
    /// It may even be over, if sending took its time.
    pub(super) fn is_stale_for_sending(&self, now: Instant) -> bool {
        self.sessions
            .current
            .as_ref()
            .is_some_and(|s| s.is_worn() || (s.is_initiator() && now.since(s.created()) >= REKEY_AFTER_TIME))
    }

    /// Whether it is the last chance to renew the session after a packet was received, so that a peer that only
    /// receives does not lose its session. True once for each session.
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

/// The sessions of a peer, in the kernel's three places.
#[derive(Default)]
pub(super) struct Sessions {
    /// Used for receiving what is still on its way.
    previous: Option<Arc<Session>>,
    /// Used for sending.
    current: Option<Arc<Session>>,
    /// Made as responder, and not used until the other side has shown that it has it too.
    next: Option<Arc<Session>>,
}

impl Sessions {
    /// The session to send with, whatever its age.
    pub(super) const fn current(&self) -> Option<&Arc<Session>> {
        self.current.as_ref()
    }

    /// Whether messages with this receiver index are ours.
    pub(super) fn send_to(&self, receiver: u32) -> bool {
        let sessions = [&self.previous, &self.current, &self.next];
        sessions.into_iter().flatten().any(|session| session.remote_index() == receiver)
    }

    /// Bytes that the sessions take.
    fn memory(&self) -> usize {
        [&self.previous, &self.current, &self.next].into_iter().flatten().count() * shared_memory::<Session>()
    }

    /// Puts a new session in its place. Returns the indices of those that fall out.
    pub(super) fn install(&mut self, new: Arc<Session>) -> [Option<u32>; 2] {
        let out = if new.is_initiator() {
            // The other side has proven that it has the session, so it is used at once. A `next` that was not
            // confirmed yet may be still, so it receives on.
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

    /// A message was received with `session`. If that confirms it, it becomes the current one; returns the index of
    /// the one that falls out, if there is one.
    pub(super) fn confirm(&mut self, session: &Arc<Session>) -> Option<Option<u32>> {
        let next = self.next.take_if(|next| Arc::ptr_eq(next, session))?;
        let current = self.current.replace(next);
        Some(index(std::mem::replace(&mut self.previous, current)))
    }

    /// Whether this is still one of them: it has neither been replaced nor forgotten.
    pub(super) fn contains(&self, session: &Session) -> bool {
        let sessions = [&self.previous, &self.current, &self.next];
        sessions.into_iter().flatten().any(|one| std::ptr::eq(&**one, session))
    }

    /// Nothing is sent with these sessions any more.
    pub(super) fn retire(&self) {
        for session in [&self.previous, &self.current, &self.next].into_iter().flatten() {
            session.retire();
        }
    }

    /// Forgets all sessions and returns their indices. Another thread that is sending with one stops at it.
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

    /// A number that no other peer of the device has or had.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// An authentic message came from here: the peer is there now. Returns true if it was elsewhere before.
    pub(super) fn roam(&self, state: &mut State, from: Endpoint) -> bool {
        let before = state.location.endpoint();
        let moved = state.location.roam(from);
        state.unanswered = 0;
        if state.location.endpoint() != before {
            self.source.forget();
        }
        moved
    }

    /// Counts UDP payload that was sent.
    pub(super) fn add_tx(&self, bytes: usize) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts authentic UDP payload that was received.
    pub(super) fn add_rx(&self, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> (u64, u64) {
        (self.tx_bytes.load(Ordering::Relaxed), self.rx_bytes.load(Ordering::Relaxed))
    }

    /// Bytes that the peer takes, and those that the packets take that wait for it.
    pub(super) fn memory(&self) -> (usize, usize) {
        // While a message is computed there is a handshake, and that is not waited for.
        let is_pending = try_lock(&self.handshake).is_none_or(|handshaking| handshaking.noise.is_pending());
        let pending = if is_pending { Handshake::PENDING_MEMORY } else { 0 };
        let prefixes = lock(&self.prefixes).memory();
        let state = lock(&self.state);
        let looping = state.looping.as_ref().map_or(0, |_| size_of::<Looping>());
        let own =
            shared_memory::<Self>() + pending + prefixes + state.location.memory() + looping + state.sessions.memory();
        (own, state.staged_memory())
    }

    /// Gives back what is not needed now.
    pub(super) fn trim(&self) {
        lock(&self.prefixes).trim();
        lock(&self.state).staged.shrink_to_fit();
    }

    /// The source address of our packets to it may be the trouble: lets the system choose another.
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
