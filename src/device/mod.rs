//! A tunnel: peers, routing, timers, and the threads that move packets.
//!
//! [`Device`] is the tunnel without threads: each of its steps does the work that is possible now and returns.
//! [`Tunnel`] runs one: on one thread, and on two under load in both directions; workers help when one is not enough
//! for a direction, and each further queue of a TUN has a thread. All threads sleep while there is nothing to do.
//!
//! Locks are taken in this order: `sets`, `tun_events`; `transition`; `waking`; `config`; `own_key`;
//! `handshake_limiter`; `greetings`; `peers`, `allowed_ips`; a peer's `handshake`, then its `state`; `index`,
//! `deadlines`, the queue of `events`, those of `names` and `budget`; a second peer's `state` is only tried. The locks
//! from `config` on are never held across I/O or a callback, nor for more than a bounded part of work on all peers or
//! allowed IPs: `holds.rs` counts it. Under `sets` and `transition` sockets are opened, and each new one is passed to
//! an app's function: operations that take neither, such as reading the configuration, never wait for that.
//! `answer_rate`, then `tun_writer`, are not in this order: under the first the TUN is queried for routes, under the
//! second it is written, and no other lock is taken. The locks of the jobs for workers are taken alone, and for a few
//! instructions. With a TUN of several queues, `order` is held while the locks of peers are taken for the packets of a
//! job, and the job is added.

pub mod allowed_ips;
mod apply;
mod backoff;
mod end_reason;
mod endpoints;
mod events;
mod gate;
mod greetings;
mod handshake_limiter;
#[cfg(test)]
mod holds;
mod in_flight;
mod index;
mod jitter;
mod learn;
mod link;
mod load;
mod lookup;
mod loops;
mod memory;
mod names;
mod needs;
mod news;
mod packet;
mod peer;
mod peer_removal;
mod peers;
mod pool;
mod ranking;
mod ratelimit;
mod receive;
mod resolver;
mod ring;
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
mod workers;
mod zones;

