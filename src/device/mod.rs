//! A tunnel: peers, routing, timers, and the threads that move packets.
//!
//! [`Device`] is the tunnel without threads: each of its steps does what can be done now and returns. [`Tunnel`] runs
//! one: on one thread, and on two while there is much to do both ways. Both sleep until there
//! is something to do.
//!
//! Locks are taken in this order: `sets`, `tun_events`; `transition`; `waking`; `config`; `own_key`;
//! `handshake_limiter`; `greetings`; `peers`, `allowed_ips`; a peer's `handshake`, then its `state`; `index`,
//! `deadlines`, the queue of `events`, those of `names` and `budget`; a second peer's `state` is only tried. None from
//! `config` on is held across I/O or a callback, nor for more than a bounded part of what all peers or allowed IPs
//! take: `holds.rs` counts. Under `sets` and `transition` sockets are opened, and an app's function sees each new one:
//! what takes none of them, such as reading the configuration, never waits for it. `answer_rate`, then `tun_writer`,
//! are none of these: under the first the TUN is asked for routes, under the second it is written, and nothing else is
//! locked.

pub mod allowed_ips;
mod apply;
mod backoff;
mod endpoints;
mod events;
mod greetings;
mod handshake_limiter;
#[cfg(test)]
mod holds;
mod in_flight;
mod index;
mod learn;
mod link;
mod lookup;
mod loops;
mod memory;
mod names;
mod needs;
mod news;
mod packet;
mod peer;
mod peers;
mod pool;
mod ranking;
mod ratelimit;
mod receive;
mod resolver;
mod send;
mod session_control;
mod sleep;
mod sockets;
mod source;
mod staged;
mod stats;
mod table;
mod threads;
mod timers;
mod tunnel;
mod unreachable;

