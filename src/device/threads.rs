//! What a tunnel's two threads do, and which of them serves the TUN.
//!
//! `wg-tunnel` serves the sockets and the timers, and the TUN too as long as one thread can do it all: an answer that
//! the system gives at once, or an app that speaks only now and then, then costs one wake-up and not two. Under load
//! both ways, `wg-outbound` takes the TUN over, until what both do would fit into one thread again. docs/adr/0004 has
//! the measurements. A TUN that has no way to be waited for beside the sockets is always served by `wg-outbound`.

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

/// How long the threads are watched before the TUN changes hands: long against a handover (some 50 us), short against
/// what a person notices.
const WINDOW: Duration = Duration::from_millis(20);

/// How many rounds `wg-tunnel` works between two looks at the clock.
const ROUNDS: u32 = 32;

/// How many rounds in which there is always more to receive pass between two looks at what else the bind waits for,
/// such as changes of the routes.
const BIND_ROUNDS: u32 = 64;

/// How many rounds in which there is always more to read pass between two looks at what else the TUN has to tell: an
/// interface may be taken down, or have another MTU, while it is busy.
const TUN_ROUNDS: u32 = 64;

/// Who serves the TUN.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Tunnel,
    Outbound { for_good: bool },
}

/// What the two threads share.
pub(super) struct Threads {
    pub(super) device: Device,
    tun: Arc<dyn Tun>,
    bind: Arc<dyn Bind>,
    stopping: AtomicBool,
    server: Mutex<Server>,
    server_changed: Condvar,
    /// What the one that serves the TUN works in.
    outbound: Workspace<Outbound>,
    /// What `wg-tunnel` works in with the sockets.
    inbound: Workspace<Inbound>,
    /// Of `wg-tunnel`.
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

    /// Allocates what the threads work in, so that a tunnel for which there is no memory is not started.
    pub(super) fn make_buffers(&self) -> io::Result<()> {
        self.inbound.with(|_| Ok(()))?;
        self.outbound.with(|_| Ok(()))
    }

    /// Makes both threads return. Returns false if that was asked for before.
    pub(super) fn stop(&self) -> bool {
        let first = !self.stopping.swap(true, Ordering::AcqRel);
        self.tun.wake();
        self.bind.wake();
        // Locked, so that it does not come between another thread's look at `stopping` and its sleep.
        let _server = lock(&self.server);
        self.server_changed.notify_all();
        first
    }

    /// What the device and the threads take of the memory.
    pub(super) fn memory_usage(&self) -> MemoryUsage {
        let mut usage = self.device.memory_usage();
        usage.buffers += self.outbound.memory() + self.inbound.memory();
        usage
    }

    /// Gives back what is not needed now.
    pub(super) fn trim(&self) {
        self.device.trim();
        self.outbound.trim();
        self.inbound.trim();
    }

    /// What `wg-tunnel` does.
    pub(super) fn tunnel(&self) -> io::Result<()> {
        let mut load = Load::new();
        let (mut serves_tun, mut rounds, mut rounds_since_wait) = (false, 0, 0);
        // What there may be more of.
        let (mut datagrams, mut packets) = (true, true);
        while !self.is_stopping() {
            let should_serve_tun = self.serves(Server::Tunnel);
            if serves_tun && !should_serve_tun {
                self.deregister_tun()?;
                serves_tun = false;
            } else if !serves_tun && should_serve_tun {
                serves_tun = self.register_tun()?;
                packets = true;
                if !serves_tun {
                    self.hand_over(Server::Tunnel, Server::Outbound { for_good: true });
                }
            }
            let received =
                if datagrams { go_on(self.inbound.with(|buffers| self.device.inbound(buffers)))? } else { 0 };
            let sent = if serves_tun && packets { self.serve_tun(&mut rounds)? } else { 0 };
            self.device.run_timers();
            (datagrams, packets) = (received > 0, sent > 0);
            if serves_tun && load.is_too_much(received, sent) {
                self.hand_over(Server::Tunnel, Server::Outbound { for_good: false });
            } else if !datagrams || (serves_tun && !packets) || rounds_since_wait == BIND_ROUNDS {
                rounds_since_wait = 0;
                // Also while one side is busy, or else it could keep the other waiting.
                let busy = datagrams || packets;
                let woken = if busy { self.bind.wait(Some(Duration::ZERO)) } else { self.sleep(&mut load) }?;
                datagrams |= woken.own;
                if serves_tun && woken.registered {
                    self.tun.wait(Some(Duration::ZERO))?;
                    packets = true;
                }
            } else {
                rounds_since_wait += 1;
            }
        }
        Ok(())
    }

