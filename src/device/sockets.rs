//! The state of the device: opening, closing and renewing its sockets, with retries.

use std::{
    io,
    sync::{MutexGuard, atomic::Ordering},
    thread,
    time::Duration,
};

use super::{Device, Event, link::Port, lock, try_lock};
use crate::error::{Error, Result};

/// The time that the receiver sleeps after each failure of sockets that are known to be lost.
const LOST_NAP: Duration = Duration::from_millis(10);

/// The result of a change of the sockets, which determines further work.
#[derive(Default)]
pub(super) enum Opened {
    /// Nothing.
    #[default]
    None,
    /// The interface came up.
    Up,
    /// An interface that is up has new sockets.
    Reopened,
}

/// A change of the requested state of the interface, or of its sockets. There is one at a time, so that two cannot mix.
///
/// Opening sockets calls a function of the app, which may take long. Only this waits for it: the configuration is
/// locked only briefly, so it can be read, and packets pass.
pub(super) struct Transition<'d> {
    device: &'d Device,
    one: Option<MutexGuard<'d, ()>>,
}

impl Drop for Transition<'_> {
    fn drop(&mut self) {
        // First: the timers may have skipped work because of it. They are scheduled again if there is something to do.
        self.one = None;
        self.device.schedule_sockets();
    }
}

impl Transition<'_> {
    /// Requests the interface to be up or down. Nothing has changed if it fails.
    pub(super) fn want(&self, up: bool) -> Result<Opened> {
        let before = lock(&self.device.config).link.want(up);
        self.settle().inspect_err(|_| {
            lock(&self.device.config).link.want_again(before);
        })
    }

    /// Requests the interface to be up like [`want`](Self::want); but if it fails, the request remains, and is retried.
    pub(super) fn keep_up(&self) -> Result<Opened> {
        lock(&self.device.config).link.want(true);
        self.settle_or_retry()
    }

    /// Pauses the device; returns false if it is already paused.
    pub(super) fn pause(&self) -> bool {
        if lock(&self.device.config).link.is_paused() {
            return false;
        }
        let now = self.device.clock.now();
        for peer in self.device.peers.list() {
            let state = &mut lock(&peer.state);
            // Those of the last pause are still pending if no socket could be opened since.
            state.had_session |= state.has_session(now);
        }
        lock(&self.device.config).link.pause();
        self.device.in_flight.stop();
        self.device.tun_gate.close();
        self.device.tun.wake();
        self.device.bind.wake();
        self.close();
        true
    }

    pub(super) fn resume(&self) -> Result<Opened> {
        lock(&self.device.config).link.resume();
        self.device.in_flight.go_on();
        let opened = self.settle_or_retry();
        // Only now: packets waiting in the TUN would be dropped before.
        self.device.tun_gate.open();
        self.device.bind.wake();
        opened
    }

    /// Opens new sockets, or the first ones if there should be some.
    fn renew(&self) -> Result<Opened> {
        let is_up = lock(&self.device.config).link.is_up();
        let opened = if is_up { self.open() } else { self.settle() }.map_err(|reason| self.retry_later(reason))?;
        self.device.port_may_be_dead.store(true, Ordering::Relaxed);
        Ok(opened)
    }

    /// Opens new sockets as requested: on another port, or else on the same one.
    fn replace(&self, moves: bool, renews: bool) -> Result<Opened> {
        if moves && let Some(opened) = self.move_port() {
            // They satisfy a request for new sockets as well. The reverse is not so: the port may remain dead.
            return Ok(opened);
        }
        match (renews, moves) {
            (true, _) => self.renew(),
            // Handshakes have waited for the other port. They continue on this one.
            (false, true) => Ok(Opened::Reopened),
            (false, false) => Ok(Opened::None),
        }
    }

    /// Replaces a port that may be dead. If that fails, it returns `None`, and the old one remains.
    fn move_port(&self) -> Option<Opened> {
        let port = lock(&self.device.config).link.port();
        match self.device.bind.open(0) {
            Ok(other) => {
                tracing::debug!(
                    old = port.number(),
                    new = other,
                    "no handshake is answered, listening on another port"
                );
                Some(self.opened(port, other))
            }
            Err(error) => {
                tracing::warn!(%error, "no handshake is answered, and there is no other port");
                None
            }
        }
    }

    /// Sets the port and the mark, if given. Nothing has changed if it fails, and nothing was sent with the new mark
    /// until then.
    pub(super) fn set(&self, port: Option<Port>, mark: Option<u32>) -> Result<Opened> {
        let Device { bind, config, .. } = self.device;
        let (open, opens) = {
            let link = &lock(config).link;
            let old = link.port().number();
            let is_there = |port: Port| link.is_up() && port.number() != 0 && port.number() == old;
            (link.is_up().then_some(old), port.filter(|port| link.should_be_up() && !is_there(*port)))
        };
        let opened = match (opens, mark) {
            (Some(port), Some(mark)) => {
                let opened = bind.open_marked(port.number(), mark, open);
                let with_mark = |error: io::Error| {
                    if error.kind() == io::ErrorKind::NotConnected {
                        self.device.lose_sockets(&error);
                    }
                    Error::io(format!("cannot listen on UDP port {} with the mark {mark:#x}", port.number()), error)
                };
                Some((port, opened.map_err(with_mark)?))
            }
            (Some(port), None) => Some((port, bind.open(port.number()).map_err(|error| cannot_listen(port, error))?)),
            (None, Some(mark)) => {
                bind.set_mark(mark).map_err(|error| Error::io(format!("cannot set the mark {mark:#x}"), error))?;
                None
            }
            (None, None) => None,
        };
        {
            let config = &mut *lock(config);
            config.fwmark = mark.unwrap_or(config.fwmark);
            if let (Some(port), None) = (port, &opened) {
                config.link.set_port(port);
            }
        }
        Ok(opened.map_or(Opened::None, |(wanted, port)| self.opened(wanted, port)))
    }

    /// Brings the interface up or down, as requested.
    fn settle(&self) -> Result<Opened> {
        let (is_up, should_be_up, is_paused) = {
            let link = &lock(&self.device.config).link;
            (link.is_up(), link.should_be_up(), link.is_paused())
        };
        match (is_up, should_be_up) {
            (false, true) => self.open(),
            (true, true) => Ok(Opened::None),
            (_, false) => {
                self.close();
                if !is_paused {
                    self.device.peers.list().for_each(|peer| lock(&peer.state).had_session = false);
                }
                Ok(Opened::None)
            }
        }
    }

    /// Does the same as [`settle`](Self::settle); failures are reported, and retried.
    fn settle_or_retry(&self) -> Result<Opened> {
        self.settle().map_err(|reason| self.retry_later(reason))
    }

    /// Opens sockets on the requested port; if the system chose it and it is no longer available, on another.
    fn open(&self) -> Result<Opened> {
        let port = lock(&self.device.config).link.port();
        let mut opened = self.device.bind.open(port.number());
        if opened.is_err() && matches!(port, Port::Chosen(1..)) {
            opened = self.device.bind.open(0);
        }
        Ok(self.opened(port, opened.map_err(|error| cannot_listen(port, error))?))
    }

    fn opened(&self, wanted: Port, port: u16) -> Opened {
        let (was_up, event) = {
            let link = &mut lock(&self.device.config).link;
            self.device.port_may_be_dead.store(false, Ordering::Relaxed);
            (link.is_up(), link.opened(wanted, port))
        };
        let opened = if was_up {
            Opened::Reopened
        } else {
            self.device.start_peers();
            Opened::Up
        };
        match (&opened, &event) {
            (Opened::Up, _) => tracing::info!("the interface is up"),
            (_, Some(_)) => tracing::info!("the sockets are open again"),
            _ => {}
        }
        event.into_iter().for_each(|event| self.device.events.note(event));
        opened
    }

    /// Closes the sockets and forgets sessions and handshakes.
    fn close(&self) {
        if !lock(&self.device.config).link.closed() {
            return;
        }
        self.device.bind.close();
        self.device.peers.list().for_each(|peer| self.device.silence(&peer));
        self.device.greet_no_more();
        tracing::info!("the interface is down");
    }

    /// Schedules a retry, as the sockets are not in the requested state. Returns the reason.
    fn retry_later(&self, reason: Error) -> Error {
        let event = lock(&self.device.config).link.failed(&reason.to_string(), self.device.clock.now());
        // Once: later attempts follow the back-off.
        match event {
            Some(event) => {
                tracing::warn!(error = %reason, "the sockets cannot be opened, trying again");
                self.device.events.note(event);
            }
            None => tracing::debug!(error = %reason, "the sockets still cannot be opened"),
        }
        reason
    }
}