use std::{
    collections::VecDeque,
    panic::resume_unwind,
    sync::{
        Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use end_reason::EndReason;
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
pub use workers::{DEFAULT_WORKERS, MAX_WORKERS, WORKER_MEMORY};

use crate::{
    bind::Bind,
    error::{Error, ErrorKind, Result},
    key::PublicKey,
    noise::handshake::Identity,
    random::{Random, SystemRandom},
    sync::{self, try_lock},
    time::{Clock, Instant, SystemClock},
    tun::{Tun, TunEvent},
};
use allowed_ips::AllowedIps;
use events::Events;
use gate::Gate;
use greetings::Greetings;
use handshake_limiter::HandshakeLimiter;
#[cfg(test)]
use holds::work;
use in_flight::InFlight;
use index::IndexTable;
use jitter::Jitter;
use link::Link;
use names::Names;
use peer::{Peer, State};
use peers::Peers;
use staged::Budget;
use table::Table;
use timers::Deadlines;
use unreachable::AnswerRate;

/// The default of [`Options::max_peers`]: wireguard-go's limit.
pub const DEFAULT_MAX_PEERS: usize = crate::config::MAX_PEERS;

/// The default of [`Options::memory`], in bytes.
pub const DEFAULT_MEMORY: usize = 4 << 20;

/// The duration of [`Device::run_timers`], and therefore the longest time that packets wait for other peers' timers:
/// about 50 keepalives, or 5 initiations.
const SLICE: Duration = Duration::from_micros(500);

fn no_such_peer(key: &PublicKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no peer {key}"))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Tests count the work while a lock is held; see `holds.rs`.
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

/// Options of a device.
///
/// A new version may add fields: write `..Options::default()` behind those that are set.
///
/// ```
/// use wg_embed::{Event, Options, device::resolve_with_system};
///
/// let options = Options {
///     events: Box::new(|event| {
///         if let Event::HandshakeCompleted(peer) = event {
///             println!("a session with {peer}");
///         }
///     }),
///     resolve: Some(Box::new(resolve_with_system)), // endpoints may be host names
///     ..Options::default()
/// };
/// assert_eq!(options.learned_addresses, 0);
/// ```
pub struct Options {
    /// The maximum number of peers; `set` fails with `Invalid` beyond it.
    pub max_peers: usize,
    /// The memory for packets in transit or waiting for a session, in bytes. The fixed buffers ([`FIXED_MEMORY`]), and
    /// the queues of a TUN and a bind without descriptors, are subtracted first; each waiting packet takes
    /// [`STAGED_OVERHEAD`] more than its own bytes. At the limit the peer that holds most loses its oldest packet to
    /// one that holds less, or else new packets are dropped, and counted; one packet of each peer may wait in any case.
    /// A peer takes about 1 KiB in addition, and 3 KiB more while it has sessions.
    ///
    /// Each further queue of a TUN ([`Tun::queues`]) takes about 0.5 MiB, and all of them at most half of what is left
    /// for staged packets: 4 MiB suffice for 5 queues.
    pub memory: usize,
    /// Additional bytes of `memory` for each peer, for devices with many peers.
    pub memory_per_peer: usize,
    /// The number of source addresses that are learned for each peer: an address that a peer sends from, and that it
    /// does not have yet, becomes one of its allowed IPs and is removed from its previous owner. So peers can take
    /// addresses from each other. At the limit the oldest is forgotten. 0, the default, learns none and drops such
    /// packets, as WireGuard does.
    pub learned_addresses: usize,
    /// The largest number of threads that help a [`Tunnel`] to encrypt and decrypt, [`MAX_WORKERS`] at most. They are
    /// started when its own thread first hardly sleeps any more, and used only at such times. `None`, the default,
    /// is one less than the processors that the process may use, and at most [`DEFAULT_WORKERS`]; but none on one or
    /// two processors, and with less `memory` than [`DEFAULT_MEMORY`].
    ///
    /// At such times each takes [`WORKER_MEMORY`] from `memory`, and as much again is taken for all of them; but at
    /// most half of what is left for staged packets. With less memory fewer help, or none.
    pub workers: Option<usize>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub random: Arc<dyn Random>,
    /// The function that receives events.
    pub events: EventSink,
    /// The function that resolves host names. Without it an endpoint must be an address, and NAT64 is not used.
    pub resolve: Option<Resolve>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_peers: DEFAULT_MAX_PEERS,
            memory: DEFAULT_MEMORY,
            memory_per_peer: 0,
            learned_addresses: 0,
            workers: None,
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
    /// The number of changes: each peer records the number for its handshakes and sessions.
    number: u32,
}

/// A tunnel without threads of its own.
///
/// ```
/// use std::sync::Arc;
/// use wg_embed::{Device, Options, PrivateKey, UdpBind, Update, device::Outbound, tun::mem::MemTun};
///
/// # fn main() -> wg_embed::Result<()> {
/// let (tun, handle) = MemTun::new("mem0", 1420);
/// let device = Device::new(Arc::new(tun), Arc::new(UdpBind::new()?), Options::default());
/// device.apply(Update { private_key: Some(Some(PrivateKey::generate()?)), ..Update::default() })?;
/// handle.inject(&[0x45; 20]);
/// assert_eq!(device.outbound(&mut Outbound::new())?, 1); // read, and dropped: it has no peer
/// assert_eq!(device.next_deadline(), None);
/// # Ok(())
/// # }
/// ```
///
/// [`outbound`](Self::outbound), which reads the first queue of a TUN, [`inbound`](Self::inbound) and
/// [`run_timers`](Self::run_timers) may run at the same time, each on one thread; all other functions on any thread at
/// any time.
pub struct Device {
    tun: Arc<dyn Tun>,
    bind: Arc<dyn Bind>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    jitter: Jitter,
    events: Events,
    max_peers: usize,
    memory: usize,
    memory_per_peer: usize,
    learned_addresses: usize,
    mtu: AtomicU16,
    /// The total time that the machine had been suspended at the last check, in nanoseconds. No session is older.
    slept: AtomicU64,
    /// Held while sessions are forgotten because the machine was suspended.
    waking: Mutex<()>,
    roaming_disabled: AtomicBool,
    /// Whether networks may have changed since the port was chosen, and no peer was received on it since. The port is
    /// replaced once for that reason.
    port_may_be_dead: AtomicBool,
    /// Held while a change set is applied: there is one at a time.
    sets: Mutex<()>,
    /// Held while the sockets change; see [`Transition`](sockets::Transition).
    transition: Mutex<()>,
    in_flight: InFlight,
    tun_gate: Gate,
    /// Held during a write to the TUN, which has one writer at a time.
    tun_writer: Mutex<()>,
    answer_rate: Mutex<AnswerRate>,
    /// Held while an event of the TUN is taken and recorded, which keeps them in order.
    tun_events: Mutex<()>,
    /// Held for a moment only; the rest of the state may be locked under it.
    config: Mutex<Config>,
    /// Held while a handshake message is computed, so that each uses one key.
    own_key: RwLock<OwnKey>,
    handshake_limiter: Mutex<HandshakeLimiter>,
    peers: Peers,
    allowed_ips: Table<AllowedIps<Arc<Peer>>>,
    index: IndexTable,
    deadlines: Deadlines,
    /// Peers that are to be greeted in slices.
    greetings: Mutex<VecDeque<Greetings>>,
    /// `None` if host names cannot be resolved.
    names: Option<Names>,
    /// The limit for staged packets.
    budget: Arc<Budget>,
    stats: Stats,
}

impl Device {
    /// Creates a device without keys and peers, which is down.
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
            jitter: Jitter::default(),
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
            tun_gate: Gate::default(),
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

    /// Returns the counters.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the maximum number of peers.
    #[must_use]
    pub const fn max_peers(&self) -> usize {
        self.max_peers
    }

    /// Returns the interface's MTU.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Returns the UDP port that the sockets are bound to; 0 while they are closed.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        let link = &lock(&self.config).link;
        if link.is_up() { link.port().number() } else { 0 }
    }

    /// Returns our public key.
    ///
    /// # Errors
    /// `NotFound` if there is no private key.
    pub fn public_key(&self) -> Result<PublicKey> {
        let missing = || Error::new(ErrorKind::NotFound, "there is no private key");
        self.identity().map(|identity| *identity.public()).ok_or_else(missing)
    }

    /// Returns the number of handshakes and sessions with an index, which is bounded for each peer. Only with the
    /// feature `test-util`.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn indices(&self) -> usize {
        self.index.len()
    }

    /// Returns the session for sending to a peer, for tests of the end of sessions. Only with the feature `test-util`.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn current_session(&self, peer: &PublicKey) -> Option<Arc<crate::noise::session::Session>> {
        let peer = self.peers.get(peer)?;
        lock(&peer.state).sessions.current().cloned()
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        read(&self.own_key).identity.clone()
    }

    /// Delivers events to the app; to be called without a lock, and not between readings of the clock that belong
    /// together. A panic of the app's function continues from here, after the other events were delivered.
    fn tell_events(&self) {
        let told = self.events.tell();
        if told.is_more {
            self.bind.wake();
        }
        if let Some(panic) = told.panic {
            resume_unwind(panic);
        }
    }

    /// Handles events of the TUN interface. If its port cannot be opened when it comes up, that is retried. If the
    /// sockets are being changed at the moment, the timers continue afterwards.
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

    /// Executes the actions of peers' timers, takes results of look-ups, and retries failed operations, for a time that
    /// a packet thread can afford. If work is left, [`next_deadline`](Self::next_deadline) is in the past.
    pub fn run_timers(&self) {
        self.notice_sleep();
        let began = self.clock.now();
        if self.deadlines.pop_own(began) {
            self.retry_sockets();
        }
        self.take_answers(began);
        self.greet_some(began);
        loop {
            // The clock is read again after all work that may take long: an app's functions may run here.
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

    /// Returns whether a round that began then has lasted long enough.
    fn is_over(&self, began: Instant) -> bool {
        self.clock.now().since(began) >= SLICE
    }

    /// Returns the time at which [`run_timers`](Self::run_timers) must run next; `None` if no timer runs. Until it has
    /// run again, an earlier deadline wakes the bind's `wait`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = self.deadlines.sleep();
        let is_left = !lock(&self.greetings).is_empty() || self.has_answers();
        if is_left { Some(Instant::default()) } else { next }
    }

    /// Lists a peer under its next deadline, unless it is listed under an earlier one: when that one fires, there is
    /// nothing to do and the peer is listed again, which is cheaper than moving it with each packet.
    fn schedule(&self, peer: &Arc<Peer>, state: &mut State) {
        let Some(next) = state.next_deadline() else {
            return;
        };
        self.schedule_at(peer, state, next);
    }

    /// Lists a peer under this deadline, unless it is listed under an earlier one.
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
