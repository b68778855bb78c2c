//! The work of a tunnel's two threads, and which of them serves the TUN.
//!
//! `wg-tunnel` serves the sockets and the timers, and the TUN as well as long as one thread keeps up: an immediate
//! reply of the system, or sporadic traffic of an app, then costs one wake-up and not two. Under load in both
//! directions, `wg-outbound` takes over the TUN, until the work of both would fit into one thread again. docs/adr/0004
//! has the measurements. A TUN that cannot be polled together with the sockets is always served by `wg-outbound`.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Device, Inbound, MemoryUsage, Options, Outbound, lock, pool::Workspace};
use crate::{
    bind::{Bind, Woken},
    key::wipe_below,
    sync,
    tun::Tun,
};

/// How long the threads are observed before the TUN is handed over: long compared to a handover (about 50 us), short
/// compared to what a user notices.
const WINDOW: Duration = Duration::from_millis(20);

/// After a sleep of this length a single packet is a request or a reply, and none is expected behind it. Under load a
/// thread sleeps for less, if at all, and each sleep that another look would have spared costs more than the look.
const QUIET: Duration = Duration::from_micros(30);

/// The number of rounds of `wg-tunnel` between two readings of the clock.
const ROUNDS: u32 = 32;

/// The number of rounds under constant reception between two checks of the bind's other event sources, such as changes
/// of the routes.
const BIND_ROUNDS: u32 = 64;

/// The number of rounds under constant load between two checks of the TUN's other events: an interface may be taken
/// down, or get another MTU, while it is busy.
const TUN_ROUNDS: u32 = 64;

/// The thread that serves the TUN.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Tunnel,
    Outbound { for_good: bool },
}

/// The result of a round in one direction.
#[derive(Clone, Copy, Default)]
struct Round {
    /// The number of packets or messages.
    moved: usize,
    /// Whether there may be more now.
    more: bool,
}

impl Round {
    /// Creates the result of a round that moved so many; `is_last` if none is expected after a single one.
    const fn new(moved: usize, is_last: bool) -> Self {
        // While several were moved, others have probably arrived: another look then costs less than a wait.
        Self { moved, more: moved > 1 || (moved == 1 && !is_last) }
    }
}

/// The state that the two threads share.
pub(super) struct Threads {
    pub(super) device: Device,
    tun: Arc<dyn Tun>,
    bind: Arc<dyn Bind>,
    stopping: AtomicBool,
    server: Mutex<Server>,
    server_changed: Condvar,
    /// The buffers of the thread that serves the TUN.
    outbound: Workspace<Outbound>,
    /// The buffers of `wg-tunnel` for the sockets.
    inbound: Workspace<Inbound>,
    /// The idle time of `wg-tunnel`.
    idle: Mutex<Idle>,
}

