//! Host names of peers, and changes of networks: carries out the decisions of `endpoints`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Device,
    endpoints::{
        inquiry::{Inquiry, Outcome},
        location::Resolved,
        nat64::{DISCOVERY_NAME, Prefix},
    },
    events::Event,
    greetings::Occasion,
    lock,
    peer::{Peer, State},
    resolver::{Answer, Question, Resolve, Resolver},
    send::Reason,
    stats::count,
};
use crate::{
    bind::{Bind, Endpoint},
    error::{Error, Result},
    reserve,
    time::Instant,
};

/// The state for resolving names. Each lock is the last that is taken.
pub(super) struct Names {
    resolver: Arc<Resolver>,
    nat64: Mutex<Nat64>,
    /// The number of the last query.
    questions: AtomicU64,
}

/// The prefix of the current network.
struct Nat64 {
    prefix: Option<Prefix>,
    inquiry: Inquiry,
}

impl Nat64 {
    const fn new() -> Self {
        Self { prefix: None, inquiry: Inquiry::new() }
    }
}

impl Names {
    pub(super) fn new(resolve: Resolve, bind: Arc<dyn Bind>) -> Self {
        Self {
            resolver: Arc::new(Resolver::new(resolve, bind)),
            nat64: Mutex::new(Nat64::new()),
            questions: AtomicU64::new(0),
        }
    }

    /// Returns the next number. To be called under the lock of the place where it is stored, so that the last stored
    /// number is the highest.
    fn next_number(&self) -> u64 {
        self.questions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Resolves the waiting names. Returns their number.
    pub(super) fn look_up(&self) -> usize {
        self.resolver.work()
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.nat64.try_lock().is_ok() && self.resolver.is_unused()
    }

    /// Requests the network's prefix, if it is unknown and not requested too recently.
    fn want_prefix(&self, now: Instant) {
        let number = {
            let inquiry = &mut lock(&self.nat64).inquiry;
            if !inquiry.is_lacking() || now < inquiry.not_before() {
                return;
            }
            let number = self.next_number();
            inquiry.ask(number);
            number
        };
        self.resolver.ask(None, Question { host: DISCOVERY_NAME.into(), number, peer: None });
    }
}

impl Device {
    /// Returns whether an endpoint may be a host name: [`Options::resolve`](super::Options::resolve) is set.
    #[must_use]
    pub const fn resolves_names(&self) -> bool {
        self.names.is_some()
    }

    /// Resolves the waiting names, which may block; a [`Tunnel`](super::Tunnel) does this on a thread of its own.
    /// Returns their number.
    pub fn resolve_names(&self) -> usize {
        let names = self.names.as_ref().map_or(0, Names::look_up);
        while self.has_answers() {
            self.take_answers(self.clock.now());
        }
        self.tell_events();
        names
    }

    /// Reports that the network has changed: opens new sockets as in [`rebind`](Self::rebind), and resolves each host
    /// name. A session is kept if the peer's address is unchanged; otherwise a new one is started. No-op while the
    /// device is down.
    ///
    /// # Errors
    /// As [`rebind`](Self::rebind).
    pub fn network_changed(&self) -> Result<()> {
        if let Some(names) = &self.names {
            *lock(&names.nat64) = Nat64::new();
            names.resolver.withdraw(None);
        }
        for peer in self.peers.list() {
            lock(&peer.state).location.network_changed();
        }
        let rebound = self.rebind();
        self.peers.list().for_each(|peer| self.look_up_again(&peer));
        rebound
    }

    /// Resolves the name of a peer, if it has one, even if its address is known.
    pub(super) fn look_up_again(&self, peer: &Arc<Peer>) {
        lock(&peer.state).location.restart_lookup();
        self.look_up(peer);
    }

    /// Resolves the name of a peer, if it has one.
    pub(super) fn look_up(&self, peer: &Arc<Peer>) {
        let Some(names) = &self.names else { return };
        if reserve::is_low() {
            // It is resolved when there is something to send.
            return;
        }
        let (number, host) = {
            let mut state = lock(&peer.state);
            if !state.is_live() {
                return;
            }
            let Some(begun) = state.location.begin_lookup(|| names.next_number()) else { return };
            begun
        };
        names.resolver.ask(Some(peer.id()), Question { host, number, peer: Some(Arc::downgrade(peer)) });
    }

    /// Reports that there is something to send to a peer with a name: resolves it if there is no address yet, or if the
    /// last attempt failed.
    pub(super) fn want_address(&self, peer: &Arc<Peer>) {
        if !self.resolves_names() {
            return;
        }
        let ask = {
            let mut state = lock(&peer.state);
            let ask = state.location.want_lookup(self.clock.now());
            self.schedule(peer, &mut state);
            ask
        };
        if ask {
            self.look_up(peer);
        }
    }

    /// Retries a look-up; to be called by the timers.
    pub(super) fn retry_name(&self, peer: &Arc<Peer>) {
        let is_due = lock(&peer.state).take_due_lookup(self.clock.now());
        if is_due {
            self.look_up(peer);
        }
    }

    /// Cancels a peer's query.
    pub(super) fn withdraw_question(&self, peer: &Peer) {
        if let Some(names) = &self.names {
            names.resolver.withdraw(Some(peer.id()));
        }
    }

