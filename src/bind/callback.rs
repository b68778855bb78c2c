//! A [`Bind`] over an app's own transport: a relay, obfuscation, a test.
//!
//! Outgoing datagrams are passed to a [`DatagramSink`], as many at a time as there are; incoming datagrams are added
//! through a [`DatagramInlet`], which never waits.
//!
//! ```
//! use wg_embed::bind::{Bind, Endpoint, Transmit, callback::{CallbackBind, Datagram}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bind = CallbackBind::new(1 << 19, |datagrams: &mut dyn Iterator<Item = Datagram<'_>>| datagrams.count());
//! bind.open(0)?;
//! let endpoint = Endpoint::new("192.0.2.1:51820".parse()?);
//! assert_eq!(bind.inlet().deliver([Datagram::new(endpoint, b"hello")]), 1);
//! assert_eq!(bind.send(&[Transmit::new(endpoint, b"aabbc").with_segments(2)]).sent, 3);
//! # Ok(())
//! # }
//! ```

use super::{
    BATCH, Bind, Endpoint, RecvBatch, SendReport, Transmit, Woken,
    queue::{DatagramQueue, Origin},
};
use crate::queue::Monitor;
use std::{fmt, io, sync::Arc, time::Duration};

/// An outgoing or incoming datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// Its destination or origin, and the local address that it leaves from or arrived at, if the transport uses one:
    /// the address of a peer's datagram is returned with the replies.
    pub endpoint: Endpoint,
    /// The IPv4 TOS or IPv6 traffic class byte of the outer header; 0 if the transport has none.
    pub tos: u8,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Creates a datagram with a TOS byte of 0.
    #[must_use]
    pub const fn new(endpoint: Endpoint, payload: &'a [u8]) -> Self {
        Self { endpoint, tos: 0, payload }
    }

    /// Sets the [`tos`](Self::tos) byte.
    #[must_use]
    pub const fn with_tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }
}

/// A sink for the datagrams that leave a tunnel.
///
/// It is called on the tunnel's threads and on threads that change its configuration, possibly on several at once,
/// without holding a lock that an inlet or a device needs.
pub trait DatagramSink: Send + Sync {
    /// Sends datagrams and returns how many, counted from the first; the others are dropped and counted. It should not
    /// wait for room: the sending thread may also be the receiving one.
    fn send(&self, datagrams: &mut dyn Iterator<Item = Datagram<'_>>) -> usize;
}

impl<F: Fn(&mut dyn Iterator<Item = Datagram<'_>>) -> usize + Send + Sync> DatagramSink for F {
    fn send(&self, datagrams: &mut dyn Iterator<Item = Datagram<'_>>) -> usize {
        self(datagrams)
    }
}

#[derive(Debug)]
struct State {
    queue: DatagramQueue,
    open: bool,
    woken: bool,
}

/// A [`Bind`] for an app's own datagrams. It has no sockets: its port is the one that it is opened with, even 0, and a
/// mark has no effect.
pub struct CallbackBind<S> {
    inlet: DatagramInlet,
    sink: S,
}

impl<S: DatagramSink> CallbackBind<S> {
    /// Creates a bind, not yet open. Datagrams that wait to be received take at most `memory` bytes.
    #[must_use]
    pub fn new(memory: usize, sink: S) -> Self {
        let state = State { queue: DatagramQueue::within(memory), open: false, woken: false };
        Self { inlet: DatagramInlet(Arc::new(Monitor::new(state))), sink }
    }

    /// Returns the inlet for received datagrams.
    #[must_use]
    pub fn inlet(&self) -> DatagramInlet {
        self.inlet.clone()
    }

    fn state(&self) -> &Monitor<State> {
        &self.inlet.0
    }
}

impl<S: DatagramSink> Bind for CallbackBind<S> {
    /// Opens the bind; waiting datagrams are kept. It ends a wait, as new sockets do: the wait does not count sleep, so
    /// that an app calls this after a sleep to let the tunnel do overdue work.
    fn open(&self, port: u16) -> io::Result<u16> {
        self.state().change(|state| {
            state.open = true;
            state.woken = true;
        });
        Ok(port)
    }

