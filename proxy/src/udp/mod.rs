//! Datagrams: sessions of one source each, which end after a time without traffic.
//!
//! | file | contents |
//! |---|---|
//! | `client` | local clients of one target in the tunnel |
//! | `server` | clients in the tunnel of one target on this side |
//! | `associate` | SOCKS5 UDP ASSOCIATE |
//! | `flow` | one flow from the tunnel to any address |
//! | `waiting` | datagrams that wait for the address of a name |

pub(crate) mod associate;
pub(crate) mod client;
pub(crate) mod flow;
pub(crate) mod server;
mod waiting;

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{engine::Outcome, stats::Place};

/// The maximum number of datagrams that are read from one socket before others have their turn.
const TURN: usize = 256;
/// The maximum number of sessions of a service, whatever its limit: each has a port.
const MAX_SESSIONS: usize = 8192;

/// The effect of an entry's turn on the engine's entries: sessions have tokens of their own.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) added: Vec<usize>,
    pub(crate) removed: Vec<usize>,
    /// The time of the service's next turn.
    pub(crate) deadline: Option<Instant>,
    /// Set if it has more to do at once, with this token.
    pub(crate) again: Option<usize>,
}

impl Changes {
    /// Records the outcome of an entry without sessions.
    pub(crate) fn follow(&mut self, token: usize, outcome: Outcome) {
        match outcome {
            Outcome::Wait => {}
            Outcome::Again => self.again = Some(token),
            Outcome::Done => self.removed.push(token),
        }
    }
}

/// The session of one source.
struct Session<K, S> {
    socket: S,
    source: K,
    used: Instant,
    place: Place,
}

/// Sessions by their source and by their token. The time of all operations except `expire` is independent of their
/// number.
struct Sessions<K, S> {
    tokens: HashMap<K, usize>,
    sessions: HashMap<usize, Session<K, S>>,
    /// By the time of their last use, as known at the last check: `used` may be later.
    order: BTreeSet<(Instant, usize)>,
    idle: Option<Duration>,
    max: usize,
}

impl<K: Copy + Eq + Hash, S> Sessions<K, S> {
    fn new(idle: Option<Duration>, max: usize) -> Self {
        Self {
            tokens: HashMap::new(),
            sessions: HashMap::new(),
            order: BTreeSet::new(),
            idle,
            max: max.clamp(1, MAX_SESSIONS),
        }
    }

    /// Replaces the limits. Excess sessions are ended when another one is added.
    fn set_limits(&mut self, idle: Option<Duration>, max: usize) {
        (self.idle, self.max) = (idle, max.clamp(1, MAX_SESSIONS));
    }

    fn of_token(&mut self, token: usize) -> Option<&mut Session<K, S>> {
        self.sessions.get_mut(&token)
    }

    /// Returns the session of a source, if there is one, and marks it as used.
    fn of_source(&mut self, source: K) -> Option<&mut Session<K, S>> {
        let session = self.sessions.get_mut(self.tokens.get(&source)?)?;
        session.used = Instant::now();
        Some(session)
    }

    /// Makes room for a new session, also if others have used up the total limit, by ending those that have been idle
    /// longest. Returns whether there is room.
    fn make_room(&mut self, is_full: impl Fn() -> bool, changes: &mut Changes) -> bool {
        while self.sessions.len() >= self.max || is_full() {
            if !self.end_oldest(changes) {
                return false;
            }
        }
        true
    }

    /// Returns the last use of the session that has been idle longest.
    fn idle_since(&mut self) -> Option<Instant> {
        let oldest = self.oldest()?;
        self.sessions.get(&oldest).map(|session| session.used)
    }

    /// Ends the session that has been idle longest. Returns whether there was one.
    fn end_oldest(&mut self, changes: &mut Changes) -> bool {
        self.oldest().map(|oldest| self.remove(oldest, changes)).is_some()
    }

    /// Adds a session, for which there must be room.
    fn insert(&mut self, token: usize, socket: S, source: K, place: Place, changes: &mut Changes) {
        let used = Instant::now();
        self.tokens.insert(source, token);
        self.sessions.insert(token, Session { socket, source, used, place });
        self.order.insert((used, token));
        changes.added.push(token);
        self.expire(changes);
    }

    /// Returns the session that has been idle longest.
    fn oldest(&mut self) -> Option<usize> {
        loop {
            let (at, token) = *self.order.first()?;
            let used = self.sessions.get(&token).map(|session| session.used);
            if used == Some(at) {
                return Some(token);
            }
            self.order.pop_first();
            self.order.extend(used.map(|used| (used, token)));
        }
    }

    fn remove(&mut self, token: usize, changes: &mut Changes) {
        if let Some(session) = self.sessions.remove(&token) {
            self.tokens.remove(&session.source);
            changes.removed.push(token);
        }
    }

    /// Ends idle sessions, and sets the next deadline.
    fn expire(&mut self, changes: &mut Changes) {
        let Some(idle) = self.idle else { return };
        let now = Instant::now();
        while let Some(oldest) = self.oldest() {
            let end = self.sessions.get(&oldest).map_or(now, |session| session.used + idle);
            if end > now {
                changes.deadline = Some(end);
                return;
            }
            self.remove(oldest, changes);
        }
    }
}

/// Returns the unspecified address of the target's family, with a free port.
const fn any_for(target: SocketAddr) -> SocketAddr {
    let any = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, 0)
}

/// Returns whether the process, or the system, has no descriptor left.
pub(crate) fn is_lack_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Ignores a datagram that could not be passed on: UDP permits losses.
fn lost(result: io::Result<usize>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a datagram is lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Both;

    fn source(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn place() -> Place {
        Place::take(&Both { service: std::sync::Arc::default(), all: std::sync::Arc::default() })
    }

    #[test]
    fn the_one_idle_longest_makes_room() {
        let mut sessions = Sessions::new(None, 2);
        let mut changes = Changes::default();
        sessions.insert(1, (), source(1), place(), &mut changes);
        sessions.insert(2, (), source(2), place(), &mut changes);
        assert!(sessions.of_source(source(1)).is_some());
        assert!(sessions.make_room(|| false, &mut changes));
        sessions.insert(3, (), source(3), place(), &mut changes);
        assert_eq!((changes.added, changes.removed), (vec![1, 2, 3], vec![2]));
        assert!(sessions.of_source(source(2)).is_none() && sessions.of_token(2).is_none());
        assert!(sessions.of_source(source(1)).is_some() && sessions.of_token(3).is_some());
        // There is none if others have all places.
        let mut changes = Changes::default();
        assert!(!sessions.make_room(|| true, &mut changes));
        assert!(sessions.sessions.is_empty());
        assert_eq!(changes.removed, [3, 1]);
    }

    #[test]
    fn idle_ones_end_and_others_set_the_deadline() {
        let mut sessions = Sessions::new(Some(Duration::from_secs(3600)), 9);
        let mut changes = Changes::default();
        for token in 1..=3 {
            sessions.insert(token, (), source(token as u16), place(), &mut changes);
        }
        let now = Instant::now();
        if let Some(past) = now.checked_sub(Duration::from_secs(7200)) {
            for token in [1, 3] {
                let session = sessions.of_token(token).map(|session| std::mem::replace(&mut session.used, past));
                sessions.order.extend(session.map(|_| (past, token)));
            }
        }
        sessions.expire(&mut changes);
        assert_eq!(changes.removed, [1, 3]);
        assert!(changes.deadline.is_some_and(|at| at > now));
        assert_eq!(sessions.sessions.len(), 1);
    }
}
