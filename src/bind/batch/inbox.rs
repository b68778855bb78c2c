//! Receiving for one family: whose turn it is, and what has come but was not taken yet.
//!
//! Everything that receiving needs lies on one desk. A thread takes the desk, receives or waits with it, and puts it
//! back; other threads of the same family wait for the desk meanwhile. So any number of threads may receive, each
//! with a time limit of its own, and no lock is held while one of them waits or hands out.

use super::Received;
use crate::{
    bind::{Family, RecvBatch, RecvMeta, udp::pair::Pair},
    error::{Error, Result},
};
use mio::{Events, Poll, Registry, Token, Waker};
use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
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
}

struct Desk {
    poll: Poll,
    events: Events,
    batch: RecvBatch,
    next: Place,
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
        let desk = Desk { events: Events::with_capacity(4), batch, next: Place::default(), poll };
        Ok(Self {
            family,
            waker: Waker::new(&registry, WAKE)?,
            registry,
            desk: Mutex::new(Some(desk)),
            returned: Condvar::new(),
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
        let Some(desk) = &mut turn.desk else { unreachable!("it is there until it is dropped") };
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
            match pair.recv_of(self.family, &mut desk.batch) {
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
                None => self.returned.wait(desk).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => self.returned.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn desk(&self) -> MutexGuard<'_, Option<Desk>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
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
