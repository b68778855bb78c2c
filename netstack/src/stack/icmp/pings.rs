//! The stack's own echo requests, which wait for replies.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::IpAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use wg_embed::{queue::wait_until, sync::lock, time::Instant};

use super::{ECHO_REQUEST_V4, ECHO_REQUEST_V6, HEADER};
use crate::{
    notify::Notify,
    stack::{
        closed,
        datagram::check_len,
        packet::{header_len, is_host},
        shared::Shared,
    },
};

/// The maximum number of waiting requests.
const MAX_PINGS: usize = 16_384;

/// By identifier, which is unique.
#[derive(Default)]
pub(super) struct Pings(Mutex<HashMap<u16, Arc<Echo>>>);

/// An echo request.
pub(crate) struct Echo {
    to: IpAddr,
    id: u16,
    seq: u16,
    /// Its data, repeated as often as necessary. Only a receiver of the request knows them.
    pattern: [u8; 8],
    size: usize,
    sent: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<Result<Duration, io::ErrorKind>>,
    notify: Option<Arc<dyn Notify>>,
}

impl Echo {
    /// Returns the round-trip time.
    pub(crate) fn result(&self) -> io::Result<Duration> {
        match lock(&self.state).result {
            Some(Ok(time)) => Ok(time),
            Some(Err(error)) => Err(error.into()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits for the [`result`](Self::result). The time is that of the system.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<Duration> {
        let ready = |state: &State| state.result.is_some();
        drop(wait_until(&self.changed, lock(&self.state), Some(timeout), ready));
        match self.result() {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            result => result,
        }
    }

    /// Replaces the notifier.
    pub(crate) fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        let mut state = lock(&self.state);
        let tell = notify.clone().filter(|_| state.result.is_some());
        let before = std::mem::replace(&mut state.notify, notify);
        drop(state);
        drop(before);
        if let Some(notify) = tell {
            notify.notify();
        }
    }

    /// Stores the result; only the first one counts.
    fn finish(&self, result: Result<Duration, io::ErrorKind>) {
        let mut state: MutexGuard<'_, State> = lock(&self.state);
        if state.result.is_some() {
            return;
        }
        state.result = Some(result);
        let notify = state.notify.clone();
        drop(state);
        self.changed.notify_all();
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    fn data(&self) -> impl Iterator<Item = u8> {
        self.pattern.into_iter().cycle().take(self.size)
    }

    /// Handles the drop of its handle by the program.
    pub(crate) fn release(self: &Arc<Self>, shared: &Shared) {
        shared.icmp.pings.remove(self);
        let notify = lock(&self.state).notify.take();
        drop(notify);
    }
}

impl Pings {
    fn get(&self, from: IpAddr, id: u16, seq: u16) -> Option<Arc<Echo>> {
        lock(&self.0).get(&id).filter(|echo| echo.to == from && echo.seq == seq).cloned()
    }

    pub(super) fn has(&self, to: IpAddr, id: u16, seq: u16) -> bool {
        self.get(to, id, seq).is_some()
    }

    /// Handles a reply; returns whether it matches one of our requests.
    pub(super) fn reply(&self, from: IpAddr, id: u16, seq: u16, data: &[u8], now: Instant) -> bool {
        let echo = self.get(from, id, seq).filter(|echo| echo.data().eq(data.iter().copied()));
        if let Some(echo) = &echo {
            echo.finish(Ok(now.since(echo.sent)));
        }
        echo.is_some()
    }

    /// Handles an error; returns whether it matches one of our requests.
    pub(super) fn fail(&self, to: IpAddr, id: u16, seq: u16, error: io::ErrorKind) -> bool {
        let echo = self.get(to, id, seq);
        if let Some(echo) = &echo {
            echo.finish(Err(error));
        }
        echo.is_some()
    }

    /// Ends all requests.
    pub(super) fn finish(&self, error: io::ErrorKind) {
        let all = std::mem::take(&mut *lock(&self.0));
        all.into_values().for_each(|echo| echo.finish(Err(error)));
    }

    fn remove(&self, echo: &Arc<Echo>) {
        let mut pings = lock(&self.0);
        if pings.get(&echo.id).is_some_and(|other| Arc::ptr_eq(other, echo)) {
            pings.remove(&echo.id);
        }
    }
}

/// Sends an echo request. See [`Netstack::start_ping`](crate::Netstack::start_ping).
pub(crate) fn start(shared: &Shared, to: IpAddr, size: usize) -> io::Result<Arc<Echo>> {
    let to = to.to_canonical();
    if shared.is_closed() {
        return Err(closed());
    }
    if !is_host(to) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the address of a host"));
    }
    check_len(to, HEADER, size)?;
    let from = shared
        .source_for(to)
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of the family"))?;
    let echo = insert(shared, to, size)?;
    let mut packet = vec![0; header_len(to)];
    packet.extend([if to.is_ipv4() { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 }, 0, 0, 0]);
    packet.extend(echo.id.to_be_bytes());
    packet.extend(echo.seq.to_be_bytes());
    packet.extend(echo.data());
    let sent = super::send(shared, from, to, 0, packet);
    if !sent || shared.is_closed() {
        shared.icmp.pings.remove(&echo);
        return Err(if sent { closed() } else { io::ErrorKind::WouldBlock.into() });
    }
    Ok(echo)
}

fn insert(shared: &Shared, to: IpAddr, size: usize) -> io::Result<Arc<Echo>> {
    let mut pings = lock(&shared.icmp.pings.0);
    if pings.len() >= MAX_PINGS {
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too many echo requests wait"));
    }
    loop {
        let mut random = [0; 12];
        shared.options.random.fill(&mut random);
        let [i0, i1, s0, s1, pattern @ ..] = random;
        let id = u16::from_ne_bytes([i0, i1]);
        if let Entry::Vacant(place) = pings.entry(id) {
            let echo = Arc::new(Echo {
                to,
                id,
                seq: u16::from_ne_bytes([s0, s1]),
                pattern,
                size,
                sent: shared.now(),
                state: Mutex::default(),
                changed: Condvar::new(),
            });
            place.insert(echo.clone());
            return Ok(echo);
        }
    }
}
