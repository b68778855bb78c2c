//! Receiving for one family: which thread receives, and received datagrams that wait to be taken.
//!
//! The state for receiving is one [`ReceiveState`]. A thread takes it, receives or waits with it, and puts it back;
//! until then other threads of the same family wait for it. So any number of threads may receive, each with its own
//! time limit, and no lock is held while one of them waits or passes datagrams on.

use super::Received;
use crate::{
    bind::{Family, RecvBatch, RecvMeta, udp::pair::Pair},
    error::{Error, Result},
    sync,
};
use mio::{Events, Poll, Registry, Token, Waker};
#[cfg(unix)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

const WAKE: Token = Token(0);

/// The number of datagrams that one system call receives.
const SLOTS: usize = 16;

/// Large enough for any datagram, and for GRO.
const SLOT_LEN: usize = 65_535;

/// The receiving side of one family.
pub(super) struct Inbox {
    family: Family,
    registry: Registry,
    waker: Waker,
    /// `None` while a thread uses it.
    state: Mutex<Option<ReceiveState>>,
    returned: Condvar,
    /// The number of threads that wait elsewhere.
    #[cfg(unix)]
    waiting: AtomicUsize,
}

struct ReceiveState {
    poll: Poll,
    events: Events,
    batch: RecvBatch,
    next: Position,
    /// Whether the socket was empty at the last attempt.
    #[cfg(unix)]
    is_dry: bool,
}

/// The next datagram to pass on.
#[derive(Clone, Copy, Default)]
struct Position {
    slot: usize,
    offset: usize,
}

/// The state, until it is put back.
struct StateGuard<'a> {
    inbox: &'a Inbox,
    /// `Some` until this is dropped.
    state: Option<ReceiveState>,
}

impl StateGuard<'_> {
    fn state(&mut self) -> &mut ReceiveState {
        let Some(state) = &mut self.state else { unreachable!("the state is there until this is dropped") };
        state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        *self.inbox.state() = self.state.take();
        self.inbox.returned.notify_one();
    }
}

