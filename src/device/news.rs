//! What of a peer is logged at INFO: its first handshake, and that it has moved.

use std::time::Duration;

use super::peer::{Peer, State};
use crate::{bind::Endpoint, time::Instant};

/// A peer that moves again within this time is between two addresses: from then on its moves are logged at DEBUG, as
/// each packet may be one.
const CALM: Duration = Duration::from_secs(5);

/// What a message has changed, for the log. No lock is held while something is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    FirstHandshake,
    Moved,
    /// The peer has moved, but this is nothing new, or it has no handshake yet.
    MovedAgain,
}

impl News {
    /// This, or else `other`: a first handshake is logged with the endpoint, so the move to there need not be.
    pub(super) const fn or(self, other: Self) -> Self {
        if matches!(self, Self::None) { other } else { self }
    }

    /// Logs it, about a peer that is at `at` now.
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
    /// A handshake was completed at this time of the wall clock.
    pub(super) fn handshake_completed(&mut self, wall: Duration) -> News {
        let is_first = std::mem::replace(&mut self.last_handshake, wall).is_zero();
        if is_first { News::FirstHandshake } else { News::None }
    }

    /// The peer's endpoint is another one than before.
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
