//! The further queues of a TUN that has several: a thread for each, `wg-queue`. What they read is sealed and sent by
//! jobs (`device/workers/shared.rs`), so the counters of a peer's packets leave in their order. The system keeps the
//! packets of one flow in one queue, and so in order.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use super::{Round, Threads, go_on};
use crate::{
    device::{
        Outbound,
        load::{QUIET, Spent, WINDOW},
        pool::Workspace,
        workers::Workers,
    },
    key::wipe_below,
    tun::Tun,
};

/// A further queue.
pub(super) struct Queue {
    tun: Arc<dyn Tun>,
    outbound: Workspace<Outbound>,
    /// Whether its thread hardly sleeps, and so wakes workers.
    is_wanted: AtomicBool,
}

impl Queue {
    pub(super) fn new(tun: Arc<dyn Tun>) -> Self {
        Self { tun, outbound: Workspace::default(), is_wanted: AtomicBool::new(false) }
    }
}

impl Threads {
    /// Returns the number of further queues.
    pub(in crate::device) const fn queues(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn make_queue_buffers(&self) -> io::Result<()> {
        self.queues.iter().try_for_each(|queue| queue.outbound.with(|_| Ok(())))?;
        self.workers.as_ref().map_or(Ok(()), Workers::make_jobs)
    }

    /// Returns the memory of the buffers of further queues.
    pub(super) fn queue_memory(&self) -> usize {
        self.queues.iter().map(|queue| queue.outbound.memory()).sum()
    }

    /// Frees the buffers that are not in use, and calls `more` if none is.
    pub(super) fn trim_queues(&self, more: &dyn Fn()) {
        fn trim(queues: &[Queue], more: &dyn Fn()) {
            match queues.split_first() {
                // All are locked at once, so that none has a round.
                Some((queue, others)) => queue.outbound.trim(|| trim(others, more)),
                None => more(),
            }
        }
        trim(&self.queues, more);
    }

    /// Runs `wg-queue` for a further queue. Workers are started by `start_workers` when they are first needed.
    pub(in crate::device) fn queue(&self, number: usize, start_workers: &dyn Fn()) -> io::Result<()> {
        let Some(workers) = &self.workers else { return Ok(()) };
        let result = self.serve_queue(&self.queues[number], workers, start_workers);
        workers.finish_shared(&self.device);
        result
    }

    fn serve_queue(&self, queue: &Queue, workers: &Workers, start_workers: &dyn Fn()) -> io::Result<()> {
        let mut load = self.new_load();
        while !self.is_stopping() {
            if self.device.tun_paused() {
                // What is left would keep the keys of its sessions.
                workers.finish_shared(&self.device);
                wipe_below();
                self.device.tun_gate.wait(|| self.is_stopping());
            }
            let sent = go_on(queue.outbound.with(|out| self.queue_round(queue, workers, out, load.is_quiet)))?;
            if let Some(window) = self.record(&mut load, Round::default(), sent)
                && workers.judge_queue(&window.spent, &queue.is_wanted)
            {
                start_workers();
            }
            if sent.more {
                continue;
            }
            let began = Instant::now();
            wipe_below();
            queue.tun.wait(None)?;
            let slept = began.elapsed();
            load.slept += slept;
            load.is_quiet = slept >= QUIET;
            if slept >= WINDOW {
                let spent = Spent { passed: slept, slept, worked: Duration::ZERO };
                workers.judge_queue(&spent, &queue.is_wanted);
            }
        }
        Ok(())
    }

    fn queue_round(&self, queue: &Queue, workers: &Workers, out: &mut Outbound, is_quiet: bool) -> io::Result<Round> {
        let moved = workers.serve(&self.device, &*queue.tun, out, &queue.is_wanted)?;
        let mut round = Round::new(moved, || is_quiet && queue.tun.is_drained());
        if !round.more {
            round.more = workers.is_left_to_send(&self.device);
        }
        Ok(round)
    }
}
