//! Attempts to connect to the addresses of a host in parallel, as in RFC 8305 ("happy eyeballs").

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use wg_embed::{sync::lock, time::Instant};

use crate::{
    dns::{
        Family,
        network::{Deadline, Network, Stream as _, is_closed},
        resolver::{Addresses, Host},
    },
    task::{Machine, Task, Told, Waker},
};

/// The delay between the starts of two attempts.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long to wait for the addresses of the preferred family when the other ones are known.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// A connection to a host in progress. Dropping it cancels it.
pub(super) struct Dialling<N: Network> {
    net: N,
    waker: Waker,
    port: u16,
    end: Instant,
    race: Mutex<Race<N>>,
    result: Mutex<End<N>>,
    /// The notifier of the result.
    pub(super) told: Told,
}

/// The result.
enum End<N: Network> {
    NotYet,
    Is(io::Result<N::Tcp>),
    /// The caller has taken it.
    Taken,
}

struct Race<N: Network> {
    addresses: Addresses<N>,
    /// The families whose addresses are known.
    known: Vec<bool>,
    candidates: Candidates,
    attempts: Vec<Attempt<N>>,
    /// The earliest start of the next attempt.
    next: Instant,
    /// The end of the wait for the addresses of the preferred family.
    wait: Option<Instant>,
    /// The error of the last failed attempt.
    error: Option<io::Error>,
    alarm: Deadline<N>,
}

/// Addresses that were not yet tried.
struct Candidates {
    /// By family: the preferred one, and the other one.
    queues: Vec<VecDeque<SocketAddr>>,
    /// The family of the next address, if it has any.
    turn: usize,
}

impl Candidates {
    fn next(&mut self) -> Option<SocketAddr> {
        let families = self.queues.len();
        for family in (self.turn..families).chain(0..self.turn.min(families)) {
            if let Some(address) = self.queues.get_mut(family).and_then(VecDeque::pop_front) {
                self.turn = family + 1;
                return Some(address);
            }
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}

/// A connection that is not yet established. Dropping it resets it.
struct Attempt<N: Network>(Option<N::Tcp>);

impl<N: Network> Attempt<N> {
    fn connected(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |stream| stream.connected())
    }
}

impl<N: Network> Drop for Attempt<N> {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            stream.reset();
        }
    }
}

impl<N: Network> Dialling<N> {
    pub(super) fn start(net: &N, host: Host, port: u16, family: Family, timeout: Duration) -> Arc<Task<Self>> {
        let now = net.now();
        let task = Task::new(|waker| {
            let addresses = Addresses::look_up(net, host, family, &waker);
            let families = addresses.outcomes().len();
            let race = Race {
                addresses,
                known: vec![false; families],
                candidates: Candidates { queues: vec![VecDeque::new(); families], turn: 0 },
                attempts: Vec::new(),
                next: now,
                wait: None,
                error: None,
                alarm: Deadline::new(),
            };
            let (race, result) = (Mutex::new(race), Mutex::new(End::NotYet));
            Self { net: net.clone(), waker, port, end: now + timeout, race, result, told: Told::default() }
        });
        task.wake();
        task
    }

    /// Takes the result, once there is one.
    pub(super) fn try_finish(&self) -> io::Result<N::Tcp> {
        let mut result = lock(&self.result);
        match std::mem::replace(&mut *result, End::Taken) {
            End::Is(outcome) => outcome,
            End::NotYet => {
                *result = End::NotYet;
                Err(io::ErrorKind::WouldBlock.into())
            }
            End::Taken => Err(io::Error::other("the outcome of this dial was taken before")),
        }
    }

    /// Returns whether there is a result.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(*lock(&self.result), End::NotYet)
    }

    /// Makes progress; returns the result when there is one.
    fn go_on(&self, race: &mut Race<N>) -> Option<io::Result<N::Tcp>> {
        loop {
            let now = self.net.now();
            if let Some(end) = race.look_at_attempts(now) {
                return Some(end);
            }
            if now >= self.end {
                return Some(Err(io::ErrorKind::TimedOut.into()));
            }
            race.take_addresses(self.port);
            if race.may_begin(now)
                && race.next <= now
                && let Some(to) = race.candidates.next()
            {
                match self.net.tcp(to) {
                    Ok(stream) => {
                        stream.set_notify(Some(self.waker.notifier()));
                        race.attempts.push(Attempt(Some(stream)));
                        race.next = now + ATTEMPT_DELAY;
                    }
                    Err(e) if is_closed(&e) => return Some(Err(e)),
                    Err(e) => race.error = Some(e),
                }
                continue;
            }
            let all_known = race.known.iter().all(|known| *known);
            if all_known && race.candidates.is_empty() && race.attempts.is_empty() {
                return Some(Err(race.error.take().unwrap_or_else(|| race.addresses.failure().into())));
            }
            let next = if race.candidates.is_empty() {
                self.end
            } else {
                self.end.min(race.wait.map_or(race.next, |wait| wait.max(race.next)))
            };
            race.alarm.set(&self.net, Some(next), &self.waker);
            return None;
        }
    }
}

impl<N: Network> Race<N> {
    /// Returns the first established connection.
    fn look_at_attempts(&mut self, now: Instant) -> Option<io::Result<N::Tcp>> {
        let mut at = 0;
        while let Some(attempt) = self.attempts.get_mut(at) {
            match attempt.connected() {
                Ok(()) => return attempt.0.take().map(Ok),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => at += 1,
                Err(e) if is_closed(&e) => return Some(Err(e)),
                Err(e) => {
                    self.attempts.remove(at);
                    self.error = Some(e);
                    self.next = now;
                }
            }
        }
        None
    }

    /// Takes new results of the look-up.
    fn take_addresses(&mut self, port: u16) {
        let families = self.known.iter_mut().zip(&mut self.candidates.queues);
        for (outcome, (known, queue)) in self.addresses.outcomes().zip(families) {
            if let Some(outcome) = outcome
                && !std::mem::replace(known, true)
            {
                queue.extend(outcome.iter().flatten().map(|&ip| SocketAddr::new(ip, port)));
            }
        }
    }

    /// Returns whether attempts may begin.
    fn may_begin(&mut self, now: Instant) -> bool {
        let first_known = self.known.first().is_none_or(|known| *known);
        if first_known || !self.attempts.is_empty() {
            return true;
        }
        !self.candidates.is_empty() && *self.wait.get_or_insert(now + RESOLUTION_DELAY) <= now
    }
}

impl<N: Network> Machine for Dialling<N> {
    fn run(&self) {
        if self.has_ended() {
            return;
        }
        let end = {
            let mut race = lock(&self.race);
            let end = self.go_on(&mut race);
            if end.is_some() {
                race.attempts.clear();
                race.addresses.give_up();
                race.alarm.set(&self.net, None, &self.waker);
            }
            end
        };
        if let Some(end) = end {
            if let Ok(stream) = &end {
                stream.set_notify(None);
            }
            *lock(&self.result) = End::Is(end);
            self.told.tell();
        }
    }
}