    fn close(&self) {
        self.state().change(|state| {
            state.open = false;
            state.queue.clear();
            state.woken = true;
        });
    }

    fn set_mark(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let ready = |state: &State| state.woken || !state.queue.is_empty();
        let mut state = self.state().wait(timeout, ready);
        let own = ready(&state);
        state.woken = false;
        Ok(Woken { own, ..Woken::default() })
    }

    fn wake(&self) {
        self.state().change(|state| state.woken = true);
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let mut state = self.state().lock();
        Ok(batch.fill(|slot| state.queue.receive(slot, true)))
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        let (batch, rest) = batch.split_at(batch.len().min(BATCH));
        let mut report = SendReport { dropped: rest.iter().map(Transmit::datagrams).sum(), ..SendReport::default() };
        let mut left = 0;
        if self.state().lock().open {
            left = self.sink.send(&mut batch.iter().flat_map(|transmit| {
                let (endpoint, tos) = (transmit.to, transmit.tos);
                transmit.segments().map(move |payload| Datagram { endpoint, tos, payload })
            }));
        }
        for (i, transmit) in batch.iter().enumerate() {
            let all = transmit.datagrams();
            let sent = all.min(left);
            left -= sent;
            report.sent += sent;
            report.dropped += all - sent;
            report.dropped_mask |= u128::from(sent < all) << i;
        }
        report
    }

    fn memory(&self) -> usize {
        self.state().lock().queue.memory()
    }

    fn trim(&self) {
        self.state().lock().queue.trim();
    }

    fn queue_limit(&self) -> usize {
        self.state().lock().queue.max_memory()
    }
}

impl<S> fmt::Debug for CallbackBind<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackBind").field("inlet", &self.inlet).finish_non_exhaustive()
    }
}

/// An inlet for datagrams that an app has received for the tunnel. All clones share one queue.
#[derive(Clone, Debug)]
pub struct DatagramInlet(Arc<Monitor<State>>);

