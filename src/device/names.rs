//! Peers that are known by a host name, and networks that change: what `endpoints` decides is done here.

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

/// What a device needs to know names. Each lock is the last that is taken.
pub(super) struct Names {
    resolver: Arc<Resolver>,
    nat64: Mutex<Nat64>,
    /// The number of the last question.
    questions: AtomicU64,
}

/// The prefix of the network that we are in.
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

    /// To be called under the lock of what the number is noted in: the last one that is noted is the highest.
    fn next_number(&self) -> u64 {
        self.questions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Looks up the names that wait for it. Returns how many that were.
    pub(super) fn look_up(&self) -> usize {
        self.resolver.work()
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.nat64.try_lock().is_ok() && self.resolver.is_unused()
    }

    /// Asks for the network's prefix, if that is not known and not too soon.
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
    /// Whether an endpoint may be a host name: [`Options::resolve`](super::Options::resolve) is set.
    #[must_use]
    pub const fn resolves_names(&self) -> bool {
        self.names.is_some()
    }

    /// Looks up the names that wait for it, which may block; a [`Tunnel`](super::Tunnel) does this on a thread of its
    /// own. Returns how many names that were.
    pub fn resolve_names(&self) -> usize {
        let names = self.names.as_ref().map_or(0, Names::look_up);
        while self.has_answers() {
            self.take_answers(self.clock.now());
        }
        self.tell_events();
        names
    }

    /// The network that we are in is another one, or has changed: begins again with new sockets as in
    /// [`rebind`](Self::rebind), and looks up each host name. A session stays if the peer's address does; if it does
    /// not, a new one is made. Does nothing while the device is down.
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

    /// Looks up the name that a peer has, if it has one, although it may be known.
    pub(super) fn look_up_again(&self, peer: &Arc<Peer>) {
        lock(&peer.state).location.restart_lookup();
        self.look_up(peer);
    }

    /// Looks up the name that a peer has, if it has one.
    pub(super) fn look_up(&self, peer: &Arc<Peer>) {
        let Some(names) = &self.names else { return };
        if reserve::is_low() {
            // It is looked up when there is something to send.
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

    /// Something is to be sent to a peer that has a name: looks it up if there is no address yet, or if that failed the
    /// last time.
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

    /// To be called by the timers.
    pub(super) fn retry_name(&self, peer: &Arc<Peer>) {
        let is_due = lock(&peer.state).take_due_lookup(self.clock.now());
        if is_due {
            self.look_up(peer);
        }
    }

    /// What a peer asked for is of no interest any more.
    pub(super) fn withdraw_question(&self, peer: &Peer) {
        if let Some(names) = &self.names {
            names.resolver.withdraw(Some(peer.id()));
        }
    }

    /// Takes what was looked up, until a round that began then is over.
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

    /// Whether there are answers to take.
    pub(super) fn has_answers(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.resolver.has_answers())
    }

    /// A peer's name was looked up.
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

    /// The prefix of the network was looked up.
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

    /// The network has this prefix: sends to the peer by way of it, if there is no other.
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

    /// The peer is looked for at another address: makes a session there, if one is wanted.
    fn begin_again(&self, peer: &Arc<Peer>) {
        {
            let mut state = lock(&peer.state);
            if !state.has_session(self.clock.now()) && !state.is_wanted() {
                return;
            }
            state.timers.handshake_may_begin();
        }
        self.initiate(peer, Reason::Fresh);
        // What waited for an address need not wait for that.
        self.send_staged(peer);
    }

    /// An initiation was not answered: it may be the turn of another address.
    pub(super) fn not_answered(&self, peer: &Peer) {
        let mut state = lock(&peer.state);
        if state.location.not_answered() {
            self.note_placed(peer, &state);
        }
    }

    /// Nothing can be sent to `from`. Returns another way to the peer, which is its endpoint now.
    pub(super) fn detour(&self, peer: &Peer, from: SocketAddr) -> Option<Endpoint> {
        let names = self.names.as_ref()?;
        let prefix = lock(&names.nat64).prefix;
        let to = lock(&peer.state).location.detour(from, prefix);
        if prefix.is_none() && from.is_ipv4() {
            names.want_prefix(self.clock.now());
        }
        to
    }

    /// There is no way to the peer. The next attempt begins with the address itself, or with one that its name has by
    /// then.
    pub(super) fn without_route(&self, peer: &Arc<Peer>) {
        lock(&peer.state).location.stop_synthesizing();
        self.want_address(peer);
    }

    /// The peer's endpoint is another one.
    pub(super) fn note_placed(&self, peer: &Peer, state: &State) {
        if let Some(Endpoint { dst, .. }) = state.location.endpoint() {
            self.events.note(Event::EndpointChanged(*peer.key(), dst));
        }
    }

    /// From now on names are looked up on a thread.
    pub(super) fn resolve_on_a_thread(&self) {
        if let Some(names) = &self.names {
            names.resolver.use_threads();
        }
    }

    /// Looks up no more names, and waits for the look-up under way.
    pub(super) fn stop_resolving(&self) {
        if let Some(names) = &self.names {
            names.resolver.stop();
        }
    }

    /// Whether this is called on the thread that looks names up.
    pub(super) fn is_resolver_thread(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.resolver.is_own_thread())
    }
}