fn cannot_listen(port: Port, error: std::io::Error) -> Error {
    Error::io(format!("cannot listen on UDP port {}", port.number()), error)
}

impl Device {
    /// Starts the timers of all peers, as the interface has come up. Those of new peers are started with the peer.
    fn start_peers(&self) {
        for peer in self.peers.list() {
            let mut state = lock(&peer.state);
            if !state.removed {
                state.timers.start();
            }
        }
    }

    /// Begins a change of the sockets, when all others are complete.
    pub(super) fn transition(&self) -> Transition<'_> {
        Transition { device: self, one: Some(lock(&self.transition)) }
    }

    /// Brings the device up: opens the sockets and starts the timers. No-op if it is up. While it is paused, only the
    /// request is stored.
    ///
    /// # Errors
    /// Errors of the bind; nothing has changed then.
    pub fn up(&self) -> Result<()> {
        let opened = self.transition().want(true);
        self.after(opened)
    }

    /// Takes the device down: sessions and handshakes are forgotten, the sockets closed. The configuration is kept.
    /// Sockets that could not be opened are not retried. A paused device remains down when it is resumed.
    pub fn down(&self) {
        // Closing does not fail.
        let _ = self.transition().want(false);
    }

    /// Brings the device up like [`up`](Self::up); but if the sockets cannot be opened, that is reported as an event,
    /// and retried until it succeeds or [`down`](Self::down) is called.
    ///
    /// # Errors
    /// The error of the first attempt.
    pub fn keep_up(&self) -> Result<()> {
        let opened = self.transition().keep_up();
        self.after(opened)
    }

    /// Opens new sockets on the same port, if the old ones may be unusable: after a change of networks, or when the
    /// host's firewall has forgotten them. Source addresses are forgotten, and each peer with a session gets a message
    /// at once. If that fails, the old sockets remain; the failure is reported as an event, and retried as in
    /// [`keep_up`](Self::keep_up). A port that the system chose may change. Sockets that could not be opened before are
    /// tried at once. No-op while the device is down or paused.
    ///
    /// # Errors
    /// The error of the first attempt.
    pub fn rebind(&self) -> Result<()> {
        let opened = self.transition().renew();
        self.after(opened)
    }

    /// Does the same as [`rebind`](Self::rebind), but soon, on the thread that runs the timers. Several requests before
    /// that have one effect. The result is reported as an event.
    pub fn rebind_soon(&self) {
        lock(&self.config).link.renew_soon();
        self.schedule_sockets();
    }

    /// Stops everything, as [`down`](Self::down) does, until [`resume`](Self::resume): nothing is sent or received, and
    /// no timer runs. It waits for calls of the TUN and the bind in progress, so it cannot be called from inside one.
    /// The requested state of the device can be changed during the pause. Returns false if it is already paused.
    pub fn pause(&self) -> bool {
        let first = self.transition().pause();
        self.in_flight.wait();
        first
    }

    /// Continues after [`pause`](Self::pause). If the device was up then, or [`up`](Self::up) was called since, it
    /// comes up as in [`keep_up`](Self::keep_up), and starts a new session with each peer that had one. No-op if it is
    /// not paused.
    ///
    /// # Errors
    /// The error of the first attempt.
    pub fn resume(&self) -> Result<()> {
        let opened = self.transition().resume();
        self.after(opened)
    }

    /// Fixes the endpoints of peers from now on: known endpoints, and those set later by configuration, do not change
    /// when a peer sends from another address. For phones: after a change of their network, late packets from the old
    /// network must not move the endpoint (wireguard-go calls it "broken mobile semantics").
    pub fn disable_roaming(&self) {
        self.roaming_disabled.store(true, Ordering::Relaxed);
        for peer in self.peers.list() {
            lock(&peer.state).location.set_pinned(true);
        }
    }

    /// Reports that the open sockets can no longer receive. The thread that runs the timers opens new ones; an event
    /// reports the result.
    pub(super) fn lose_sockets(&self, error: &io::Error) {
        let news = lock(&self.config).link.lose(&format!("a UDP socket was lost: {error}"));
        self.schedule_sockets();
        if !news {
            // A bind that keeps failing must not keep a processor busy until then.
            thread::sleep(LOST_NAP);
        }
    }

    /// Retries or renews sockets when it is due; to be called by the timers.
    pub(super) fn retry_sockets(&self) {
        // The thread that is changing the sockets checks again when it is done.
        let Some(one) = try_lock(&self.transition) else { return };
        let transition = Transition { device: self, one: Some(one) };
        let loss = lock(&self.config).link.take_loss(self.clock.now());
        if let Some(event) = loss {
            if let Event::SocketsLost(reason) = &event {
                tracing::warn!(reason, "the sockets were lost, opening new ones");
            }
            self.events.note(event);
        }
        let settles = lock(&self.config).link.take_settling();
        let settled = if settles { transition.settle_or_retry() } else { Ok(Opened::None) };
        let (moves, due) = {
            let link = &mut lock(&self.config).link;
            // Sockets that were just opened satisfy a request for new ones.
            (link.take_move(), link.take_due(self.clock.now()))
        };
        let opened = match settled {
            Ok(Opened::None) => transition.replace(moves, due),
            settled => settled,
        };
        drop(transition);
        // The result is reported as an event.
        self.after_soon(opened);
    }

    /// Returns whether the TUN must not be served.
    pub(super) fn tun_paused(&self) -> bool {
        self.tun_gate.is_closed()
    }

    /// Reports that a message of a peer was received.
    pub(super) fn port_is_alive(&self) {
        // Read first: a write for each batch would take the cache line from the other thread.
        if self.port_may_be_dead.load(Ordering::Relaxed) {
            self.port_may_be_dead.store(false, Ordering::Relaxed);
        }
    }

    /// Reports that handshakes with a peer are not answered. Returns whether another port is taken for that reason,
    /// after which the peer is greeted.
    pub(super) fn leave_dead_port(&self) -> bool {
        let leaves = {
            let link = &mut lock(&self.config).link;
            link.move_soon(self.port_may_be_dead.swap(false, Ordering::Relaxed))
        };
        if leaves {
            self.schedule_sockets();
        }
        leaves
    }

    /// Schedules the work on the sockets for the timers.
    fn schedule_sockets(&self) {
        let config = lock(&self.config);
        let wake = self.deadlines.set_own(config.link.next_try(self.clock.now()));
        drop(config);
        if wake {
            self.bind.wake();
        }
    }
}
