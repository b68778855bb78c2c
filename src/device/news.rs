//! Log messages at INFO about a peer: its first handshake, and its moves.

use std::time::Duration;

use super::peer::{Peer, State};
use crate::{bind::Endpoint, time::Instant};

/// A peer that moves again within this time alternates between two addresses: its moves are then logged at DEBUG, as
/// each packet may be one.
const CALM: Duration = Duration::from_secs(5);

/// A change by a message, for the log. Nothing is logged while a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    FirstHandshake,
    Moved,
    /// The peer has moved again soon, or it has no handshake yet.
    MovedAgain,
}

impl News {
    /// Returns this, or else `other`: a first handshake is logged with the endpoint, so a move to it need not be.
    pub(super) const fn or(self, other: Self) -> Self {
        if matches!(self, Self::None) { other } else { self }
    }

    /// Logs the change of a peer, whose endpoint is now `at`.
    pub(super) fn log(self, peer: &Peer, at: Endpoint) {
        let (peer, endpoint) = (peer.key(), at.dst);
        match self {
            Self::None => {}
            Self::FirstHandshake => tracing::info!(%peer, %endpoint, "the first handshake with the peer is complete"),
            Self::Moved => tracing::info!(%peer, %endpoint, "the peer has moved"),
            Self::MovedAgain => tracing::debug!(%peer, %endpoint, "the peer has moved"),
        }
    }
}

impl State {
    /// Reports that a handshake was completed at this wall-clock time.
    pub(super) fn handshake_completed(&mut self, wall: Duration) -> News {
        let is_first = std::mem::replace(&mut self.last_handshake, wall).is_zero();
        if is_first { News::FirstHandshake } else { News::None }
    }

    /// Reports that the peer's endpoint has changed.
    pub(super) fn moved(&mut self, now: Instant) -> News {
        let is_calm = self.last_move.replace(now).is_none_or(|last| now.since(last) >= CALM);
        if is_calm && !self.last_handshake.is_zero() { News::Moved } else { News::MovedAgain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_moves_all_the_time_is_news_once() {
        let at = |ms| Instant::from_nanos(1_000_000_000_000) + Duration::from_millis(ms);
        let mut state = State::default();
        assert_eq!(state.moved(at(0)), News::MovedAgain, "no handshake yet");
        assert_eq!(state.handshake_completed(Duration::from_secs(1)), News::FirstHandshake);
        assert_eq!(state.handshake_completed(Duration::from_secs(2)), News::None);
        let moves = [(5000, News::Moved), (9999, News::MovedAgain), (14_000, News::MovedAgain), (19_000, News::Moved)];
        for (ms, expected) in moves {
            assert_eq!(state.moved(at(ms)), expected, "{ms}");
        }
    }
}
