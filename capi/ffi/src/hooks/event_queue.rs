//! The event queue, for apps whose code cannot be called on a thread of the library.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

#[cfg(unix)]
use crate::plumbing::fd::above_standard;
use crate::types::event::{WG_EVENT_ENDED, WG_EVENT_MISSED, WG_EVENTS_MAX, wg_event_t};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    queue::wait_until,
    sync,
};

/// A bounded queue, with a descriptor that is readable while [`next`](Self::next) would not wait.
pub(crate) struct EventQueue {
    state: Mutex<State>,
    changed: Condvar,
    signal: Signal,
}

#[derive(Debug, Default)]
struct State {
    /// It has memory for at least one event from the beginning.
    waiting: VecDeque<wg_event_t>,
    /// Events were dropped since the last [`next`](EventQueue::next).
    has_missed: bool,
    /// No further event will arrive: the tunnel has ended by itself, or was turned off.
    is_over: bool,
}

impl State {
    fn is_ready(&self) -> bool {
        self.has_missed || self.is_over || !self.waiting.is_empty()
    }

    /// Adds an event; without room, in place of the oldest one.
    fn push(&mut self, event: wg_event_t, has_room: bool) {
        if !has_room {
            self.waiting.pop_front();
            self.has_missed = true;
        }
        self.is_over |= event.kind == WG_EVENT_ENDED as u32;
        self.waiting.push_back(event);
    }
}

impl EventQueue {
    pub(crate) fn new() -> io::Result<Self> {
        let mut state = State::default();
        state.waiting.try_reserve(1)?;
        Ok(Self { state: Mutex::new(state), changed: Condvar::new(), signal: Signal::new()? })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// Adds an event. If the queue is full, or there is no memory for more, the oldest one is dropped.
    pub(crate) fn push(&self, event: wg_event_t) {
        self.change(|state| {
            let has_room = state.waiting.len() < WG_EVENTS_MAX && state.waiting.try_reserve(1).is_ok();
            state.push(event, has_room);
        });
    }

    /// Ends every wait, now and later.
    pub(crate) fn close(&self) {
        self.change(|state| state.is_over = true);
    }

    /// Changes the state. Only this makes the descriptor readable.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let was_ready = state.is_ready();
        change(&mut state);
        if !was_ready && state.is_ready() {
            self.signal.set();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Returns the next event, and waits for it for at most `timeout` (`None`: without limit). `None` after that time;
    /// an error if no further event will arrive.
    pub(crate) fn next(&self, timeout: Option<Duration>) -> Result<Option<wg_event_t>> {
        let mut state = wait_until(&self.changed, self.state(), timeout, State::is_ready);
        let event = if std::mem::take(&mut state.has_missed) {
            Some(wg_event_t::of(WG_EVENT_MISSED))
        } else {
            state.waiting.pop_front()
        };
        if event.is_some() && !state.is_ready() {
            self.signal.clear();
        }
        match event {
            None if state.is_over => {
                Err(Error::new(ErrorKind::Closed, "there are no more events: the tunnel has ended"))
            }
            event => Ok(event),
        }
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> Result<i32> {
        self.signal.fd()
    }
}

impl fmt::Debug for EventQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue").field("state", &*self.state()).finish_non_exhaustive()
    }
}

/// A socket pair that holds one byte or none.
#[cfg(unix)]
struct Signal {
    reader: std::os::unix::net::UnixStream,
    writer: std::os::unix::net::UnixStream,
}

#[cfg(unix)]
impl Signal {
    fn new() -> io::Result<Self> {
        let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
        let (reader, writer) = (above_standard(reader)?, above_standard(writer)?);
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer })
    }

    // Neither fails: there is room for the byte, and it is there when it is taken. Bytes that something else has
    // written are taken as well: they would wake the app for nothing, for ever.
    fn set(&self) {
        let _ = io::Write::write(&mut &self.writer, &[1]);
    }

    fn clear(&self) {
        while io::Read::read(&mut &self.reader, &mut [0; 64]).is_ok_and(|len| len > 0) {}
    }

    #[allow(clippy::unnecessary_wraps)] // As on systems without descriptors.
    fn fd(&self) -> Result<i32> {
        Ok(std::os::fd::AsRawFd::as_raw_fd(&self.reader))
    }
}

/// Only Unix has descriptors for poll().
#[cfg(not(unix))]
struct Signal;

#[cfg(not(unix))]
impl Signal {
    #[allow(clippy::unnecessary_wraps)] // As on Unix.
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    fn set(&self) {}

