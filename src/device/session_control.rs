//! Sessions as the app wants them: a handshake now, or none of what there is.

use std::sync::Arc;

use super::{Device, events::Event, lock, no_such_peer, peer::Peer, send::Reason};
use crate::{
    error::{Error, ErrorKind, Result},
    key::PublicKey,
};

impl Device {
    /// Begins a handshake with a peer, or with all peers whose endpoints are known, whatever sessions there are. They
    /// are used until it is complete, and it has all its tries before it.
    ///
    /// Initiations stay 5 s apart (`REKEY_TIMEOUT`, from our last handshake message to the peer on): before that
    /// nothing is sent, and a handshake that is under way goes on. If the endpoint is a host name without an address,
    /// it begins when there is one; if the interface is down, when it is up, unless
    /// [`drop_session`](Self::drop_session) is called before.
    ///
    /// # Errors
    /// `NotFound` if there is no private key or no such peer, or nothing is known of where it is.
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
            // It waits for the address, and asks for it.
            self.send_keepalive(peer);
        }
        Ok(())
    }

    /// Forgets the sessions and the handshake of a peer, or of all peers, and drops the packets that wait: as if it had
    /// just been configured, at the endpoint where it is now. Nothing of the old sessions is accepted any more. A
    /// handshake may begin at once; with a persistent keepalive it does.
    ///
    /// Nothing is waited for: packets that other threads have accepted or sealed by then may still reach the TUN or the
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
            (state.unanswered, state.had_session, state.wants_handshake) = (0, false, false);
            if self.reset(peer, &mut handshaking.noise, &mut state) {
                self.events.note(Event::SessionExpired(*peer.key()));
            }
            // A name may still have to be looked up.
            self.schedule(peer, &mut state);
            state.timers.keepalive_interval() != 0
        };
        if keepalive {
            self.send_keepalive(peer);
        }
    }
}