    /// What `wg-outbound` does.
    pub(super) fn outbound(&self) -> io::Result<()> {
        while let Some(for_good) = self.wait_for_tun() {
            self.serve_tun_alone(for_good)?;
            // After a pause too `wg-tunnel` sees first whether it can wait for the TUN.
            self.hand_over(Server::Outbound { for_good }, Server::Tunnel);
            self.bind.wake();
        }
        Ok(())
    }

    /// Sleeps until the TUN is handed over, and returns whether that is for good; `None` if the tunnel is stopped.
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
            if self.serve_tun(&mut rounds)? > 0 {
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
                // A fifth of one thread is left free, or else the TUN would soon come back.
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

    /// One round from TUN to UDP; 0 means that there is nothing to do now.
    fn serve_tun(&self, rounds: &mut u32) -> io::Result<usize> {
        *rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(TUN_ROUNDS) {
            self.tun.wait(Some(Duration::ZERO))?;
        }
        self.device.handle_tun_events();
        go_on(self.outbound.with(|buffers| self.device.outbound(buffers)))
    }

    /// `wg-tunnel` waits for a reason to go on.
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
        woken
    }

    fn register_tun(&self) -> io::Result<bool> {
        self.bind.registry().map_or(Ok(false), |(registry, token)| self.tun.register(registry, token))
    }

    fn deregister_tun(&self) -> io::Result<()> {
        self.bind.registry().map_or(Ok(()), |(registry, _)| self.tun.deregister(registry))
    }

    /// Whether this one is to serve the TUN now. During a pause none is, so that nothing from there wakes a thread.
    fn serves(&self, server: Server) -> bool {
        !self.device.tun_paused() && *lock(&self.server) == server
    }

    /// Changes who serves the TUN, unless that is another one by now.
    fn hand_over(&self, from: Server, to: Server) {
        let mut server = lock(&self.server);
        if *server == from {
            *server = to;
            self.server_changed.notify_all();
        }
    }
}

/// What has come of a round. Without memory for it there is more to do when there is some again; until then what comes
/// waits where it is, and is dropped there when that is full.
fn go_on(done: io::Result<usize>) -> io::Result<usize> {
    /// Between two tries.
    const NAP: Duration = Duration::from_millis(10);
    match done {
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            thread::sleep(NAP);
            Ok(1)
        }
        done => done,
    }
}

/// How long a thread has slept.
#[derive(Default)]
struct Idle {
    before: Duration,
    /// Since when it sleeps; `None` while it is awake.
    since: Option<Instant>,
}

impl Idle {
    fn total(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// What `wg-tunnel` did lately.
struct Load {
    began: Instant,
    rounds: u32,
    slept: Duration,
    received: usize,
    sent: usize,
}

impl Load {
    fn new() -> Self {
        Self { began: Instant::now(), rounds: 0, slept: Duration::ZERO, received: 0, sent: 0 }
    }

    /// To be told of each round. Returns whether the thread hardly sleeps any more, and a second one would be of use:
    /// that is, whether at least a fifth of the packets go each way.
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
        let last = std::mem::replace(self, Self::new());
        last.slept < passed / 20 && last.received.min(last.sent) > (last.received + last.sent) / 5
    }
}