    fn clear(&self) {}

    fn fd(&self) -> Result<i32> {
        Err(Error::new(ErrorKind::Unsupported, "there are no descriptors to wait for on this platform"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::event::{WG_EVENT_SESSION_EXPIRED, WG_EVENT_SOCKETS_RECOVERED};

    fn numbered(number: usize) -> wg_event_t {
        wg_event_t { listen_port: number as u32, ..wg_event_t::of(WG_EVENT_SOCKETS_RECOVERED) }
    }

    fn kind(queue: &EventQueue) -> u32 {
        queue.next(Some(Duration::ZERO)).unwrap().map_or(0, |event| event.kind)
    }

    /// Whether poll() would report the descriptor as readable.
    #[cfg(unix)]
    fn is_readable(queue: &EventQueue) -> bool {
        let mut poll = libc::pollfd { fd: queue.fd().unwrap(), events: libc::POLLIN, revents: 0 };
        // SAFETY: it is one struct, which lives.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[cfg(unix)]
    #[test]
    fn the_descriptor_is_readable_while_there_is_something() {
        let queue = EventQueue::new().unwrap();
        assert!(!is_readable(&queue));
        for _ in 0..3 {
            queue.push(numbered(1));
            queue.push(numbered(2));
            assert!(is_readable(&queue));
            kind(&queue);
            assert!(is_readable(&queue), "there is another");
            kind(&queue);
            assert!(!is_readable(&queue));
            assert_eq!(kind(&queue), 0);
        }
        queue.close();
        assert!(is_readable(&queue), "there is an error");
        assert_eq!(queue.next(None).unwrap_err().kind(), ErrorKind::Closed);
        assert!(is_readable(&queue), "and again");
    }

    #[test]
    fn of_too_many_the_oldest_are_missed_and_that_is_told_once() {
        let queue = EventQueue::new().unwrap();
        (0..WG_EVENTS_MAX + 5).for_each(|number| queue.push(numbered(number)));
        assert_eq!(kind(&queue), WG_EVENT_MISSED as u32);
        for number in 5..WG_EVENTS_MAX + 5 {
            assert_eq!(queue.next(Some(Duration::ZERO)).unwrap().unwrap().listen_port, number as u32);
        }
        assert_eq!(kind(&queue), 0);
        queue.push(numbered(1));
        assert_eq!(kind(&queue), WG_EVENT_SOCKETS_RECOVERED as u32);
    }

    /// The memory for one event is there from the beginning, so there always is an oldest one to give up.
    #[test]
    fn without_memory_the_oldest_are_missed_and_never_the_end() {
        let queue = EventQueue::new().unwrap();
        let capacity = queue.state().waiting.capacity();
        assert!(capacity > 0);
        (0..capacity).for_each(|number| queue.push(numbered(number)));
        queue.change(|state| {
            state.push(numbered(capacity), false);
            state.push(wg_event_t::of(WG_EVENT_ENDED), false);
            assert_eq!(state.waiting.capacity(), capacity, "no memory is taken");
        });
        assert_eq!(kind(&queue), WG_EVENT_MISSED as u32);
        for number in 2..=capacity {
            assert_eq!(queue.next(Some(Duration::ZERO)).unwrap().unwrap().listen_port, number as u32);
        }
        assert_eq!(kind(&queue), WG_EVENT_ENDED as u32);
        assert_eq!(queue.next(None).unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn what_came_before_the_end_is_told() {
        let queue = EventQueue::new().unwrap();
        queue.push(wg_event_t::of(WG_EVENT_SESSION_EXPIRED));
        queue.push(wg_event_t::of(WG_EVENT_ENDED));
        queue.close();
        assert_eq!([kind(&queue), kind(&queue)], [WG_EVENT_SESSION_EXPIRED as u32, WG_EVENT_ENDED as u32]);
        for timeout in [Some(Duration::ZERO), None] {
            assert_eq!(queue.next(timeout).unwrap_err().kind(), ErrorKind::Closed);
        }
    }

    #[test]
    fn a_wait_ends_by_an_event_and_by_the_end() {
        let queue = EventQueue::new().unwrap();
        std::thread::scope(|s| {
            let wait = || queue.next(None);
            let waiting = s.spawn(wait);
            queue.push(numbered(7));
            assert_eq!(waiting.join().unwrap().unwrap().unwrap().listen_port, 7);
            let waiting = [s.spawn(wait), s.spawn(wait)];
            queue.close();
            for thread in waiting {
                assert_eq!(thread.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
            }
        });
    }
}
