//! Receiving for one family: whose turn it is, and what has come but was not taken yet.
//!
//! Everything that receiving needs lies on one desk. A thread takes the desk, receives or waits with it, and puts it
//! back; other threads of the same family wait for the desk meanwhile. So any number of threads may receive, each
//! with a time limit of its own, and no lock is held while one of them waits or hands out.

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

/// As many as one system call fills.
const SLOTS: usize = 16;

/// Large enough for any datagram, and for GRO.
const SLOT_LEN: usize = 65_535;

/// The receiving side of one family.
pub(super) struct Inbox {
    family: Family,
    registry: Registry,
    waker: Waker,
    /// `None` while a thread has it.
    desk: Mutex<Option<Desk>>,
    returned: Condvar,
    /// How many threads wait elsewhere.
    #[cfg(unix)]
    waiting: AtomicUsize,
}

struct Desk {
    poll: Poll,
    events: Events,
    batch: RecvBatch,
    next: Place,
    /// The socket had nothing when it was last looked at.
    #[cfg(unix)]
    is_dry: bool,
}

/// What is to be handed out next.
#[derive(Clone, Copy, Default)]
struct Place {
    slot: usize,
    offset: usize,
}

/// The desk, until it is put back.
struct Turn<'a> {
    inbox: &'a Inbox,
    /// There until it is dropped.
    desk: Option<Desk>,
}

impl Turn<'_> {
    fn desk(&mut self) -> &mut Desk {
        let Some(desk) = &mut self.desk else { unreachable!("it is there until it is dropped") };
        desk
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.inbox.desk() = self.desk.take();
        self.inbox.returned.notify_one();
    }
}

impl Inbox {
    pub(super) fn new(family: Family) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let batch = RecvBatch::try_new(SLOTS, SLOT_LEN)?;
        let desk = Desk {
            events: Events::with_capacity(4),
            batch,
            next: Place::default(),
            #[cfg(unix)]
            is_dry: false,
            poll,
        };
        Ok(Self {
            family,
            waker: Waker::new(&registry, WAKE)?,
            registry,
            desk: Mutex::new(Some(desk)),
            returned: Condvar::new(),
            #[cfg(unix)]
            waiting: AtomicUsize::new(0),
        })
    }

    /// Where the family's socket is to be registered.
    pub(super) fn registry(&self) -> io::Result<Registry> {
        self.registry.try_clone()
    }

    /// Has whoever waits look again at the sockets. If they are closed, the others follow as the desk goes round.
    pub(super) fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::debug!(%err, "cannot wake the receiver");
        }
    }

    /// Hands up to `max` datagrams to `take`. See [`BatchUdp::receive`](super::BatchUdp::receive).
    pub(super) fn receive(
        &self,
        pair: &Pair,
        max: usize,
        timeout: Option<Duration>,
        take: &mut dyn FnMut(Received<'_>),
    ) -> Result<usize> {
        // A time too far away to be named is no limit.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let Some(mut turn) = self.turn(deadline) else {
            return Ok(0);
        };
        self.receive_at(turn.desk(), pair, max, deadline, take)
    }

    /// As [`receive`](Self::receive), but what there is: for a thread that waits elsewhere, for [`fd`](Self::fd). If
    /// there is nothing and it `will_wait`, it counts as waiting until [`has_waited`](Self::has_waited).
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
        let Some(mut turn) = self.turn(begun.filter(|_| !will_wait)) else { return Ok(0) };
        let desk = turn.desk();
        let mut outcome = self.receive_at(desk, pair, max, begun, take);
        // Events stay for other threads until there is nothing that they could be about.
        if has_waited && matches!(outcome, Ok(0)) {
            outcome = desk.wait(Some(Duration::ZERO)).and_then(|()| self.receive_at(desk, pair, max, begun, take));
        }
        // Counted by the thread that has the desk, as the others look with the desk only: so each of them sees this
        // count, and wakes this thread if it leaves datagrams behind.
        if will_wait && matches!(outcome, Ok(0)) {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        if self.waiting.load(Ordering::Relaxed) > 0 && (outcome.is_err() || !desk.is_cleared()) {
            self.wake();
        }
        outcome
    }

    /// A thread that waited elsewhere does so no longer.
    #[cfg(unix)]
    pub(super) fn has_waited(&self) {
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| waiting.checked_sub(1));
    }

    /// Becomes readable when it is time to [`receive_now`](Self::receive_now): also when the sockets change or are
    /// closed.
    #[cfg(unix)]
    pub(super) fn fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.registry)
    }

    fn receive_at(
        &self,
        desk: &mut Desk,
        pair: &Pair,
        max: usize,
        deadline: Option<Instant>,
        take: &mut dyn FnMut(Received<'_>),
    ) -> Result<usize> {
        let mut count = 0;
        loop {
            // What was received before the sockets were closed is not handed out after it.
            super::check(pair, self.family)?;
            count += desk.hand_out(max - count, take);
            let more = desk.batch.len() == SLOTS;
            if count == max || (count > 0 && !more) {
                return Ok(count);
            }
            desk.clear();
            let looked = pair.recv_of(self.family, &mut desk.batch);
            // A batch that is not full proves nothing: some drivers take one datagram at a time, and an error that
            // waits ends a batch as well.
            #[cfg(unix)]
            {
                desk.is_dry = desk.batch.is_empty() && !matches!(looked, Some(Ok(true) | Err(_)));
            }
            match looked {
                _ if !desk.batch.is_empty() => {}
                _ if count > 0 => return Ok(count),
                Some(Err(err)) => return Err(Error::io(format!("cannot receive with {}", self.family), err)),
                looked => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left == Some(Duration::ZERO) {
                        return Ok(0);
                    }
                    if !matches!(looked, Some(Ok(true))) {
                        desk.wait(left)?;
                    }
                }
            }
        }
    }

    /// Waits for the desk. `None` if it does not come in time.
    fn turn(&self, deadline: Option<Instant>) -> Option<Turn<'_>> {
        let mut desk = self.desk();
        loop {
            if let Some(desk) = desk.take() {
                return Some(Turn { inbox: self, desk: Some(desk) });
            }
            desk = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => sync::wait(&self.returned, desk),
                Some(Duration::ZERO) => return None,
                Some(left) => sync::wait_timeout(&self.returned, desk, left),
            };
        }
    }

    fn desk(&self) -> MutexGuard<'_, Option<Desk>> {
        sync::lock(&self.desk)
    }
}

impl Desk {
    /// Hands out up to `max` of what was received and returns how many.
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
                // Gone on before `take`, which may panic.
                *next = match rest.len() == contents.len() {
                    true => Place { slot: next.slot + 1, offset: 0 },
                    false => Place { offset: next.offset + contents.len(), ..*next },
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

    /// Whether there is nothing to hand out, nor to receive.
    #[cfg(unix)]
    fn is_cleared(&self) -> bool {
        self.is_dry && self.next.slot == self.batch.len()
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.next = Place::default();
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(err) if err.kind() != io::ErrorKind::Interrupted => Err(Error::io("cannot wait for datagrams", err)),
            _ => Ok(()),
        }
    }
}