    /// Takes results of look-ups, until a round that began then is over.
    pub(super) fn take_answers(&self, began: Instant) {
        let Some(names) = &self.names else { return };
        while let Some(Answer { question, found }) = names.resolver.take_answer() {
            match question.peer {
                Some(peer) => self.take_addresses(&peer, question.number, &found),
                None => self.take_prefix(names, question.number, &found),
            }
            if self.is_over(began) {
                return;
            }
        }
    }

    /// Returns whether there are results to take.
    pub(super) fn has_answers(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.resolver.has_answers())
    }

    /// Takes the result of a look-up of a peer's name.
    fn take_addresses(&self, peer: &Weak<Peer>, number: u64, found: &Result<Vec<IpAddr>>) {
        let Some(peer) = &peer.upgrade() else { return };
        let (resolved, moved, host) = {
            let mut state = lock(&peer.state);
            let now = self.clock.now();
            let mut moved = None;
            let found = found.as_deref().unwrap_or_default();
            let resolved = state.location.resolved(number, found, now);
            match resolved {
                Resolved::Stale | Resolved::Stays => {}
                Resolved::Moved => {
                    state.location.set_pinned(self.roaming_disabled.load(Ordering::Relaxed));
                    self.note_placed(peer, &state);
                    let news = state.moved(now);
                    moved = state.location.endpoint().map(|endpoint| (news, endpoint));
                }
                Resolved::Failed { is_hopeless, .. } => {
                    if is_hopeless {
                        count(&self.stats.out_unstaged, state.take_staged().len());
                    }
                    if state.is_wanted() {
                        state.location.retry_lookup();
                    }
                }
            }
            self.schedule(peer, &mut state);
            (resolved, moved, state.location.host().cloned())
        };
        if let Some((news, endpoint)) = moved {
            news.log(peer, endpoint);
        }
        match resolved {
            Resolved::Stale | Resolved::Stays => {}
            Resolved::Moved => self.begin_again(peer),
            Resolved::Failed { first, .. } => {
                let reason = found.as_ref().err().map_or_else(|| "it has no address".into(), Error::to_string);
                let host = host.map_or_else(String::new, |host| host.host().into());
                tracing::warn!(peer = %peer.key(), host, reason, "the endpoint's name cannot be resolved");
                if first {
                    self.events.note(Event::ResolveFailed(*peer.key(), format!("{host}: {reason}")));
                }
            }
        }
    }

    /// Takes the result of the look-up of the network's prefix.
    fn take_prefix(&self, names: &Names, number: u64, found: &Result<Vec<IpAddr>>) {
        let prefix = Prefix::discover(found.as_deref().unwrap_or_default());
        {
            let mut nat64 = lock(&names.nat64);
            if nat64.inquiry.take(number, prefix.is_some(), self.clock.now()) != Outcome::Found {
                return;
            }
            nat64.prefix = prefix;
        }
        let Some(prefix) = prefix else { return };
        tracing::debug!(?prefix, "this network has NAT64");
        self.greet_soon(Occasion::Nat64(prefix));
    }

    /// Uses the network's prefix for the peer, if it has no other address.
    pub(super) fn take_prefix_for(&self, peer: &Arc<Peer>, prefix: Prefix) {
        let (found, has_session) = {
            let mut state = lock(&peer.state);
            let found = state.location.prefix_found(prefix);
            if found {
                self.note_placed(peer, &state);
            }
            (found, state.has_session(self.clock.now()))
        };
        match (found, has_session) {
            (true, true) => self.send_keepalive(peer),
            (true, false) => self.begin_again(peer),
            (false, _) => {}
        }
    }

    /// Starts a session at the peer's new address, if one is needed.
    fn begin_again(&self, peer: &Arc<Peer>) {
        {
            let mut state = lock(&peer.state);
            if !state.has_session(self.clock.now()) && !state.is_wanted() {
                return;
            }
            state.timers.handshake_may_begin();
        }
        self.initiate(peer, Reason::Fresh);
        // Packets that waited for an address need not wait for the next attempt.
        self.send_staged(peer);
    }

    /// Reports that there is no route to `from`. Returns another address of the peer, which is now its endpoint.
    pub(super) fn detour(&self, peer: &Peer, from: SocketAddr) -> Option<Endpoint> {
        let names = self.names.as_ref()?;
        let prefix = lock(&names.nat64).prefix;
        let to = lock(&peer.state).location.detour(from, prefix);
        if prefix.is_none() && from.is_ipv4() {
            names.want_prefix(self.clock.now());
        }
        to
    }

    /// Reports that the peer is unreachable. The next attempt begins with the address itself, or with one that its name
    /// has by then.
    pub(super) fn without_route(&self, peer: &Arc<Peer>) {
        lock(&peer.state).location.stop_synthesizing();
        self.want_address(peer);
    }

    /// Records a change of the peer's endpoint.
    pub(super) fn note_placed(&self, peer: &Peer, state: &State) {
        if let Some(Endpoint { dst, .. }) = state.location.endpoint() {
            self.events.note(Event::EndpointChanged(*peer.key(), dst));
        }
    }

    /// Resolves names on a thread from now on.
    pub(super) fn resolve_on_a_thread(&self) {
        if let Some(names) = &self.names {
            names.resolver.use_threads();
        }
    }

    /// Stops resolving names, and waits for the look-up in progress.
    pub(super) fn stop_resolving(&self) {
        if let Some(names) = &self.names {
            names.resolver.stop();
        }
    }

    /// Returns whether the calling thread is the one that resolves names.
    pub(super) fn is_resolver_thread(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.resolver.is_own_thread())
    }
}