use std::{
    collections::VecDeque,
    panic::resume_unwind,
    sync::{
        Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use endpoints::candidates::MAX_ADDRESSES;
pub use events::{Event, EventSink};
pub use lookup::resolve_with_system;
pub use memory::MemoryUsage;
pub use peer::MAX_STAGED;
pub use pool::{FIXED_MEMORY, Inbound, Outbound};
pub use resolver::Resolve;
pub use staged::STAGED_OVERHEAD;
pub use stats::{PeerStats, Stats, Totals, Traffic};
pub use tunnel::Tunnel;

use crate::{
    bind::Bind,
    error::{Error, ErrorKind, Result},
    key::PublicKey,
    noise::{handshake::Identity, session::Session},
    random::{Random, SystemRandom},
    sync::{self, try_lock},
    time::{Clock, Instant, SystemClock},
    tun::{Tun, TunEvent},
};
use allowed_ips::AllowedIps;
use events::Events;
use greetings::Greetings;
use handshake_limiter::HandshakeLimiter;
#[cfg(test)]
use holds::work;
use in_flight::InFlight;
use index::IndexTable;
use link::Link;
use names::Names;
use peer::{Peer, State};
use peers::Peers;
use staged::Budget;
use table::Table;
use timers::Deadlines;
use unreachable::AnswerRate;

/// Peers of a device, unless [`Options::max_peers`] says otherwise; wireguard-go's number.
pub const DEFAULT_MAX_PEERS: usize = crate::config::MAX_PEERS;

/// Memory of a device, unless [`Options::memory`] says otherwise.
pub const DEFAULT_MEMORY: usize = 4 << 20;

/// How long [`Device::run_timers`] goes on, and with it the longest that packets wait for other peers' timers: some 50
/// keepalives, or 5 initiations.
const SLICE: Duration = Duration::from_micros(500);

fn no_such_peer(key: &PublicKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no peer {key}"))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Tests count what is done while a lock is held; see `holds.rs`.
#[cfg(not(test))]
const fn work(_: usize) {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    work(1);
    sync::lock(mutex)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    work(1);
    sync::read(lock)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    work(1);
    sync::write(lock)
}

/// What a device is made of, apart from its TUN and its bind.
pub struct Options {
    /// The largest number of peers; `set` fails with `Invalid` beyond it.
    pub max_peers: usize,
    /// Bytes that packets may take while they pass through or wait for a session. The fixed buffers ([`FIXED_MEMORY`]),
    /// and the queues of a TUN and a bind without descriptors, come off it first; each packet that waits takes
    /// [`STAGED_OVERHEAD`] more than its own bytes. At the limit the peer that holds most makes room for one that holds
    /// less, else packets are dropped, and counted; one packet of each peer may wait all the same. A peer takes about
    /// 1 KiB on top, and 3 KiB more while it has sessions.
    pub memory: usize,
    /// Bytes more of that for each peer, so that many of them do not live on the share of a few.
    pub memory_per_peer: usize,
    /// How many source addresses of each peer are learned: an address that a peer sends from, and that is not its own
    /// already, becomes one of its allowed IPs, whoever had it before. So peers can take addresses from each other. At
    /// the limit the oldest is forgotten. 0, the default, learns none and drops such packets, as WireGuard does.
    pub learned_addresses: usize,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub random: Arc<dyn Random>,
    /// Who is told of events.
    pub events: EventSink,
    /// Who looks up host names. Without it an endpoint must be an address, and no NAT64 is looked for.
    pub resolve: Option<Resolve>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_peers: DEFAULT_MAX_PEERS,
            memory: DEFAULT_MEMORY,
            memory_per_peer: 0,
            learned_addresses: 0,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            events: Box::new(|_| {}),
            resolve: None,
        }
    }
}

/// Interface settings, and the state of the interface.
#[derive(Default)]
struct Config {
    fwmark: u32,
    link: Link,
}

/// Our key pair.
#[derive(Default)]
struct OwnKey {
    identity: Option<Arc<Identity>>,
    /// How often it has changed: each peer notes with which one its handshakes and sessions were made.
    number: u32,
}

/// A tunnel without threads of its own.
///
/// [`outbound`](Self::outbound), [`inbound`](Self::inbound) and [`run_timers`](Self::run_timers) may run at the same
/// time on different threads, each on one; everything else on any thread at any time.
pub struct Device {
    tun: Arc<dyn Tun>,
    bind: Arc<dyn Bind>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    events: Events,
    max_peers: usize,
    memory: usize,
    memory_per_peer: usize,
    learned_addresses: usize,
    mtu: AtomicU16,
    /// How long the machine had been suspended when that was looked at last, in nanoseconds. No session is older.
    slept: AtomicU64,
    /// Held while sessions are forgotten because the machine was suspended.
    waking: Mutex<()>,
    roaming_disabled: AtomicBool,
    /// Networks may have changed since the port was chosen, and no peer was heard on it since. It is left once for
    /// that.
    port_may_be_dead: AtomicBool,
    /// Held while a change set is applied: there is one at a time.
    sets: Mutex<()>,
    /// Held while the sockets change; see [`Transition`](sockets::Transition).
    transition: Mutex<()>,
    in_flight: InFlight,
    /// The TUN is not served: there is a pause, or no socket was looked for yet since.
    tun_paused: AtomicBool,
    /// Held while something is written into the TUN: there is one writer at a time.
    tun_writer: Mutex<()>,
    answer_rate: Mutex<AnswerRate>,
    /// Held while an event of the TUN is taken and noted, which keeps them in order.
    tun_events: Mutex<()>,
    /// Held for a moment only; the rest of the state may be locked under it.
    config: Mutex<Config>,
    /// Held while a handshake message is computed, so that each is made with one key.
    own_key: RwLock<OwnKey>,
    handshake_limiter: Mutex<HandshakeLimiter>,
    peers: Peers,
    allowed_ips: Table<AllowedIps<Arc<Peer>>>,
    index: IndexTable,
    deadlines: Deadlines,
    /// Peers that are to hear from us by and by.
    greetings: Mutex<VecDeque<Greetings>>,
    /// `None` if host names cannot be looked up.
    names: Option<Names>,
    /// What staged packets may take.
    budget: Arc<Budget>,
    stats: Stats,
}

impl Device {
    /// A device without keys and peers, which is down.
    #[must_use]
    pub fn new(tun: Arc<dyn Tun>, bind: Arc<dyn Bind>, options: Options) -> Self {
        let taken = FIXED_MEMORY.saturating_add(tun.queue_limit()).saturating_add(bind.queue_limit());
        Self {
            mtu: AtomicU16::new(tun.mtu()),
            slept: AtomicU64::new(nanos(options.clock.slept())),
            waking: Mutex::default(),
            names: options.resolve.map(|resolve| Names::new(resolve, bind.clone())),
            tun,
            bind,
            clock: options.clock,
            random: options.random,
            events: Events::new(options.events),
            max_peers: options.max_peers,
            memory: options.memory,
            memory_per_peer: options.memory_per_peer,
            learned_addresses: options.learned_addresses,
            roaming_disabled: AtomicBool::new(false),
            port_may_be_dead: AtomicBool::new(false),
            sets: Mutex::default(),
            transition: Mutex::default(),
            in_flight: InFlight::default(),
            tun_paused: AtomicBool::new(false),
            tun_writer: Mutex::default(),
            answer_rate: Mutex::default(),
            tun_events: Mutex::default(),
            config: Mutex::default(),
            own_key: RwLock::default(),
            handshake_limiter: Mutex::default(),
            peers: Peers::default(),
            allowed_ips: Table::default(),
            index: IndexTable::default(),
            deadlines: Deadlines::default(),
            greetings: Mutex::default(),
            budget: Budget::new(options.memory.saturating_sub(taken)),
            stats: Stats::default(),
        }
    }

    /// The counters.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The largest number of peers.
    #[must_use]
    pub const fn max_peers(&self) -> usize {
        self.max_peers
    }

    /// The interface's MTU.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// The UDP port that the sockets are bound to; 0 while they are closed.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        let link = &lock(&self.config).link;
        if link.is_up() { link.port().number() } else { 0 }
    }

    /// Our public key.
    ///
    /// # Errors
    /// `NotFound` if there is no private key.
    pub fn public_key(&self) -> Result<PublicKey> {
        let missing = || Error::new(ErrorKind::NotFound, "there is no private key");
        self.identity().map(|identity| *identity.public()).ok_or_else(missing)
    }

    /// Handshakes and sessions that have an index: a bounded number for each peer.
    #[must_use]
    pub fn indices(&self) -> usize {
        self.index.len()
    }

    /// The session that a peer is sent to with, for tests of how one ends.
    #[doc(hidden)]
    #[must_use]
    pub fn current_session(&self, peer: &PublicKey) -> Option<Arc<Session>> {
        let peer = self.peers.get(peer)?;
        lock(&peer.state).sessions.current().cloned()
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        read(&self.own_key).identity.clone()
    }

    /// Tells the app what has happened; to be called when no lock is held, and no reading of the clock.
    /// A panic of the app's function goes on from here, when the others have been told.
    fn tell_events(&self) {
        let told = self.events.tell();
        if told.is_more {
            self.bind.wake();
        }
        if let Some(panic) = told.panic {
            resume_unwind(panic);
        }
    }

    /// Follows what has happened to the TUN interface. A port that cannot be opened when it comes up is tried again. If
    /// the sockets are being changed at this moment, the timers carry it out afterwards.
    pub fn handle_tun_events(&self) {
        loop {
            {
                let _in_order = lock(&self.tun_events);
                match self.tun.event() {
                    None => return,
                    Some(TunEvent::Up) => lock(&self.config).link.want_soon(true),
                    Some(TunEvent::Down) => lock(&self.config).link.want_soon(false),
                    Some(TunEvent::Mtu(mtu)) => {
                        tracing::debug!(mtu, "the MTU has changed");
                        self.mtu.store(mtu, Ordering::Relaxed);
                        continue;
                    }
                }
            }
            self.retry_sockets();
        }
    }

    /// Does what peers' timers ask for, takes what was looked up, and tries again what could not be done: for no longer
    /// than a thread that also moves packets can be spared. If something is left,
    /// [`next_deadline`](Self::next_deadline) is in the past.
    pub fn run_timers(&self) {
        self.notice_sleep();
        let began = self.clock.now();
        if self.deadlines.pop_own(began) {
            self.retry_sockets();
        }
        self.take_answers(began);
        self.greet_some(began);
        loop {
            // The clock is read again after all that may take its time: here an app's functions may run.
            let Some((at, peer)) = self.deadlines.pop(self.clock.now()) else { break };
            self.run_timers_of(&peer, at);
            if self.is_over(began) {
                break;
            }
        }
        self.tell_events();
    }

    fn run_timers_of(&self, peer: &Arc<Peer>, at: Instant) {
        lock(&peer.state).scheduled.take_if(|scheduled| *scheduled == at);
        loop {
            let action = lock(&peer.state).timers.due(self.clock.now());
            let Some(action) = action else { break };
            self.act(peer, action);
        }
        self.retry_name(peer);
        let is_left = {
            let mut state = lock(&peer.state);
            self.schedule(peer, &mut state);
            state.has_staged() && state.has_session(self.clock.now())
        };
        if is_left {
            self.send_staged(peer);
        }
    }

    /// Whether a round that began then has lasted long enough.
    fn is_over(&self, began: Instant) -> bool {
        self.clock.now().since(began) >= SLICE
    }

    /// When [`run_timers`](Self::run_timers) must run next; `None` if no timer runs. Until it has run again, an
    /// earlier deadline wakes the bind's `wait`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = self.deadlines.sleep();
        let is_left = !lock(&self.greetings).is_empty() || self.has_answers();
        if is_left { Some(Instant::default()) } else { next }
    }

    /// Lists a peer under its next deadline, unless it is listed under an earlier one already: when that one comes
    /// there is nothing to do and the peer is listed again, which is cheaper than moving it with each packet.
    fn schedule(&self, peer: &Arc<Peer>, state: &mut State) {
        let Some(next) = state.next_deadline() else {
            return;
        };
        self.schedule_at(peer, state, next);
    }

    /// Lists a peer under this deadline, unless it is listed under an earlier one already.
    fn schedule_at(&self, peer: &Arc<Peer>, state: &mut State, at: Instant) {
        if state.removed || state.scheduled.is_some_and(|scheduled| scheduled <= at) {
            return;
        }
        let wake = self.deadlines.set(peer, state.scheduled.replace(at), at);
        if wake {
            self.bind.wake();
        }
    }
}
