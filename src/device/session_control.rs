//! Control of sessions by the app: handshakes on demand, and dropping sessions.

use std::sync::Arc;

use super::{Device, events::Event, lock, no_such_peer, peer::Peer, send::Reason};
use crate::{
    error::{Error, ErrorKind, Result},
    key::PublicKey,
};

impl Device {
    /// Begins a handshake with a peer, or with all peers whose endpoints are known, even if there are sessions. These
    /// are used until it is complete, and it gets all its attempts.
    ///
    /// Initiations remain 5 s apart (`REKEY_TIMEOUT`, from our last handshake message to the peer): before that nothing
    /// is sent, and a handshake in progress continues. If the endpoint is a host name without an address, the handshake
    /// begins when there is one; if the interface is down, when it is up, unless [`drop_session`](Self::drop_session)
    /// is called before.
    ///
    /// # Errors
    /// `NotFound` if there is no private key or no such peer, or it has neither an endpoint nor a host name.
    pub fn force_handshake(&self, peer: Option<&PublicKey>) -> Result<()> {
        self.public_key()?;
        self.notice_sleep();
        let begun = match peer {
            Some(key) => self.peers.get(key).ok_or_else(|| no_such_peer(key)).and_then(|peer| self.begin(&peer)),
            None => {
                self.peers.list().for_each(|peer| drop(self.begin(&peer)));
                Ok(())
            }
        };
        self.tell_events();
        begun
    }

    pub(super) fn begin(&self, peer: &Arc<Peer>) -> Result<()> {
        let has_address = {
            let mut state = lock(&peer.state);
            if !state.location.is_configured() {
                return Err(Error::new(ErrorKind::NotFound, format!("peer {} has no endpoint", peer.key())));
            }
            if !state.timers.is_running() {
                state.wants_handshake = true;
                return Ok(());
            }
            state.location.endpoint().is_some()
        };
        if has_address {
            self.initiate(peer, Reason::Fresh);
        } else {
            // It waits for the address, and requests it.
            self.send_keepalive(peer);
        }
        Ok(())
    }

    /// Forgets the sessions and the handshake of a peer, or of all peers, and drops staged packets: as if the peer had
    /// just been configured with its current endpoint. Messages of the old sessions are no longer accepted. A handshake
    /// may begin at once; with a persistent keepalive it does.
    ///
    /// It does not wait: packets that other threads have already accepted or sealed may still reach the TUN or the
    /// network a moment later, and a handshake that one of them is about to begin may follow.
    ///
    /// # Errors
    /// `NotFound` if there is no such peer.
    pub fn drop_session(&self, peer: Option<&PublicKey>) -> Result<()> {
        match peer {
            Some(key) => self.start_over(&self.peers.get(key).ok_or_else(|| no_such_peer(key))?),
            None => self.peers.list().for_each(|peer| self.start_over(&peer)),
        }
        self.tell_events();
        Ok(())
    }

    fn start_over(&self, peer: &Arc<Peer>) {
        let keepalive = {
            let mut handshaking = lock(&peer.handshake);
            let mut state = lock(&peer.state);
            (state.unanswered, state.attempts, state.is_failure_told) = (0, 0, false);
            (state.had_session, state.wants_handshake) = (false, false);
            if self.reset(peer, &mut handshaking.noise, &mut state) {
                self.events.note(Event::SessionExpired(*peer.key()));
            }
            // A name may still have to be resolved.
            self.schedule(peer, &mut state);
            state.timers.keepalive_interval() != 0
        };
        if keepalive {
            self.send_keepalive(peer);
        }
    }
}
