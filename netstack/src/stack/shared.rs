//! What everything in a stack shares.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use wg_embed::{sync::read, time::Instant};

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
    /// As they were given; what can change is in `network`.
    pub(crate) options: Options,
    pub(crate) network: RwLock<Network>,
    /// That of `network`. Changes under its lock.
    pub(super) mtu: AtomicU16,
    /// Who takes what is for no socket.
    pub(super) interception: RwLock<Option<Arc<Interception>>>,
    pub(crate) counters: Counters,
    pub(super) outbox: Outbox,
    pub(super) deadlines: Deadlines,
    pub(super) waiter: Arc<Waiter>,
    pub(super) events: Events,
    pub(super) closed: AtomicBool,
    /// Who is told when it is closed.
    pub(super) closing: Mutex<Vec<Weak<dyn Notify>>>,
    /// The process that it was made in.
    process: u32,
    pub(crate) memory: Arc<Memory>,
    pub(super) starved: Starved,
    pub(crate) tcp: Connections,
    /// What sequence numbers and the like are derived from.
    secret: [u8; 32],
    /// What UDP, ICMP and fragments keep.
    pub(crate) udp: super::udp::State,
    pub(crate) icmp: super::icmp::State,
    pub(crate) fragments: super::fragments::State,
    /// What look-ups of names share.
    pub(crate) resolver: Resolver<Netstack>,
}

/// What can change of the options.
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

/// A handler of what is intercepted.
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
            process: std::process::id(),
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

    /// Whether this is a child of `fork()`: other threads, which do not exist here, may have held any of the locks, and
    /// the connections are the parent's.
    pub(crate) fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Acquire)
    }

    /// Whether it is one of the stack's addresses.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        read(&self.network).addresses.contains(&address)
    }

    /// The stack's own address for packets to `to`.
    pub(crate) fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        read(&self.network).addresses.iter().find(|address| address.is_ipv4() == to.is_ipv4()).copied()
    }

    /// Who takes what is for no socket.
    pub(crate) fn interception(&self) -> Option<Arc<Interception>> {
        read(&self.interception).clone()
    }

    /// Whether there is someone who takes what is for no socket.
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

    /// As [`send`](Self::send), for programs' packets: if there is no room, nothing is dropped; `waiter` is told once
    /// when there is room. A waiter must not be given twice before it was told: `None` if it waits already.
    pub(crate) fn send_or_wait(&self, packet: &[u8], waiter: impl FnOnce() -> Option<Arc<dyn HasRoom>>) -> bool {
        let sent = self.outbox.push_or_wait(packet, waiter);
        if sent {
            self.waiter.signal();
        }
        sent
    }

    /// Lets `object` be called at `at`, unless it is called earlier already; see [`Timed`].
    pub(crate) fn schedule(&self, timer: &Timer, at: Instant, object: impl FnOnce() -> Arc<dyn Timed>) {
        if self.deadlines.set(timer, at, object) {
            self.waiter.deadline_moved(|| self.deadlines.next(), || self.now());
        }
    }

    /// Removes an object from those that have deadlines.
    pub(crate) fn unschedule(&self, timer: &Timer) {
        self.deadlines.clear(timer);
    }

    /// A number that only this stack can derive from `about`.
    pub(crate) fn keyed_hash(&self, purpose: &str, about: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.secret);
        purpose.hash(&mut hasher);
        about.hash(&mut hasher);
        hasher.finish()
    }
}
