//! Calls of a program.

use std::{io, net::Shutdown, time::Duration};

use wg_embed::time::Instant;

use super::{
    super::{buffer::SMALLEST, timers::Timer},
    Connection, State,
    input::ORPHAN,
};
use crate::notify::Readiness;

/// The least and the most room that a writer of an unknown number of bytes gets.
const LEAST_ROOM: usize = 4 << 10;
const MOST_ROOM: usize = 64 << 10;

impl Connection {
    /// Returns the operations that do not wait now.
    pub(crate) fn readiness(&self) -> Readiness {
        let over = self.state == State::Closed;
        let read_closed = over || self.receiver.is_finished() || self.receiver.is_discarding();
        let write_closed = over || self.sender.fin.is_some() || self.state == State::TimeWait;
        Readiness {
            readable: self.receiver.unread() > 0 || read_closed,
            writable: write_closed || (self.established && !self.is_starved() && self.sender.has_much_room()),
            read_closed,
            write_closed,
        }
    }

    /// Returns whether the peer has ended its direction, and all its data have arrived.
    pub(crate) fn has_arrived(&self) -> bool {
        self.receiver.is_finished()
    }

    /// Passes received data to `take`, which returns how many bytes it has consumed. Returns `WouldBlock` if there are
    /// none, 0 at the end; `take` is then called with empty parts. Also returns whether something must be sent at once,
    /// or a timer was set.
    pub(crate) fn read(
        &mut self,
        clock: &dyn Fn() -> Instant,
        take: &mut dyn FnMut(&[u8], &[u8]) -> usize,
    ) -> io::Result<(usize, bool)> {
        let unread = self.receiver.unread();
        if unread == 0 {
            if let Some(error) = self.error {
                return Err(error.into());
            }
            if self.receiver.is_finished() || self.receiver.is_discarding() || self.state == State::Closed {
                take(&[], &[]);
                return Ok((0, false));
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let rewind = self.receiver.has_nothing_apart();
        let ring = self.receiver.ring();
        let (first, second) = ring.slices(0, unread);
        let taken = take(first, second).min(unread);
        ring.consume(taken, rewind);
        if matches!(self.state, State::Closed | State::TimeWait) {
            if self.receiver.unread() == 0 {
                self.receiver.release();
            }
            return Ok((taken, false));
        }
        // The time of the last segment is precise enough for the program's reading rate.
        self.receiver.on_read(taken, self.rtt.smoothed(), self.heard);
        let watches = !self.timers.is_set(Timer::Buffers);
        if watches {
            self.used = clock();
            self.watch_buffers(self.used);
        }
        Ok((taken, watches || self.receiver.wants_acknowledgement(self.heard)))
    }

    /// Passes free room to `fill`, which returns how many bytes it has filled. `hint` is the number of bytes that the
    /// program has, 0 if unknown. Also returns whether some of them must be sent at once: then all consequences are
    /// left to [`transmit`](Self::transmit).
    pub(crate) fn write(
        &mut self,
        clock: &dyn Fn() -> Instant,
        hint: usize,
        fill: &mut dyn FnMut(&mut [u8], &mut [u8]) -> usize,
    ) -> io::Result<(usize, bool)> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        if self.sender.fin.is_some() || matches!(self.state, State::Closed | State::TimeWait) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let wanted = if hint == 0 { self.sender.ring.offer(LEAST_ROOM, MOST_ROOM) } else { hint };
        let mut room = self.sender.room().min(wanted);
        if !self.established || room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let limit = self.sender.limit();
        let ring = &mut self.sender.ring;
        let buffered = ring.len();
        if !ring.reserve(buffered + room, limit) {
            room = ring.capacity() - buffered;
            if room == 0 {
                self.starved = true;
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        self.starved = false;
        let (first, second) = ring.room(room);
        let filled = fill(first, second).min(room);
        ring.commit(filled);
        let sends = self.next_data().is_some();
        if !sends {
            self.used = clock();
            self.settle(self.used);
        }
        Ok((filled, sends))
    }

    /// Returns whether a writer was refused memory, and there is no room without it.
    const fn is_starved(&self) -> bool {
        self.starved && self.sender.ring.len() == self.sender.ring.capacity()
    }

    /// Returns whether a writer needs memory to continue: no ACK will make room, since nothing is in flight.
    pub(crate) fn wants_memory(&self) -> bool {
        self.is_starved()
            && !self.orphan
            && self.sender.ring.is_empty()
            && self.sender.fin.is_none()
            && !matches!(self.state, State::Closed | State::TimeWait)
    }

    /// Tries again to get some memory for a writer. It is released if it is not used for a while.
    pub(crate) fn feed(&mut self, now: Instant) {
        if self.sender.ring.reserve(SMALLEST, self.sender.limit()) {
            self.starved = false;
            self.used = now;
            self.watch_buffers(now);
        }
    }

    /// Ends one direction or both.
    pub(crate) fn shutdown(&mut self, how: Shutdown, now: Instant) -> io::Result<()> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.receiver.discard();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.finish();
        }
        self.settle(now);
        Ok(())
    }

    /// Ends the sending direction.
    fn finish(&mut self) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            // One more than now: the SYN is not yet acknowledged.
            self.sender.fin.get_or_insert(self.sender.next);
        } else if !matches!(self.state, State::Closed | State::TimeWait) {
            self.sender.finish();
        }
    }

    /// Handles the drop by the program: a FIN after the written data, or a RST if there are unread data (or arrive
    /// later).
    pub(crate) fn close(&mut self, now: Instant) {
        if self.orphan {
            return;
        }
        self.orphan = true;
        match self.state {
            State::Closed | State::TimeWait => self.receiver.release(),
            State::SynSent | State::SynReceived => self.end_with_reset(io::ErrorKind::ConnectionAborted),
            _ if self.receiver.unread() > 0 => self.end_with_reset(io::ErrorKind::ConnectionAborted),
            _ => {
                self.finish();
                if self.state == State::FinWait2 {
                    self.timers.set(Timer::End, now + ORPHAN);
                }
                self.settle(now);
            }
        }
    }

    /// Handles a close by the program: a RST after the written data are acknowledged. Arriving data are discarded.
    pub(crate) fn close_with_reset(&mut self, now: Instant) {
        self.orphan = true;
        match self.state {
            State::Closed | State::TimeWait => self.receiver.release(),
            State::SynSent | State::SynReceived => self.end_with_reset(io::ErrorKind::ConnectionAborted),
            _ => {
                self.receiver.discard();
                self.reset_at_end = true;
                self.settle(now);
            }
        }
    }

    /// Sets that a RST is sent next, as the last segment.
    pub(crate) fn reset(&mut self, now: Instant) {
        let _ = now;
        if self.state != State::Closed {
            self.end_with_reset(io::ErrorKind::ConnectionAborted);
        }
        self.receiver.release();
    }

    /// Ends the connection without a segment, with this error for the program.
    pub(crate) fn abort(&mut self, error: io::ErrorKind) {
        self.reset_due = false;
        self.reply = None;
        self.end(Some(error));
        self.receiver.release();
    }

    /// Returns the number of received bytes that were not read.
    pub(crate) fn unread(&self) -> usize {
        self.receiver.unread()
    }

    /// Returns the number of written bytes that are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.sender.ring.len()
    }

    /// Returns whether all written data and the FIN behind them have been acknowledged; this does not change
    /// afterwards.
    pub(crate) fn is_delivered(&self) -> bool {
        self.sender.fin_acknowledged()
    }

    /// Sets the idle time before keepalive probes.
    pub(crate) fn set_keepalive(&mut self, idle: Option<Duration>, now: Instant) {
        // Without a minimum the timer would be due continuously.
        self.keepalive = idle.map(|idle| idle.max(Duration::from_secs(1)));
        self.keepalives = 0;
        match self.keepalive {
            Some(idle) if self.state != State::Closed => self.timers.set(Timer::Keepalive, now + idle),
            _ => self.timers.clear(Timer::Keepalive),
        }
    }

    /// Sets the idle time before keepalive probes unless it is set.
    pub(crate) fn set_default_keepalive(&mut self, idle: Duration, now: Instant) {
        if self.keepalive.is_none() {
            self.set_keepalive(Some(idle), now);
        }
    }

    /// Sets the time limit for unacknowledged data.
    pub(crate) fn set_user_timeout(&mut self, timeout: Option<Duration>) {
        self.user_timeout = timeout;
        let orphan = self.state == State::FinWait2 && self.orphan;
        if let (Some(timeout), Some(since)) = (timeout, self.stalled) {
            self.timers.set(Timer::End, since + timeout);
        } else if !orphan {
            self.timers.clear(Timer::End);
        }
    }

    /// Disables or enables Nagle's algorithm.
    pub(crate) fn set_nodelay(&mut self, nodelay: bool) {
        self.sender.nodelay = nodelay;
    }
}
