//! The shared state of a stack.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use wg_embed::{process, sync::read, time::Instant};

use super::{
    Netstack,
    budget::Memory,
    connections::Connections,
    counters::{Counters, Dropped},
    deadlines::{Deadlines, Timed, Timer},
    egress::Events,
    outbox::{HasRoom, Outbox},
    starved::Starved,
    waiter::Waiter,
};
use crate::{Intercept, InterceptOptions, Notify, Options, dns::resolver::Resolver};

/// The inner part of a [`Netstack`].
pub(crate) struct Shared {
    /// The original options; current values of those that can change are in `network`.
    pub(crate) options: Options,
    pub(crate) network: RwLock<Network>,
    /// The MTU of `network`. Changes under its lock.
    pub(super) mtu: AtomicU16,
    /// The handler of traffic without a socket.
    pub(super) interception: RwLock<Option<Arc<Interception>>>,
    pub(crate) counters: Counters,
    pub(super) outbox: Outbox,
    pub(super) deadlines: Deadlines,
    pub(super) waiter: Arc<Waiter>,
    pub(super) events: Events,
    pub(super) closed: AtomicBool,
    /// The notifiers of the stack's end.
    pub(super) closing: Mutex<Vec<Weak<dyn Notify>>>,
    /// The number of the process that created it.
    process: u32,
    pub(crate) memory: Arc<Memory>,
    pub(super) starved: Starved,
    pub(crate) tcp: Connections,
    /// The key from which sequence numbers and similar values are derived.
    secret: [u8; 32],
    /// The state of UDP, ICMP and fragments.
    pub(crate) udp: super::udp::State,
    pub(crate) icmp: super::icmp::State,
    pub(crate) fragments: super::fragments::State,
    /// The state shared by look-ups of names.
    pub(crate) resolver: Resolver<Netstack>,
}

/// The options that can change.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) dns: Vec<IpAddr>,
}

impl Network {
    pub(super) fn of(options: &Options) -> Self {
        Self { addresses: options.addresses.clone(), mtu: options.mtu, dns: options.dns.clone() }
    }
}

/// A handler of intercepted traffic.
pub(crate) struct Interception {
    pub(crate) options: InterceptOptions,
    pub(crate) handler: Arc<dyn Intercept>,
}

impl Shared {
    pub(super) fn new(options: Options) -> io::Result<Self> {
        let mut secret = [0; 32];
        options.random.fill(&mut secret);
        let waiter = Arc::new(Waiter::new()?);
        Ok(Self {
            network: RwLock::new(Network::of(&options)),
            mtu: AtomicU16::new(options.mtu),
            interception: RwLock::new(None),
            counters: Counters::new(),
            outbox: Outbox::new(),
            deadlines: Deadlines::new(),
            events: Events::new(),
            closed: AtomicBool::new(false),
            closing: Mutex::default(),
            process: process::number(),
            memory: Arc::new(Memory::new(options.memory, waiter.clone())),
            starved: Starved::default(),
            waiter,
            tcp: Connections::new(options.max_connections),
            secret,
            udp: super::udp::State::default(),
            icmp: super::icmp::State::default(),
            fragments: super::fragments::State::default(),
            resolver: Resolver::new(),
            options,
        })
    }

    pub(crate) fn now(&self) -> Instant {
        self.options.clock.now()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Returns whether this is a child of `fork()`: other threads, which do not exist here, may have held any of the
    /// locks, and the connections belong to the parent.
    pub(crate) fn is_forked(&self) -> bool {
        self.process != process::number()
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Acquire)
    }

    /// Returns whether it is one of the stack's addresses.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        read(&self.network).addresses.contains(&address)
    }

    /// Returns the stack's own address for packets to `to`.
    pub(crate) fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        read(&self.network).addresses.iter().find(|address| address.is_ipv4() == to.is_ipv4()).copied()
    }

    /// Returns the handler of traffic without a socket.
    pub(crate) fn interception(&self) -> Option<Arc<Interception>> {
        read(&self.interception).clone()
    }

    /// Returns whether there is a handler of traffic without a socket.
    pub(crate) fn intercepts(&self) -> bool {
        read(&self.interception).is_some()
    }

    /// Counts a dropped packet.
    pub(crate) fn dropped(&self, reason: Dropped) {
        self.counters.add(reason, 1);
    }

    /// Counts a datagram that is not sent since no attempt can succeed.
    #[cfg_attr(not(unix), allow(dead_code))]
    pub(crate) fn count_unsent(&self) {
        self.dropped(Dropped::OutUnsendable);
    }

    /// Sends a whole packet as soon as possible. Returns false, and counts it, if there is no room for it.
    pub(crate) fn send(&self, packet: &[u8]) -> bool {
        let sent = self.outbox.push(packet);
        if sent {
            self.waiter.signal();
        } else {
            self.dropped(Dropped::OutFull);
        }
        sent
    }

    /// Does the same as [`send`](Self::send), for programs' packets: if there is no room, nothing is dropped; `waiter`
    /// is notified once when there is room. A waiter must not be passed again before it was notified: `None` if it is
    /// already waiting.
    pub(crate) fn send_or_wait(&self, packet: &[u8], waiter: impl FnOnce() -> Option<Arc<dyn HasRoom>>) -> bool {
        let sent = self.outbox.push_or_wait(packet, waiter);
        if sent {
            self.waiter.signal();
        }
        sent
    }

    /// Schedules a call of `object` at `at`, unless it is called earlier anyway; see [`Timed`].
    pub(crate) fn schedule(&self, timer: &Timer, at: Instant, object: impl FnOnce() -> Arc<dyn Timed>) {
        if self.deadlines.set(timer, at, object) {
            self.waiter.deadline_moved(|| self.deadlines.next(), || self.now());
        }
    }

    /// Removes an object from the set of deadlines.
    pub(crate) fn unschedule(&self, timer: &Timer) {
        self.deadlines.clear(timer);
    }

    /// Returns a number that only this stack can derive from `about`.
    pub(crate) fn keyed_hash(&self, purpose: &str, about: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.secret);
        purpose.hash(&mut hasher);
        about.hash(&mut hasher);
        hasher.finish()
    }
}