impl DatagramInlet {
    /// Copies datagrams into the tunnel's queue, as many as there is room for, and returns how many, counted from the
    /// first; 0 while the bind is not open. Never waits. The iterator must not use the inlet.
    pub fn deliver<'a>(&self, datagrams: impl IntoIterator<Item = Datagram<'a>>) -> usize {
        self.0.change(|state| {
            let State { queue, open, .. } = state;
            let push = |Datagram { endpoint: from, tos, payload }| queue.push(Origin { from, tos }, payload);
            if *open { datagrams.into_iter().map(push).take_while(|taken| *taken).count() } else { 0 }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    fn endpoint(port: u16) -> Endpoint {
        Endpoint { src: Some([198, 51, 100, 1].into()), ..Endpoint::new(([192, 0, 2, 1], port).into()) }
    }

    fn datagram(payload: &[u8]) -> Datagram<'_> {
        Datagram { endpoint: endpoint(1), tos: 1, payload }
    }

    fn transmit(contents: &[u8], segment_size: usize) -> Transmit<'_> {
        Transmit { to: endpoint(2), contents, segment_size, tos: 2 }
    }

    fn ignores(_: &mut dyn Iterator<Item = Datagram<'_>>) -> usize {
        0
    }

    static NONE: AtomicUsize = AtomicUsize::new(0);

    /// A bind that is open, whose sink takes as many as it is set to.
    fn open(takes: &AtomicUsize) -> CallbackBind<impl DatagramSink> {
        let bind = CallbackBind::new(100_000, |datagrams: &mut dyn Iterator<Item = Datagram<'_>>| {
            datagrams.take(takes.load(Ordering::Relaxed)).count()
        });
        assert_eq!(bind.open(0).unwrap(), 0);
        bind
    }

    #[test]
    fn all_datagrams_of_a_batch_come_in_one_call() {
        let seen = Mutex::new(Vec::new());
        let bind = CallbackBind::new(1000, |datagrams: &mut dyn Iterator<Item = Datagram<'_>>| {
            let all: Vec<_> = datagrams.map(|d| (d.endpoint, d.tos, d.payload.to_vec())).collect();
            let count = all.len();
            seen.lock().unwrap().push(all);
            count
        });
        assert_eq!(bind.open(7).unwrap(), 7);
        let report = bind.send(&[transmit(b"aabbc", 2), transmit(b"dd", 2)]);
        assert_eq!(report, SendReport { sent: 4, ..SendReport::default() });
        let expected = [b"aa".to_vec(), b"bb".to_vec(), b"c".to_vec(), b"dd".to_vec()].map(|d| (endpoint(2), 2, d));
        assert_eq!(*seen.lock().unwrap(), [expected.to_vec()]);
    }

    #[test]
    fn what_was_not_sent_is_reported() {
        let takes = AtomicUsize::new(0);
        let bind = open(&takes);
        let batch = [transmit(b"aabb", 2), transmit(b"ccdde", 2), transmit(b"f", 1)];
        for (taken, mask) in [(0, 0b111), (1, 0b111), (2, 0b110), (4, 0b110), (5, 0b100), (6, 0), (100, 0)] {
            takes.store(taken, Ordering::Relaxed);
            let report = bind.send(&batch);
            assert_eq!((report.sent, report.dropped, report.dropped_mask), (taken.min(6), 6 - taken.min(6), mask));
        }
        let report = bind.send(&[transmit(b"aa", 1); BATCH + 1]);
        assert_eq!((report.sent, report.dropped), (100, 2 * BATCH + 2 - 100));
        bind.close();
        assert_eq!(bind.send(&batch).dropped_mask, 0b111);
        // A sink that returns a wrong count.
        let bind = CallbackBind::new(100, |_: &mut dyn Iterator<Item = Datagram<'_>>| usize::MAX);
        bind.open(0).unwrap();
        assert_eq!(bind.send(&batch), SendReport { sent: 6, ..SendReport::default() });
    }

    #[test]
    fn what_is_delivered_is_received_in_batches() {
        let bind = open(&NONE);
        let inlet = bind.inlet();
        assert_eq!(inlet.deliver([b"aa", b"bb"].map(|p| datagram(p))), 2);
        assert!(bind.wait(None).unwrap().own);
        let mut batch = RecvBatch::new(2, 64);
        assert_eq!(bind.recv(&mut batch).unwrap(), 1);
        let (meta, bytes) = batch.iter_mut().next().unwrap();
        assert_eq!((meta.from, meta.tos, meta.segment_size, &*bytes), (endpoint(1), 1, 2, &b"aabb"[..]));
        batch.clear();
        assert_eq!(bind.recv(&mut batch).unwrap(), 0);
    }

    #[test]
    fn the_queue_is_bounded_and_closed_while_the_bind_is() {
        let bind = open(&NONE);
        let inlet = bind.inlet();
        let all = [datagram(&[0; 1000]); 1000];
        let taken = inlet.deliver(all);
        assert!((50..100).contains(&taken), "{taken}");
        assert_eq!(inlet.deliver(all), 0);
        bind.close();
        assert_eq!(inlet.deliver(all), 0);
        assert!(bind.wait(None).unwrap().own, "it is woken");
        bind.open(0).unwrap();
        assert_eq!(bind.recv(&mut RecvBatch::new(2, 2000)).unwrap(), 0, "what waited is gone");
        assert_eq!(inlet.deliver(all), taken);
        bind.open(0).unwrap();
        assert_eq!(bind.recv(&mut RecvBatch::new(1, 2000)).unwrap(), 1, "it stays when it is reopened");
    }

    #[test]
    fn a_wake_is_not_lost_and_ends_one_wait_only() {
        let bind = CallbackBind::new(1000, ignores);
        bind.wake();
        assert!(bind.wait(None).unwrap().own);
        assert_eq!(bind.wait(Some(Duration::from_millis(1))).unwrap(), Woken::default());
        thread::scope(|s| {
            s.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                bind.wake();
            });
            assert!(bind.wait(None).unwrap().own);
        });
    }
}