impl Inbox {
    pub(super) fn new(family: Family) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let batch = RecvBatch::try_new(SLOTS, SLOT_LEN)?;
        let state = ReceiveState {
            events: Events::with_capacity(4),
            batch,
            next: Position::default(),
            #[cfg(unix)]
            is_dry: false,
            poll,
        };
        Ok(Self {
            family,
            waker: Waker::new(&registry, WAKE)?,
            registry,
            state: Mutex::new(Some(state)),
            returned: Condvar::new(),
            #[cfg(unix)]
            waiting: AtomicUsize::new(0),
        })
    }

    /// Returns the registry for the family's socket.
    pub(super) fn registry(&self) -> io::Result<Registry> {
        self.registry.try_clone()
    }

    /// Wakes waiting threads to check the sockets again. If these are closed, the other threads follow as the state is
    /// passed on.
    pub(super) fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::debug!(%err, "cannot wake the receiver");
        }
    }

    /// Passes up to `max` datagrams to `take`. See [`BatchUdp::receive`](super::BatchUdp::receive).
    pub(super) fn receive(
        &self,
        pair: &Pair,
        max: usize,
        timeout: Option<Duration>,
        take: &mut dyn FnMut(Received<'_>),
    ) -> Result<usize> {
        // A time too far in the future to be represented is no limit.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let Some(mut guard) = self.take_state(deadline) else {
            return Ok(0);
        };
        self.receive_at(guard.state(), pair, max, deadline, take)
    }

    /// Receives like [`receive`](Self::receive), but without waiting: for a thread that waits for [`fd`](Self::fd). If
    /// there are no datagrams and `will_wait` is set, the thread counts as waiting until
    /// [`has_waited`](Self::has_waited).
    #[cfg(unix)]
    pub(super) fn receive_now(
        &self,
        pair: &Pair,
        max: usize,
        has_waited: bool,
        will_wait: bool,
        take: &mut dyn FnMut(Received<'_>),
    ) -> Result<usize> {
        let begun = Some(Instant::now());
        let Some(mut guard) = self.take_state(begun.filter(|_| !will_wait)) else { return Ok(0) };
        let state = guard.state();
        let mut outcome = self.receive_at(state, pair, max, begun, take);
        // Events remain for other threads until their datagrams have been taken.
        if has_waited && matches!(outcome, Ok(0)) {
            outcome = state.wait(Some(Duration::ZERO)).and_then(|()| self.receive_at(state, pair, max, begun, take));
        }
        // Counted by the thread that has the state, since the others check only with the state: so each of them sees
        // this count, and wakes this thread if it leaves datagrams behind.
        if will_wait && matches!(outcome, Ok(0)) {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        if self.waiting.load(Ordering::Relaxed) > 0 && (outcome.is_err() || !state.is_cleared()) {
            self.wake();
        }
        outcome
    }

    /// Ends the waiting of a thread that waited elsewhere.
    #[cfg(unix)]
    pub(super) fn has_waited(&self) {
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| waiting.checked_sub(1));
    }

    /// Returns a descriptor that becomes readable when it is time to [`receive_now`](Self::receive_now), also when the
    /// sockets change or are closed.
    #[cfg(unix)]
    pub(super) fn fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.registry)
    }

    fn receive_at(
        &self,
        state: &mut ReceiveState,
        pair: &Pair,
        max: usize,
        deadline: Option<Instant>,
        take: &mut dyn FnMut(Received<'_>),
    ) -> Result<usize> {
        let mut count = 0;
        loop {
            // Datagrams that were received before the sockets were closed are not passed on afterwards.
            super::check(pair, self.family)?;
            count += state.hand_out(max - count, take);
            let more = state.batch.len() == SLOTS;
            if count == max || (count > 0 && !more) {
                return Ok(count);
            }
            state.clear();
            let looked = pair.recv_of(self.family, &mut state.batch);
            // A partial batch does not prove that the socket is empty: some drivers receive one datagram at a time, and
            // a pending error also ends a batch.
            #[cfg(unix)]
            {
                state.is_dry = state.batch.is_empty() && !matches!(looked, Some(Ok(true) | Err(_)));
            }
            match looked {
                _ if !state.batch.is_empty() => {}
                _ if count > 0 => return Ok(count),
                Some(Err(err)) => return Err(Error::io(format!("cannot receive with {}", self.family), err)),
                looked => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left == Some(Duration::ZERO) {
                        return Ok(0);
                    }
                    if !matches!(looked, Some(Ok(true))) {
                        state.wait(left)?;
                    }
                }
            }
        }
    }

    /// Waits for the state. Returns `None` if it is not put back in time.
    fn take_state(&self, deadline: Option<Instant>) -> Option<StateGuard<'_>> {
        let mut state = self.state();
        loop {
            if let Some(state) = state.take() {
                return Some(StateGuard { inbox: self, state: Some(state) });
            }
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => sync::wait(&self.returned, state),
                Some(Duration::ZERO) => return None,
                Some(left) => sync::wait_timeout(&self.returned, state, left),
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<ReceiveState>> {
        sync::lock(&self.state)
    }
}

impl ReceiveState {
    /// Passes on up to `max` received datagrams and returns their number.
    fn hand_out(&mut self, max: usize, take: &mut dyn FnMut(Received<'_>)) -> usize {
        let next = &mut self.next;
        let mut count = 0;
        for (meta, data) in self.batch.iter_mut().skip(next.slot) {
            loop {
                if count == max {
                    return count;
                }
                let rest = &data[next.offset..];
                let contents = &rest[..rest.len().min(meta.segment_size)];
                // Advanced before `take`, which may panic.
                *next = match rest.len() == contents.len() {
                    true => Position { slot: next.slot + 1, offset: 0 },
                    false => Position { offset: next.offset + contents.len(), ..*next },
                };
                count += 1;
                let RecvMeta { from, tos, .. } = *meta;
                take(Received { from, contents, tos });
                if next.offset == 0 {
                    break;
                }
            }
        }
        count
    }

    /// Returns whether there is nothing to pass on and nothing to receive.
    #[cfg(unix)]
    fn is_cleared(&self) -> bool {
        self.is_dry && self.next.slot == self.batch.len()
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.next = Position::default();
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(err) if err.kind() != io::ErrorKind::Interrupted => Err(Error::io("cannot wait for datagrams", err)),
            _ => Ok(()),
        }
    }
}
