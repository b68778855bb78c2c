//! Calls of the TUN and the bind that are in progress: a pause is complete when there are none.
//!
//! Each thread that sends or writes does so here, so nothing leaves a paused device, neither in a round that began
//! earlier nor from a thread that changes the configuration.

use std::{
    io,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Device, lock, try_lock};
use crate::{
    bind::{SendReport, Transmit},
    sync,
    tun::{PacketArena, PacketList, Tun},
};

/// No further call may begin.
const STOPPED: usize = 1 << (usize::BITS - 1);

/// The number of calls in progress, and whether others may begin.
#[derive(Default)]
pub(super) struct InFlight {
    /// [`STOPPED`] and a number.
    calls: AtomicUsize,
    waiting: Mutex<()>,
    changed: Condvar,
}

/// A call in progress, until it is dropped.
struct Call<'a>(&'a InFlight);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        // Release: the effects of the call are visible to a thread that observes its end.
        if self.0.calls.fetch_sub(1, Ordering::Release) == STOPPED + 1 {
            self.0.tell();
        }
    }
}

impl InFlight {
    /// Begins a call; returns `None` if calls are stopped.
    fn begin(&self) -> Option<Call<'_>> {
        let before = self.calls.fetch_add(1, Ordering::Acquire);
        let call = Call(self);
        (before & STOPPED == 0).then_some(call)
    }

    /// Prevents further calls.
    pub(super) fn stop(&self) {
        self.calls.fetch_or(STOPPED, Ordering::Relaxed);
    }

    /// Permits calls again.
    pub(super) fn go_on(&self) {
        self.calls.fetch_and(!STOPPED, Ordering::Relaxed);
        self.tell();
    }

    /// Waits until no call is in progress, or calls are permitted again.
    pub(super) fn wait(&self) {
        let mut waiting = lock(&self.waiting);
        while self.calls.load(Ordering::Acquire) > STOPPED {
            waiting = sync::wait(&self.changed, waiting);
        }
    }

    fn tell(&self) {
        // Locked, so that it does not come between the check and the sleep of another thread.
        let _waiting = lock(&self.waiting);
        self.changed.notify_all();
    }
}

impl Device {
    /// Reads from the TUN, or a further queue of it, like [`Tun::read`]. Nothing is read during a pause.
    pub(super) fn read_tun(&self, tun: &dyn Tun, arena: &mut PacketArena) -> io::Result<usize> {
        self.in_flight.begin().map_or(Ok(0), |_call| tun.read(arena))
    }

    /// Writes like [`Tun::write`]. Nothing is taken during a pause.
    pub(super) fn write_tun(&self, packets: PacketList<'_>) -> usize {
        self.in_flight.begin().map_or(0, |_call| {
            let _alone = lock(&self.tun_writer);
            self.tun.write(packets)
        })
    }

    /// Writes like [`write_tun`](Self::write_tun), unless another thread is writing: then nothing is taken.
    pub(super) fn try_write_tun(&self, packets: PacketList<'_>) -> usize {
        let Some(_call) = self.in_flight.begin() else { return 0 };
        let Some(_alone) = try_lock(&self.tun_writer) else { return 0 };
        self.tun.write(packets)
    }

    /// Sends like [`Bind::send`](crate::bind::Bind::send). During a pause everything is dropped.
    pub(super) fn send_batch(&self, batch: &[Transmit<'_>]) -> SendReport {
        let dropped = || SendReport {
            dropped: batch.iter().map(Transmit::datagrams).sum(),
            dropped_mask: 1_u128.checked_shl(batch.len() as u32).unwrap_or(0).wrapping_sub(1),
            ..SendReport::default()
        };
        self.in_flight.begin().map_or_else(dropped, |_call| self.bind.send(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{Arc, atomic::Ordering::SeqCst},
        thread,
    };

    /// Threads that call, and one that pauses: in a pause no call runs or begins.
    #[test]
    fn nothing_runs_while_calls_are_stopped() {
        let (in_flight, running) = (InFlight::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            // The callers end when this is dropped, also by a failed assertion.
            let lasts = Arc::new(());
            for _ in 0..3 {
                let (lasts, in_flight, running) = (Arc::downgrade(&lasts), &in_flight, &running);
                scope.spawn(move || {
                    while lasts.strong_count() > 0 {
                        if let Some(_call) = in_flight.begin() {
                            running.fetch_add(1, SeqCst);
                            thread::yield_now();
                            running.fetch_sub(1, SeqCst);
                        }
                    }
                });
            }
            for _ in 0..2000 {
                in_flight.stop();
                in_flight.wait();
                assert_eq!(running.load(SeqCst), 0);
                thread::yield_now();
                assert_eq!(running.load(SeqCst), 0);
                in_flight.go_on();
            }
        });
    }

    #[test]
    fn to_go_on_ends_a_wait() {
        let in_flight = InFlight::default();
        let _call = in_flight.begin();
        in_flight.stop();
        thread::scope(|scope| {
            let waits = scope.spawn(|| in_flight.wait());
            in_flight.go_on();
            assert!(waits.join().is_ok());
        });
    }
}
