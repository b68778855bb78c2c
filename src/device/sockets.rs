//! Whether the device is up: opening, closing and renewing its sockets, again and again if need be.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use super::{Config, Device, Event, backoff::Backoff, lock, peer::Peer, read, send::Reason};
use crate::error::{Error, Result};

/// When sockets that cannot be opened are tried again: first after this (wireguard-apple's interval), and each time after
/// twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// But at least this often: a person would hardly wait for longer.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The sockets could not be opened.
pub(super) struct Retry(Backoff);

impl Device {
    /// Brings the device up: opens the sockets and begins what is to be begun. Does nothing if it is up.
    ///
    /// # Errors
    /// As the bind says; the device is then still down.
    pub fn up(&self) -> Result<()> {
        let now = self.clock.now();
        let peers = {
            let mut config = lock(&self.config);
            if config.up {
                return Ok(());
            }
            self.open_sockets(&mut config)?;
            config.up = true;
            let peers = read(&self.peers).list();
            peers.iter().for_each(|peer| lock(&peer.state).timers.start());
            peers
        };
        tracing::debug!("the interface is up");
        self.sockets_are_open();
        for peer in peers {
            self.look_up_anew(&peer);
            let keepalive = lock(&peer.state).timers.keepalive_interval() != 0;
            if keepalive {
                self.send_keepalive(&peer, now);
            } else {
                self.send_staged(&peer, now);
            }
        }
        Ok(())
    }

    /// Takes the device down: sessions and what is under way are forgotten, the sockets closed. The configuration
    /// stays. Sockets that could not be opened are not tried again.
    pub fn down(&self) {
        let mut config = lock(&self.config);
        (config.retry, config.rebind) = (None, false);
        self.deadlines.set_own(None);
        if !std::mem::replace(&mut config.up, false) {
            return;
        }
        self.bind.close();
        read(&self.peers).list().iter().for_each(|peer| self.silence(peer));
        tracing::debug!("the interface is down");
    }

    /// As [`up`](Self::up); but if the sockets cannot be opened, that is told as an event, and tried again until it works
    /// or [`down`](Self::down) is called.
    ///
    /// # Errors
    /// Why it did not work this time.
    pub fn keep_up(&self) -> Result<()> {
        self.up().map_err(|reason| self.retry_later(reason))
    }

    /// Fresh sockets on the same port, for when the old ones may lead nowhere: after a change of networks, or when the
    /// host's firewall has forgotten them. Source addresses are forgotten, and each peer with a session hears from us at
    /// once. If that fails the old sockets stay, it is told as an event, and tried again as in [`keep_up`](Self::keep_up).
    /// A port that the system chose may change. Does nothing while the device is down.
    ///
    /// # Errors
    /// Why it did not work this time.
    pub fn rebind(&self) -> Result<()> {
        let opened = {
            let mut config = lock(&self.config);
            if !config.up {
                return Ok(());
            }
            self.open_sockets(&mut config)
        };
        opened.map_err(|reason| self.retry_later(reason))?;
        self.sockets_are_open();
        let now = self.clock.now();
        for peer in read(&self.peers).list() {
            peer.forget_source();
            let has_session = lock(&peer.state).has_session(now);
            if has_session {
                self.send_keepalive(&peer, now);
            }
        }
        Ok(())
    }

    /// As [`rebind`](Self::rebind), but by whoever runs the timers, and soon. However often it was asked for before that, it
    /// is done once. What became of it is told as an event.
    pub fn rebind_soon(&self) {
        let wake = {
            let mut config = lock(&self.config);
            config.rebind = config.up;
            config.up && self.deadlines.set_own(Some(self.clock.now()))
        };
        if wake {
            self.bind.wake();
        }
    }

    /// Stops everything, as [`down`](Self::down) does, until [`resume`](Self::resume): nothing is sent or received, and no
    /// timer runs. Returns false if it is paused already.
    pub fn pause(&self) -> bool {
        let now = self.clock.now();
        let active = |peer: &Arc<Peer>| lock(&peer.state).has_session(now).then(|| Arc::downgrade(peer));
        {
            let mut config = lock(&self.config);
            if config.paused.is_some() {
                return false;
            }
            config.paused = Some(read(&self.peers).list().iter().filter_map(active).collect());
        }
        self.down();
        true
    }

    /// Goes on after [`pause`](Self::pause): the device comes up as in [`keep_up`](Self::keep_up), and makes a new session
    /// with each peer that it had one with. Does nothing if it is not paused.
    ///
    /// # Errors
    /// Why it did not work this time.
    pub fn resume(&self) -> Result<()> {
        let Some(active) = lock(&self.config).paused.take() else {
            return Ok(());
        };
        let up = self.keep_up();
        let now = self.clock.now();
        for peer in active.iter().filter_map(Weak::upgrade) {
            self.initiate(&peer, Reason::Fresh, now);
        }
        up
    }

    /// From now on peers whose endpoint is known stay there, whatever address they send from, and so do those that get
    /// one by configuration. For phones: when their network changes, answers of the old network can come late and lead
    /// astray (wireguard-go calls it "broken mobile semantics").
    pub fn disable_roaming(&self) {
        self.roaming_disabled.store(true, Ordering::Relaxed);
        for peer in read(&self.peers).list() {
            let mut state = lock(&peer.state);
            state.stays = state.endpoint.is_some();
        }
    }

    /// To be called by the timers: the time for another try has come, or somebody has asked for it.
    pub(super) fn retry_sockets(&self) {
        let up = {
            let mut config = lock(&self.config);
            if !std::mem::take(&mut config.rebind) && config.retry.is_none() {
                return;
            }
            config.up
        };
        // What became of it is told as an event.
        let _ = if up { self.rebind() } else { self.keep_up() };
    }

    /// Opens the sockets, on the port that was asked for.
    fn open_sockets(&self, config: &mut Config) -> Result<()> {
        let port = config.listen_port;
        let mut opened = self.bind.open(port);
        if opened.is_err() && port != 0 && !config.port_is_fixed {
            opened = self.bind.open(0);
        }
        config.listen_port = opened.map_err(|e| Error::io(format!("cannot listen on UDP port {port}"), e))?;
        Ok(())
    }

    /// The sockets are as they should be.
    fn sockets_are_open(&self) {
        let event = {
            let mut config = lock(&self.config);
            if !config.rebind {
                self.deadlines.set_own(None);
            }
            config.retry.take().map(|_| Event::BindRecovered(config.listen_port))
        };
        if let Some(event) = event {
            tracing::info!("the sockets are open again");
            self.tell(event);
        }
    }

    /// The sockets are not as they should be, and will be tried again. Returns the reason.
    fn retry_later(&self, reason: Error) -> Error {
        let first = {
            let mut config = lock(&self.config);
            let first = config.retry.is_none();
            let Retry(backoff) = config.retry.get_or_insert(Retry(Backoff::new(FIRST_RETRY, LAST_RETRY)));
            let after = backoff.failed();
            if self.deadlines.set_own(Some(self.clock.now() + after)) {
                self.bind.wake();
            }
            first
        };
        tracing::warn!(error = %reason, "the sockets cannot be opened, trying again");
        if first {
            self.tell(Event::BindFailed(reason.to_string()));
        }
        reason
    }
}
