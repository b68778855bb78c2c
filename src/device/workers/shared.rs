//! Jobs of several threads, each of which reads a queue of the TUN.
//!
//! A receiver refuses messages whose counters are far behind others of their session. So a thread must not be delayed
//! between taking counters and sending, while others go on: all threads add their jobs to one ring, which is sent in
//! order, and take the counters under the lock under which they add a job. They read without a lock, and each seals as
//! much as it adds, so no thread waits for another one to help it.

use std::{
    io, mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    super::{Device, lock, pool::Outbound, staged::Budget},
    Job, Next, Spent, Workers,
};
use crate::{
    error::{Error, Result},
    key::wipe_below,
    tun::Tun,
};

/// What these threads have in common.
pub(super) struct Shared {
    /// The number of queues, and so of these threads.
    queues: usize,
    /// The number of jobs in the ring, for which memory was taken.
    jobs: AtomicUsize,
    /// Held while counters are taken and their job is added. It is taken before the locks of peers.
    order: Mutex<()>,
}

impl Shared {
    pub(super) fn new(queues: usize) -> Self {
        Self { queues, jobs: AtomicUsize::new(0), order: Mutex::default() }
    }
}

impl Workers {
    /// Returns whether the TUN has several queues.
    pub(in crate::device) const fn has_queues(&self) -> bool {
        self.shared.is_some()
    }

    /// Takes the memory for the threads of further queues, and for jobs, out of that for packets. No-op with one queue.
    ///
    /// # Errors
    /// `Invalid` if it does not suffice: a queue that no thread reads would lose its packets.
    pub(in crate::device) fn reserve(&self, budget: &Budget) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        // The buffers of the first thread are always accounted for. One job in the ring is the least; with one for each
        // thread that helps none waits because another one is late.
        let further = shared.queues - 1;
        let memory = |jobs: usize| (further + jobs) * <Outbound as Job>::MEMORY + Outbound::GROWTH;
        let jobs = (1..=shared.queues + self.number).rev().find(|jobs| budget.take(memory(*jobs)));
        shared.jobs.store(jobs.unwrap_or(0), Ordering::Relaxed);
        let short = || {
            let text = format!("{} queues take {} bytes, more than half of what is left", shared.queues, memory(1));
            Error::invalid(format!("the memory for packets is too small: {text}"))
        };
        jobs.map(drop).ok_or_else(short)
    }

    /// Makes the jobs, unless they exist: at first, and after they were [released](Self::release_jobs).
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(in crate::device) fn make_jobs(&self) -> io::Result<()> {
        let Some(shared) = self.shared.as_ref().filter(|_| self.out.jobs() == 0) else { return Ok(()) };
        let _alone = lock(&shared.order);
        if self.out.jobs() == 0 {
            let number = shared.jobs.load(Ordering::Relaxed);
            self.out.ring.supply(number, shared.queues, Outbound::make)?;
            self.out.jobs.store(number, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Releases the memory of the jobs, unless they are in use; to be called while no thread of a queue has a round.
    pub(in crate::device) fn release_jobs(&self) {
        if self.out.ring.is_idle() {
            self.out.ring.clear();
            self.out.jobs.store(0, Ordering::Relaxed);
        }
    }

    /// Runs a round of the thread that reads `tun`, a queue. Other threads may help if `is_wanted` is set. Returns how
    /// many packets were read.
    ///
    /// # Errors
    /// If the TUN no longer exists, and `OutOfMemory`.
    pub(in crate::device) fn serve(
        &self,
        device: &Device,
        tun: &dyn Tun,
        out: &mut Outbound,
        is_wanted: &AtomicBool,
    ) -> io::Result<usize> {
        let Some(shared) = &self.shared else { return Ok(0) };
        self.make_jobs()?;
        let read = device.read_for_job(tun, out)?;
        if read == 0 {
            return Ok(0);
        }
        let is_always = self.is_always.load(Ordering::Relaxed);
        let wakes = is_always || (is_wanted.load(Ordering::Relaxed) && out.bytes() >= Outbound::SMALL);
        {
            let _in_order = lock(&shared.order);
            device.fill(out);
            self.out.ring.add(mem::replace(out, Outbound::none()));
        }
        if wakes {
            self.bell.ring();
        } else {
            self.help_once(device);
        }
        *out = self.next_job(device)?;
        Ok(read)
    }

    /// Does the jobs that no other thread has, as the thread of a queue has nothing to read now. Returns whether it
    /// must not sleep yet: jobs are left to be sent, which no other thread does.
    pub(in crate::device) fn is_left_to_send(&self, device: &Device) -> bool {
        // As many as there can be now: other threads may go on adding, and this one has sockets or a queue to serve.
        let most = self.out.jobs() + self.shared.as_ref().map_or(0, |shared| shared.queues);
        (0..most).take_while(|_| self.help_once(device)).for_each(drop);
        self.send_added(device);
        self.out.ring.is_left()
    }

    /// Finishes all jobs that were added before, as the thread of a queue will not be back soon.
    pub(in crate::device) fn finish_shared(&self, device: &Device) {
        let added = self.out.ring.added();
        while let Some(next) = self.out.ring.rest(added) {
            if let Next::Help(taken) = next {
                taken.work(Job::work);
            }
            self.send_added(device);
        }
        // Those that other threads have added since, and left to this one.
        while self.is_left_to_send(device) {}
    }

    /// Decides, by the time that the thread of a further queue spent, whether it gets help. Returns whether it does.
    pub(in crate::device) fn judge_queue(&self, spent: &Spent, is_wanted: &AtomicBool) -> bool {
        self.want(spent, is_wanted);
        is_wanted.load(Ordering::Relaxed)
    }

    fn next_job(&self, device: &Device) -> io::Result<Outbound> {
        loop {
            match self.out.ring.next() {
                Some(Next::Fill(job)) => return Ok(job),
                Some(Next::Help(taken)) => {
                    taken.work(Job::work);
                    self.send_added(device);
                }
                Some(Next::Finish) => self.send_added(device),
                None => return Err(io::Error::other("all jobs were lost by panics")),
            }
        }
    }

    /// Seals the oldest job that no other thread has taken. Returns false if every job is taken.
    fn help_once(&self, device: &Device) -> bool {
        let Some(taken) = self.out.ring.take() else { return false };
        taken.work(Job::work);
        self.send_added(device);
        true
    }

    /// Sends what is sealed, in order, unless another thread does that; but nothing that is added from now on, as the
    /// queue of this thread fills up meanwhile.
    fn send_added(&self, device: &Device) {
        self.out.ring.finish_first(self.out.ring.added(), |job| job.last(device));
        wipe_below();
    }
}
