//! Threads that help with the cipher while the thread of a direction cannot keep up.
//!
//! That thread fills jobs: what it reads from the TUN in one go, with the sessions and counters to seal it with, or
//! what it receives in one go, with the sessions to open it with. All threads seal and open; sending, and accepting and
//! delivering, are done by one thread at a time, job by job ([`Ring`]). So packets of a peer keep their order, and
//! their counters theirs.
//!
//! Without load there are no jobs: the thread does everything itself, in buffers of its own. docs/adr/0004 has the
//! measurements. A TUN with several queues is served by as many threads, always by jobs ([`shared`]).

mod shared;

use std::{
    io, mem,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use self::shared::Shared;
use super::{
    DEFAULT_MEMORY, Device,
    load::Spent,
    nanos,
    pool::{Assigned, Buffers, IN_SLOTS, OUT_PACKETS, OUTBOUND, Outbound, RECEIVED, Received},
    ring::{Bell, Next, Ring, Taken},
    staged::Budget,
};
use crate::{key::wipe_below, noise::message::padded_len, thread::processors, tun::PacketArena};

/// The largest number of workers of a tunnel: with more, the calls of the system are the limit.
pub const MAX_WORKERS: usize = 8;

/// The largest number of workers of a tunnel for which none is chosen. The cipher takes about half of a packet's time,
/// and of the rest the larger part, to send or to deliver, is done by one thread at a time: a fifth thread would wait.
pub const DEFAULT_WORKERS: usize = 3;

/// The memory of a worker in bytes: that of a job in each direction.
pub const WORKER_MEMORY: usize = Outbound::MEMORY + Received::MEMORY;

/// Packets that are sealed, or opened, together.
pub(super) trait Job: Send + Sized {
    /// The maximum of its memory, in bytes.
    const MEMORY: usize;

    /// By how many bytes the own buffers of a direction may grow while there are jobs.
    const GROWTH: usize;

    /// Jobs with fewer bytes are not worth waking another thread for.
    const SMALL: usize;

    /// Creates a job to be filled.
    fn make() -> io::Result<Self>;

    /// Creates a job without memory, in the place of one that is passed on.
    fn none() -> Self;

    /// Releases what only a job in the ring needs.
    fn leave(&mut self) {}

    /// Returns how many bytes are to be sealed or opened.
    fn bytes(&self) -> usize;

    /// Seals or opens them.
    fn work(&mut self);

    /// Sends or delivers them. Jobs pass here one after the other, in the order in which they were filled.
    fn last(&mut self, device: &Device);
}

impl Job for Outbound {
    const MEMORY: usize = OUTBOUND + Self::GROWTH;
    const GROWTH: usize = OUT_PACKETS * size_of::<Assigned>();
    const SMALL: usize = 16 * 1024;

    fn make() -> io::Result<Self> {
        <Self as Buffers>::make()
    }

    fn none() -> Self {
        let arena = PacketArena::without_memory(padded_len);
        Self { arena, tos: Vec::new(), runs: Vec::new(), assigned: Vec::new() }
    }

    fn leave(&mut self) {
        self.assigned = Vec::new();
    }

    fn bytes(&self) -> usize {
        self.arena.bytes().len()
    }

    fn work(&mut self) {
        let (slots, bytes) = self.arena.parts_mut();
        for run in &mut self.assigned {
            run.seal(slots, bytes);
        }
    }

    fn last(&mut self, device: &Device) {
        // It may have been filled before the machine slept.
        device.notice_sleep();
        device.send_filled(self);
        device.tell_events();
    }
}

impl Job for Received {
    const MEMORY: usize = RECEIVED;
    const GROWTH: usize = 0;
    const SMALL: usize = 8 * 1024;

    fn make() -> io::Result<Self> {
        Self::with_slots(IN_SLOTS)
    }

    fn none() -> Self {
        Self::without_memory()
    }

    fn bytes(&self) -> usize {
        self.opened.iter().map(|message| message.packet.len()).sum()
    }

    fn work(&mut self) {
        self.open();
    }

    fn last(&mut self, device: &Device) {
        device.notice_sleep();
        device.accept(self);
        device.tell_events();
    }
}

/// One direction.
pub(super) struct Lane<J> {
    ring: Ring<J>,
    /// Whether the thread of this direction cannot keep up.
    is_wanted: AtomicBool,
    /// The number of jobs. Changed only by the thread of this direction, or while it has no buffers in use.
    jobs: AtomicUsize,
    /// The time that workers have spent here, in nanoseconds.
    worked: AtomicU64,
}

impl<J> Default for Lane<J> {
    fn default() -> Self {
        Self {
            ring: Ring::default(),
            is_wanted: AtomicBool::new(false),
            jobs: AtomicUsize::new(0),
            worked: AtomicU64::new(0),
        }
    }
}

impl<J: Job> Lane<J> {
    /// Begins a round of the thread of this direction, whose next job is to be filled into `current`. Returns whether
    /// it is to be [passed](Self::pass) on; otherwise all jobs are finished.
    pub(super) fn begin(&self, workers: &Workers, device: &Device, current: &mut J) -> bool {
        let (is_wanted, has_jobs) = (self.is_wanted.load(Ordering::Relaxed), self.jobs() > 0);
        if is_wanted && !has_jobs {
            self.supply(workers, device);
        } else if has_jobs && !is_wanted {
            self.finish(device);
            self.release(&device.budget);
            current.leave();
        }
        self.jobs() > 0
    }

    /// Returns whether the thread of this direction hardly sleeps, and so wakes workers.
    pub(super) const fn is_wanted(&self) -> &AtomicBool {
        &self.is_wanted
    }

    fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Makes the jobs, if there is memory for them; otherwise it is tried again when the load is next measured.
    fn supply(&self, workers: &Workers, device: &Device) {
        // One for a worker, and one that is ready for it when it is done, are the least that helps.
        let number = (2..=workers.number + 1).rev().find(|number| device.budget.take(Self::taken(*number)));
        let number = number.filter(|number| {
            let is_made = self.ring.supply(*number, 1, J::make).is_ok();
            if !is_made {
                device.budget.grow(Self::taken(*number));
            }
            is_made
        });
        self.jobs.store(number.unwrap_or(0), Ordering::Relaxed);
        if number.is_none() {
            self.is_wanted.store(false, Ordering::Relaxed);
        }
    }

    /// Returns the memory that is taken for this number of jobs, at least one.
    const fn taken(jobs: usize) -> usize {
        jobs * J::MEMORY + J::GROWTH
    }

    /// Releases the jobs, of which there are some.
    fn release(&self, budget: &Budget) {
        self.ring.clear();
        budget.grow(Self::taken(self.jobs.swap(0, Ordering::Relaxed)));
    }

    /// Passes on the job in `current`, and replaces it by one to be filled.
    pub(super) fn pass(&self, workers: &Workers, device: &Device, current: &mut J) -> io::Result<()> {
        let is_small = current.bytes() < J::SMALL && !workers.is_always.load(Ordering::Relaxed);
        if is_small && self.ring.is_idle() {
            current.work();
            current.last(device);
            return Ok(());
        }
        self.ring.add(mem::replace(current, J::none()));
        if !is_small {
            workers.bell.ring();
        }
        loop {
            match self.ring.next() {
                Some(Next::Fill(job)) => {
                    *current = job;
                    return Ok(());
                }
                Some(Next::Help(taken)) => self.complete(taken, device),
                Some(Next::Finish) => self.ring.finish(|job| job.last(device)),
                None => return Err(io::Error::other("all jobs were lost by panics")),
            }
        }
    }

    fn complete(&self, taken: Taken<'_, J>, device: &Device) {
        taken.work(J::work);
        self.ring.finish(|job| job.last(device));
        // The thread may sleep next.
        wipe_below();
    }

    /// Does the oldest job that no other thread has. Returns false if there is none.
    fn help(&self, device: &Device) -> bool {
        let Some(taken) = self.ring.take() else { return false };
        self.complete(taken, device);
        true
    }

    /// Does all jobs that no other thread has.
    pub(super) fn help_out(&self, device: &Device) {
        while self.jobs() > 0 && self.help(device) {}
    }

    /// Finishes all jobs that were added before, as far as other threads do not. Those that another thread adds
    /// meanwhile, to which this direction was handed over, are left to it: under load there is always one.
    pub(super) fn finish(&self, device: &Device) {
        let added = self.ring.added();
        while let Some(next) = self.ring.rest(added) {
            match next {
                Next::Help(taken) => self.complete(taken, device),
                _ => self.ring.finish(|job| job.last(device)),
            }
        }
    }

    /// Releases the jobs, unless they are in use; to be called only while the thread of this direction has no round.
    pub(super) fn trim(&self, budget: &Budget) {
        if self.jobs() > 0 && self.ring.is_idle() {
            self.is_wanted.store(false, Ordering::Relaxed);
            self.release(budget);
        }
    }

    fn memory(&self) -> usize {
        self.jobs() * J::MEMORY
    }
}

/// Returns the number of workers of a tunnel for which none is chosen. One or two processors are shared with the
/// programs at the ends of the connections: workers would take more from them than they give. Less memory than usual is
/// left to the packets.
fn default_number(processors: usize, memory: usize) -> usize {
    if processors <= 2 || memory < DEFAULT_MEMORY { 0 } else { (processors - 1).min(DEFAULT_WORKERS) }
}

/// The workers of a tunnel.
pub(super) struct Workers {
    number: usize,
    bell: Bell,
    /// Whether they help whatever the load.
    is_always: AtomicBool,
    pub(super) out: Lane<Outbound>,
    pub(super) inbound: Lane<Received>,
    /// Populated if the TUN has several queues.
    shared: Option<Shared>,
}

impl Workers {
    /// Returns the workers that the options of a tunnel ask for, and for a TUN with this number of queues. `None` if
    /// there are to be none, and one queue.
    pub(super) fn of(number: Option<usize>, memory: usize, queues: usize) -> Option<Self> {
        let number = number.unwrap_or_else(|| default_number(processors(), memory)).min(MAX_WORKERS);
        (number > 0 || queues > 1).then(|| Self {
            number,
            bell: Bell::default(),
            is_always: AtomicBool::new(false),
            out: Lane::default(),
            inbound: Lane::default(),
            shared: (queues > 1).then(|| Shared::new(queues)),
        })
    }

    pub(super) const fn number(&self) -> usize {
        self.number
    }

    /// Returns the time that the workers have worked.
    pub(super) fn worked(&self) -> Duration {
        let worked = self.out.worked.load(Ordering::Relaxed) + self.inbound.worked.load(Ordering::Relaxed);
        Duration::from_nanos(worked)
    }

    /// Decides, by the time that the thread of these directions spent, whether they get help. Returns whether one gets
    /// it.
    pub(super) fn judge(&self, spent: &Spent, [out, inbound]: [bool; 2]) -> bool {
        let lanes = [(out, &self.out.is_wanted), (inbound, &self.inbound.is_wanted)];
        lanes.iter().filter(|(is_served, _)| *is_served).for_each(|(_, lane)| self.want(spent, lane));
        lanes.iter().any(|(_, lane)| lane.load(Ordering::Relaxed))
    }

    fn want(&self, spent: &Spent, is_wanted: &AtomicBool) {
        match is_wanted.load(Ordering::Relaxed) {
            false if spent.is_busy() && self.number > 0 => is_wanted.store(true, Ordering::Relaxed),
            true if spent.is_little() && !self.is_always.load(Ordering::Relaxed) => {
                is_wanted.store(false, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Runs a worker until the workers are stopped.
    pub(super) fn run(&self, device: &Device) {
        let mut out_first = true;
        loop {
            let seen = self.bell.calls();
            out_first = !out_first;
            let has_worked = (out_first && timed(&self.out, device))
                || timed(&self.inbound, device)
                || (!out_first && timed(&self.out, device));
            if !has_worked && !self.bell.sleep(seen) {
                return;
            }
        }
    }

    /// Makes them help whatever the load, for tests of what happens then.
    #[cfg(feature = "test-util")]
    pub(super) fn always(&self) {
        if self.number == 0 {
            return;
        }
        let wanted = [&self.is_always, &self.out.is_wanted, &self.inbound.is_wanted];
        wanted.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
    }

    /// Makes the workers return once there are no jobs that no thread has.
    pub(super) fn stop(&self) {
        self.bell.close();
    }

    /// Returns the memory of the jobs in bytes.
    pub(super) fn memory(&self) -> usize {
        self.out.memory() + self.inbound.memory()
    }
}

fn timed<J: Job>(lane: &Lane<J>, device: &Device) -> bool {
    let began = Instant::now();
    let has_worked = lane.help(device);
    if has_worked {
        lane.worked.fetch_add(nanos(began.elapsed()), Ordering::Relaxed);
    }
    has_worked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_workers_need_processors_and_memory() {
        for (processors, memory, workers) in [
            (1, DEFAULT_MEMORY, 0),
            (2, DEFAULT_MEMORY, 0),
            (3, DEFAULT_MEMORY, 2),
            (4, DEFAULT_MEMORY, 3),
            (64, DEFAULT_MEMORY, 3),
            (64, DEFAULT_MEMORY - 1, 0),
        ] {
            assert_eq!(default_number(processors, memory), workers, "{processors} processors, {memory} bytes");
        }
    }
}