impl Threads {
    pub(super) fn new(tun: Arc<dyn Tun>, bind: Arc<dyn Bind>, options: Options) -> Self {
        let device = Device::new(tun.clone(), bind.clone(), options);
        device.resolve_on_a_thread();
        Self {
            device,
            tun,
            bind,
            stopping: AtomicBool::new(false),
            server: Mutex::new(Server::Tunnel),
            server_changed: Condvar::new(),
            outbound: Workspace::default(),
            inbound: Workspace::default(),
            idle: Mutex::default(),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Allocates the threads' buffers, so that a tunnel for which there is no memory is not started.
    pub(super) fn make_buffers(&self) -> io::Result<()> {
        self.inbound.with(|_| Ok(()))?;
        self.outbound.with(|_| Ok(()))
    }

    /// Makes both threads return. Returns false if that was requested before.
    pub(super) fn stop(&self) -> bool {
        let first = !self.stopping.swap(true, Ordering::AcqRel);
        self.tun.wake();
        self.bind.wake();
        // Locked, so that it does not come between another thread's check of `stopping` and its sleep.
        let _server = lock(&self.server);
        self.server_changed.notify_all();
        first
    }

    /// Returns the memory of the device and the threads.
    pub(super) fn memory_usage(&self) -> MemoryUsage {
        let mut usage = self.device.memory_usage();
        usage.buffers += self.outbound.memory() + self.inbound.memory();
        usage
    }

    /// Releases unused memory.
    pub(super) fn trim(&self) {
        self.device.trim();
        self.outbound.trim();
        self.inbound.trim();
    }

    /// Runs `wg-tunnel`.
    pub(super) fn tunnel(&self) -> io::Result<()> {
        let mut serves_tun = false;
        let result = self.serve(&mut serves_tun);
        if serves_tun && let Err(err) = self.deregister_tun() {
            // The program may use its TUN again.
            tracing::debug!(%err, "the interface stays in the poll of the sockets");
        }
        result
    }

    /// Serves the sockets and the timers, and the TUN while `serves_tun` is set.
    fn serve(&self, serves_tun: &mut bool) -> io::Result<()> {
        let mut load = Load::new();
        let (mut rounds, mut rounds_since_wait) = (0, 0);
        // Whether there may be more.
        let (mut datagrams, mut packets) = (true, true);
        while !self.is_stopping() {
            packets |= self.take_or_leave_tun(serves_tun)?;
            let received = if datagrams { self.receive(load.is_quiet)? } else { Round::default() };
            // The system may have replied at once to what was written: to read costs no more than to ask.
            let reads = *serves_tun && (packets || received.moved > 0);
            let sent = if reads { self.serve_tun(&mut rounds, load.is_quiet)? } else { Round::default() };
            self.device.run_timers();
            (datagrams, packets) = (received.more, sent.more);
            if *serves_tun && load.is_too_much(received.moved, sent.moved) {
                self.hand_over(Server::Tunnel, Server::Outbound { for_good: false });
            } else if !datagrams || rounds_since_wait == BIND_ROUNDS {
                rounds_since_wait = 0;
                // Also while the TUN is busy, or else it could keep the sockets waiting.
                let busy = datagrams || packets;
                let woken = if busy { self.bind.wait(Some(Duration::ZERO)) } else { self.sleep(&mut load) }?;
                datagrams |= woken.own;
                if *serves_tun && woken.registered[1] {
                    self.tun.wait(Some(Duration::ZERO))?;
                }
                packets |= woken.registered.contains(&true);
            } else {
                rounds_since_wait += 1;
            }
        }
        Ok(())
    }

    /// Begins or ends to serve the TUN on `wg-tunnel`, if that is decided. Returns whether it has begun.
    fn take_or_leave_tun(&self, serves_tun: &mut bool) -> io::Result<bool> {
        let should_serve_tun = self.serves(Server::Tunnel);
        if *serves_tun == should_serve_tun {
            return Ok(false);
        }
        if !should_serve_tun {
            self.deregister_tun()?;
            *serves_tun = false;
            return Ok(false);
        }
        *serves_tun = self.register_tun()?;
        if !*serves_tun {
            self.hand_over(Server::Tunnel, Server::Outbound { for_good: true });
        }
        Ok(*serves_tun)
    }

    /// Runs `wg-outbound`.
    pub(super) fn outbound(&self) -> io::Result<()> {
        while let Some(for_good) = self.wait_for_tun() {
            self.serve_tun_alone(for_good)?;
            // After a pause, too, `wg-tunnel` first tests whether it can wait for the TUN.
            self.hand_over(Server::Outbound { for_good }, Server::Tunnel);
            self.bind.wake();
        }
        Ok(())
    }

    /// Sleeps until the TUN is handed over, and returns whether that is permanent; `None` if the tunnel is stopped.
    fn wait_for_tun(&self) -> Option<bool> {
        let mut server = lock(&self.server);
        loop {
            match *server {
                _ if self.is_stopping() => return None,
                Server::Outbound { for_good } => return Some(for_good),
                Server::Tunnel => {
                    server = sync::wait(&self.server_changed, server);
                }
            }
        }
    }

    /// Returns when the tunnel is stopped or paused, or (unless `for_good`) when one thread could do the work of both.
    fn serve_tun_alone(&self, for_good: bool) -> io::Result<()> {
        let mut began = Instant::now();
        let mut theirs = lock(&self.idle).total(began);
        let mut ours = Duration::ZERO;
        let mut rounds = 0;
        while !self.is_stopping() && self.serves(Server::Outbound { for_good }) {
            if self.serve_tun(&mut rounds, false)?.more {
                continue;
            }
            if for_good {
                wipe_below();
                self.tun.wait(None)?;
                continue;
            }
            let now = Instant::now();
            let passed = now - began;
            if passed >= WINDOW {
                let total = lock(&self.idle).total(now);
                // A fifth of one thread is left free, or else the TUN would soon be handed back.
                if ours + (total - theirs) > passed + passed / 5 {
                    break;
                }
                (began, theirs, ours) = (now, total, Duration::ZERO);
            }
            wipe_below();
            self.tun.wait(Some(WINDOW))?;
            ours += now.elapsed();
        }
        Ok(())
    }

    /// Runs one round from UDP to the TUN.
    fn receive(&self, is_quiet: bool) -> io::Result<Round> {
        go_on(self.inbound.with(|buffers| {
            let moved = self.device.inbound(buffers)?;
            Ok(Round::new(moved, is_quiet && self.bind.is_drained() && buffers.handshakes.is_empty()))
        }))
    }

    /// Runs one round from the TUN to UDP.
    fn serve_tun(&self, rounds: &mut u32, is_quiet: bool) -> io::Result<Round> {
        *rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(TUN_ROUNDS) {
            self.tun.wait(Some(Duration::ZERO))?;
        }
        self.device.handle_tun_events();
        go_on(self.outbound.with(|buffers| {
            let moved = self.device.outbound(buffers)?;
            Ok(Round::new(moved, is_quiet && self.tun.is_drained()))
        }))
    }

    /// Waits on `wg-tunnel` for a reason to continue.
    fn sleep(&self, load: &mut Load) -> io::Result<Woken> {
        let timeout = self.device.next_deadline().map(|at| at.since(self.device.clock.now()));
        let began = Instant::now();
        lock(&self.idle).since = Some(began);
        wipe_below();
        let woken = self.bind.wait(timeout);
        let slept = began.elapsed();
        let mut idle = lock(&self.idle);
        idle.since = None;
        idle.before += slept;
        drop(idle);
        load.slept += slept;
        load.is_quiet = slept >= QUIET;
        woken
    }

    fn register_tun(&self) -> io::Result<bool> {
        self.bind.registry().map_or(Ok(false), |(registry, tokens)| self.tun.register(registry, tokens))
    }

    fn deregister_tun(&self) -> io::Result<()> {
        self.bind.registry().map_or(Ok(()), |(registry, _)| self.tun.deregister(registry))
    }

    /// Returns whether this thread must serve the TUN now. During a pause none does, so that its packets wake no
    /// thread.
    fn serves(&self, server: Server) -> bool {
        !self.device.tun_paused() && *lock(&self.server) == server
    }

    /// Changes the thread that serves the TUN, unless it has already changed.
    fn hand_over(&self, from: Server, to: Server) {
        let mut server = lock(&self.server);
        if *server == from {
            *server = to;
            self.server_changed.notify_all();
        }
    }
}

/// Handles the result of a round. Without memory, the round is repeated when there is some again; until then packets
/// wait where they are, and are dropped there when that is full.
fn go_on(done: io::Result<Round>) -> io::Result<Round> {
    /// The delay between two attempts.
    const NAP: Duration = Duration::from_millis(10);
    match done {
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            thread::sleep(NAP);
            Ok(Round { moved: 1, more: true })
        }
        done => done,
    }
}

/// The time that a thread has slept.
#[derive(Default)]
struct Idle {
    before: Duration,
    /// The start of its sleep; `None` while it is awake.
    since: Option<Instant>,
}

impl Idle {
    fn total(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// The recent load of `wg-tunnel`.
struct Load {
    began: Instant,
    rounds: u32,
    slept: Duration,
    received: usize,
    sent: usize,
    /// Whether the last sleep was not a short one.
    is_quiet: bool,
}

impl Load {
    fn new() -> Self {
        Self { began: Instant::now(), rounds: 0, slept: Duration::ZERO, received: 0, sent: 0, is_quiet: true }
    }

    /// Records a round. Returns whether the thread hardly sleeps any more, and a second one would help, that is,
    /// whether at least a fifth of the packets go in each direction.
    fn is_too_much(&mut self, received: usize, sent: usize) -> bool {
        self.rounds += 1;
        self.received += received;
        self.sent += sent;
        if !self.rounds.is_multiple_of(ROUNDS) {
            return false;
        }
        let passed = self.began.elapsed();
        if passed < WINDOW {
            return false;
        }
        let next = Self { is_quiet: self.is_quiet, ..Self::new() };
        let last = std::mem::replace(self, next);
        last.slept < passed / 20 && last.received.min(last.sent) > (last.received + last.sent) / 5
    }
}
