//! The work of a tunnel's two threads, which of them serves the TUN, and when workers help them.
//!
//! `wg-tunnel` serves the sockets and the timers, and the TUN as well as long as one thread keeps up: an immediate
//! reply of the system, or sporadic traffic of an app, then costs one wake-up and not two. Under load in both
//! directions, `wg-outbound` takes over the TUN, until the work of both would fit into one thread again. docs/adr/0004
//! has the measurements. A TUN that cannot be polled together with the sockets is always served by `wg-outbound`. What
//! is said here of the TUN holds for the first of several queues; [`queues`] has the others.

mod queues;

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use self::queues::Queue;
use super::{
    Device, Inbound, MemoryUsage, Options, Outbound,
    load::{Idle, Load, QUIET, Spent, WINDOW, Window},
    lock,
    pool::Workspace,
    workers::Workers,
};
use crate::{
    bind::{Bind, Woken},
    error::{Error, Result},
    key::wipe_below,
    sync,
    tun::Tun,
};

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
    /// Creates the result of a round that moved this number of packets or messages. After a single one, `is_last` is
    /// called, and returns whether no other is expected soon.
    fn new(moved: usize, is_last: impl FnOnce() -> bool) -> Self {
        // While several were moved, others have probably arrived: another look then costs less than a wait.
        Self { moved, more: moved > 1 || (moved == 1 && !is_last()) }
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
    /// `None` if there are to be none, and the TUN has one queue.
    workers: Option<Workers>,
    /// The further queues of the TUN.
    queues: Vec<Queue>,
}

