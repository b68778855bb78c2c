//! The end of a peer: its sessions, handshake, timers and staged packets are dropped, which wipes their keys.

use std::sync::Arc;

use super::{
    Device,
    events::Event,
    lock,
    peer::{Peer, State},
    stats::count,
};
use crate::noise::handshake::Handshake;

impl Device {
    /// Ends a peer that was removed from the list.
    pub(super) fn remove(&self, peer: &Arc<Peer>) {
        self.allowed_ips.remove_all(peer);
        self.retire(peer);
    }

    /// Ends a peer without prefixes.
    pub(super) fn retire(&self, peer: &Arc<Peer>) {
        lock(&peer.state).removed = true;
        self.silence(peer);
        self.budget.shrink(self.memory_per_peer);
    }

    /// Stops all activities of a peer: timers, sessions, handshake, staged packets.
    ///
    /// Activities of a peer are started only under its `handshake` lock and only while it [is live](State::is_live), so
    /// activities on other threads leave nothing behind.
    pub(super) fn silence(&self, peer: &Arc<Peer>) {
        let mut handshaking = lock(&peer.handshake);
        let mut state = lock(&peer.state);
        self.reset(peer, &mut handshaking.noise, &mut state);
        state.timers.stop();
        if state.location.stop_lookup() {
            self.withdraw_question(peer);
        }
    }

    /// Forgets the state of a peer. It is no longer listed under a deadline. Returns whether there was a session.
    pub(super) fn reset(&self, peer: &Arc<Peer>, handshake: &mut Handshake, state: &mut State) -> bool {
        state.timers.reset();
        if let Some(at) = state.scheduled.take() {
            self.deadlines.remove(peer, at);
        }
        count(&self.stats.out_unstaged, state.take_staged().len());
        self.budget.list(peer, state);
        self.forget_keys(handshake, state)
    }

    /// Forgets a peer's sessions and handshake, which have ended.
    pub(super) fn wipe_keys(&self, peer: &Peer) {
        let mut handshaking = lock(&peer.handshake);
        let mut state = lock(&peer.state);
        state.timers.keys_wiped();
        if self.forget_keys(&mut handshaking.noise, &mut state) {
            self.events.note(Event::SessionExpired(*peer.key()));
        }
    }

    /// Forgets a peer's sessions and handshake; dropping them wipes the keys. Returns whether there was a session.
    fn forget_keys(&self, handshake: &mut Handshake, state: &mut State) -> bool {
        self.index.remove(handshake.local_index());
        handshake.clear();
        let indices = state.sessions.clear();
        self.index.remove(indices.into_iter().flatten());
        indices != [None; 3]
    }
}