impl Threads {
    pub(super) fn new(tun: Arc<dyn Tun>, bind: Arc<dyn Bind>, options: Options) -> Self {
        let queues: Vec<_> = tun.queues().into_iter().map(Queue::new).collect();
        let workers = Workers::of(options.workers, options.memory, 1 + queues.len());
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
            workers,
            queues,
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Allocates the threads' buffers, so that a tunnel for which there is no memory is not started.
    ///
    /// # Errors
    /// `Invalid` if the option for memory leaves no room for the queues of the TUN, and `OutOfMemory`.
    pub(super) fn make_buffers(&self) -> Result<()> {
        if let Some(workers) = &self.workers {
            workers.reserve(&self.device.budget)?;
        }
        let make = || {
            self.inbound.with(|_| Ok(()))?;
            self.outbound.with(|_| Ok(()))?;
            self.make_queue_buffers()
        };
        make().map_err(|e| Error::io("cannot start a tunnel", e))
    }

    /// Makes all threads return. Returns false if that was requested before.
    pub(super) fn stop(&self) -> bool {
        let first = !self.stopping.swap(true, Ordering::AcqRel);
        self.tun.wake();
        self.device.tun_gate.tell();
        self.bind.wake();
        if let Some(workers) = &self.workers {
            workers.stop();
        }
        // Locked, so that it does not come between another thread's check of `stopping` and its sleep.
        let _server = lock(&self.server);
        self.server_changed.notify_all();
        first
    }

    /// Returns the memory of the device and the threads.
    pub(super) fn memory_usage(&self) -> MemoryUsage {
        let mut usage = self.device.memory_usage();
        usage.buffers += self.outbound.memory() + self.inbound.memory();
        usage.buffers += self.workers.as_ref().map_or(0, Workers::memory);
        usage.buffers += self.queue_memory();
        usage
    }

    /// Releases unused memory.
    pub(super) fn trim(&self) {
        self.device.trim();
        let (workers, budget) = (self.workers.as_ref(), &self.device.budget);
        self.outbound.trim(|| match workers {
            Some(workers) if workers.has_queues() => self.trim_queues(&|| workers.release_jobs()),
            workers => workers.into_iter().for_each(|workers| workers.out.trim(budget)),
        });
        self.inbound.trim(|| workers.into_iter().for_each(|workers| workers.inbound.trim(budget)));
    }

    /// Returns the number of workers to be started when there is a load.
    pub(super) fn workers(&self) -> usize {
        self.workers.as_ref().map_or(0, Workers::number)
    }

    /// Makes workers help whatever the load.
    #[cfg(feature = "test-util")]
    pub(super) fn always_use_workers(&self) {
        if let Some(workers) = &self.workers {
            workers.always();
        }
    }

    /// Runs a worker, `wg-worker`.
    pub(super) fn worker(&self) {
        if let Some(workers) = &self.workers {
            workers.run(&self.device);
        }
    }

    /// Runs `wg-tunnel`, which calls `start_workers` when they are first needed.
    pub(super) fn tunnel(&self, start_workers: &dyn Fn()) -> io::Result<()> {
        let mut serves_tun = false;
        let result = self.serve(&mut serves_tun, start_workers);
        if let Some(workers) = &self.workers {
            workers.inbound.finish(&self.device);
        }
        if serves_tun {
            self.finish_outbound();
        }
        if serves_tun && let Err(err) = self.deregister_tun() {
            // The program may use its TUN again.
            tracing::debug!(%err, "the interface stays in the poll of the sockets");
        }
        result
    }

    /// Serves the sockets and the timers, and the TUN while `serves_tun` is set.
    fn serve(&self, serves_tun: &mut bool, start_workers: &dyn Fn()) -> io::Result<()> {
        let mut load = self.new_load();
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
            let window = self.record(&mut load, received, sent);
            if let Some(window) = &window {
                self.employ(&window.spent, [*serves_tun, true], start_workers);
            }
            if *serves_tun && window.is_some_and(|window| window.is_too_much()) {
                self.hand_over(Server::Tunnel, Server::Outbound { for_good: false });
            } else if !datagrams || rounds_since_wait == BIND_ROUNDS {
                rounds_since_wait = 0;
                // Also while the TUN is busy, or else it could keep the sockets waiting.
                let busy = datagrams || packets;
                let woken =
                    if busy { self.bind.wait(Some(Duration::ZERO)) } else { self.sleep(&mut load, *serves_tun) }?;
                datagrams |= woken.own;
                if *serves_tun && woken.registered.other {
                    self.tun.wait(Some(Duration::ZERO))?;
                }
                packets |= woken.registered.packets || woken.registered.other;
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
            // Before a pause: what is left would keep the keys of its sessions.
            self.finish_outbound();
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

    /// Runs `wg-outbound`, which calls `start_workers` when they are first needed.
    pub(super) fn outbound(&self, start_workers: &dyn Fn()) -> io::Result<()> {
        while let Some(for_good) = self.wait_for_tun() {
            let result = self.serve_tun_alone(for_good, start_workers);
            self.finish_outbound();
            result?;
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
    fn serve_tun_alone(&self, for_good: bool, start_workers: &dyn Fn()) -> io::Result<()> {
        let mut load = self.new_load();
        let mut began = Instant::now();
        let mut theirs = lock(&self.idle).total(began);
        let mut ours = Duration::ZERO;
        let mut rounds = 0;
        while !self.is_stopping() && self.serves(Server::Outbound { for_good }) {
            let sent = self.serve_tun(&mut rounds, false)?;
            if let Some(window) = self.record(&mut load, Round::default(), sent) {
                self.employ(&window.spent, [true, false], start_workers);
            }
            if sent.more {
                continue;
            }
            let now = Instant::now();
            if for_good {
                wipe_below();
                self.tun.wait(None)?;
                self.has_slept(&mut load, now.elapsed(), [true, false]);
                continue;
            }
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
            let slept = now.elapsed();
            ours += slept;
            self.has_slept(&mut load, slept, [true, false]);
        }
        Ok(())
    }

    /// Runs one round from UDP to the TUN.
    fn receive(&self, is_quiet: bool) -> io::Result<Round> {
        go_on(self.inbound.with(|buffers| {
            let moved = self.inbound_round(buffers)?;
            let is_last = || is_quiet && self.bind.is_drained() && buffers.handshakes.is_empty();
            let round = Round::new(moved, is_last);
            if !round.more
                && let Some(workers) = &self.workers
            {
                // It may be a while until the next round.
                workers.inbound.help_out(&self.device);
            }
            Ok(round)
        }))
    }

    /// Runs one round from the TUN to UDP.
    fn serve_tun(&self, rounds: &mut u32, is_quiet: bool) -> io::Result<Round> {
        *rounds = rounds.wrapping_add(1);
        let has_waited = rounds.is_multiple_of(TUN_ROUNDS);
        if has_waited {
            self.tun.wait(Some(Duration::ZERO))?;
        }
        self.device.handle_tun_events();
        go_on(self.outbound.with(|buffers| {
            let moved = self.outbound_round(buffers)?;
            let mut round = Round::new(moved, || is_quiet && self.tun.is_drained());
            // That wait may have taken the wake-up of a stop or a pause, which the caller tests before it sleeps.
            round.more |= has_waited;
            if !round.more
                && let Some(workers) = &self.workers
            {
                if workers.has_queues() {
                    round.more = workers.is_left_to_send(&self.device);
                } else {
                    workers.out.help_out(&self.device);
                }
            }
            Ok(round)
        }))
    }

    /// Does what [`Device::outbound`] does, with the help of workers if there is too much to do.
    fn outbound_round(&self, out: &mut Outbound) -> io::Result<usize> {
        let (device, Some(workers)) = (&self.device, &self.workers) else { return self.device.outbound(out) };
        if workers.has_queues() {
            return workers.serve(device, &*self.tun, out, workers.out.is_wanted());
        }
        if !workers.out.begin(workers, device, out) {
            return device.outbound(out);
        }
        let read = device.read_for_job(&*self.tun, out);
        match read {
            Ok(0) => {}
            Ok(_) => {
                device.fill(out);
                workers.out.pass(workers, device, out)?;
            }
            // The last packets of a TUN that has ended.
            Err(_) => workers.out.finish(device),
        }
        read
    }

    /// Does what [`Device::inbound`] does, with the help of workers if there is too much to do.
    fn inbound_round(&self, inbound: &mut Inbound) -> io::Result<usize> {
        let (device, Some(workers)) = (&self.device, &self.workers) else { return self.device.inbound(inbound) };
        if !workers.inbound.begin(workers, device, &mut inbound.received) {
            return device.inbound(inbound);
        }
        let mut passed = Ok(());
        let handled =
            device.inbound_with(inbound, |received| passed = workers.inbound.pass(workers, device, received))?;
        passed.map(|()| handled)
    }

    /// Finishes all outbound jobs; to be called on the thread that serves the TUN, when it leaves it.
    fn finish_outbound(&self) {
        match &self.workers {
            Some(workers) if workers.has_queues() => workers.finish_shared(&self.device),
            workers => workers.iter().for_each(|workers| workers.out.finish(&self.device)),
        }
    }

    /// Decides whether workers help in the directions that this thread serves, outbound and inbound.
    fn employ(&self, spent: &Spent, directions: [bool; 2], start_workers: &dyn Fn()) {
        if self.workers.as_ref().is_some_and(|workers| workers.judge(spent, directions)) {
            start_workers();
        }
    }

    /// Records the sleep of a thread. After a long one its directions need no help.
    fn has_slept(&self, load: &mut Load, slept: Duration, directions: [bool; 2]) {
        load.slept += slept;
        if slept >= WINDOW {
            self.employ(&Spent { passed: slept, slept, worked: Duration::ZERO }, directions, &|| ());
        }
    }

    fn new_load(&self) -> Load {
        Load::new(self.worked())
    }

    fn record(&self, load: &mut Load, received: Round, sent: Round) -> Option<Window> {
        load.record(received.moved, sent.moved, || self.worked())
    }

    /// Returns the time that workers have worked.
    pub(super) fn worked(&self) -> Duration {
        self.workers.as_ref().map_or(Duration::ZERO, Workers::worked)
    }

    /// Waits on `wg-tunnel` for a reason to continue.
    fn sleep(&self, load: &mut Load, serves_tun: bool) -> io::Result<Woken> {
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
        self.has_slept(load, slept, [serves_tun, true]);
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
