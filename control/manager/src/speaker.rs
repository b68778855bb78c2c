//! One end of a stream, for any of the four sides.
//!
//! A [`Speaker`] has two threads: one reads, one writes. Its methods may be called on several threads concurrently. A
//! received message is either a response, which is passed to the waiting [`Speaker::call`] ahead of all other messages,
//! or a message for [`Speaker::recv`].
//!
//! The received messages that wait are limited: at the limit, the other side is not read until there is room again.
//! During a call of this side the limit is twice as high; beyond that the stream ends with [`End::Overrun`].

#[cfg(unix)]
mod descriptors;
mod error;
#[cfg(windows)]
mod handles;
mod shared;
mod threads;
mod transport;

pub use error::{CallError, End, OpenError, SendError};
pub use transport::{Stop, Transport};

use crate::{
    messages::{Envelope, Received, Sent, Side},
    stream::{Header, HeaderOrder, Kind, Version, Versions, encode},
};
use shared::{Frame, Shared};
use std::{
    num::NonZeroU64,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use wg_embed::{
    sync::{wait, wait_timeout, wait_timeout_while},
    thread::{self, Owner},
};

/// The maximum number of messages that wait to be received; twice as high during a call.
const MOST_MESSAGES: usize = 1024;

/// Options of a stream.
#[derive(Clone, Debug)]
pub struct Options {
    /// The versions that this side supports.
    pub versions: Versions,
    /// The order of the words in its header.
    pub order: HeaderOrder,
    /// The time limit for both headers; `None` for no limit.
    pub handshake_timeout: Option<Duration>,
    /// The maximum memory of messages that wait to be received, in bytes, in addition to a single one; twice as high
    /// during a call.
    pub inbox: usize,
    /// The maximum number of bytes that wait to be written, in addition to a single message.
    pub outbox: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            versions: Versions::default(),
            order: HeaderOrder::default(),
            handshake_timeout: Some(Duration::from_secs(5)),
            inbox: 16 << 20,
            outbox: 4 << 20,
        }
    }
}

/// The number of a request of the other side. If two requests have the same number, each is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(NonZeroU64);

impl RequestId {
    /// Returns the number in the message.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// A received message that is not a response.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming<B> {
    /// A request, to be answered by [`Speaker::respond`].
    Request {
        /// The number for the response.
        id: RequestId,
        /// The request itself.
        body: B,
    },
    /// A message without a response.
    Notice(B),
    /// A request that is unknown to this version. [`Speaker::recv`] answers it, and never returns it.
    #[doc(hidden)]
    Unknown {
        /// The number for the response.
        id: RequestId,
    },
}

/// Numbers of dropped messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Responses to requests that do not wait: late ones, and duplicates.
    pub unknown_responses: u64,
    /// Messages without numbers and without a known body.
    pub empty_messages: u64,
    /// Messages that [`Speaker::try_notify`] did not send, because the other side reads slowly.
    pub skipped: u64,
}

/// One end of a stream. Dropping it ends the stream and waits for its threads.
pub struct Speaker<S: Side> {
    shared: Arc<Shared<S>>,
    version: Version,
    owner: Owner,
    threads: Vec<JoinHandle<()>>,
}

impl<S: Side> Speaker<S> {
    /// Exchanges headers. Both sides write and read at the same time.
    ///
    /// # Errors
    /// See [`OpenError`]; the transport is closed in that case. This side's header has still been written, if the other
    /// side has read it in time.
    pub fn open(transport: Transport, options: Options) -> Result<Self, OpenError> {
        let header = Header { role: S::ROLE, versions: options.versions.clone(), order: options.order };
        let header = header.encode().map_err(OpenError::Header)?;
        let (versions, timeout) = (options.versions.clone(), options.handshake_timeout);
        let Transport { reader, writer, stop } = transport;
        let shared = Arc::new(Shared::<S>::new(stop, options));
        let mut speaker =
            Self { shared: shared.clone(), version: Version::V1_0, owner: Owner::unique(), threads: Vec::new() };
        let theirs = shared.clone();
        speaker.start("wg-mgr-write", move || threads::write(&theirs, writer, &header))?;
        speaker.start("wg-mgr-read", move || threads::read(&shared, reader, &versions))?;
        speaker.version = speaker.greeting(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))?;
        Ok(speaker)
    }

    fn start(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        self.threads.push(thread::spawn(name, self.owner, body).map_err(OpenError::Thread)?);
        Ok(())
    }

    /// Waits for both headers.
    fn greeting(&self, deadline: Option<Instant>) -> Result<Version, OpenError> {
        let mut state = self.shared.lock();
        loop {
            if (state.greeted || state.end.is_some())
                && let Some(greeting) = state.greeting.take()
            {
                return greeting;
            }
            if let Some(end) = &state.end {
                return Err(OpenError::Ended(end.clone()));
            }
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => wait(&self.shared.arrived, state),
                Some(left) if left.is_zero() => {
                    return Err(match state.greeting.take() {
                        Some(Err(e)) => e,
                        Some(Ok(_)) | None => OpenError::TimedOut,
                    });
                }
                Some(left) => wait_timeout(&self.shared.arrived, state, left),
            };
        }
    }

    /// Returns the negotiated version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Sends a request and waits for its response. Do not call it on the receiving thread if the other side sends
    /// requests before it answers.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&self, body: Sent<S>, timeout: Duration) -> Result<Received<S>, CallError> {
        let deadline = Instant::now().checked_add(timeout);
        self.check(&body).map_err(CallError::Send)?;
        let (waiter, response) = mpsc::sync_channel(1);
        let id = self.shared.begin(waiter).map_err(CallError::Send)?;
        if let Err(e) = self.send(Kind::Request(id), Some(body), deadline) {
            self.shared.lock().calls.end(id);
            return Err(CallError::Send(e));
        }
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        match response.recv_timeout(left) {
            Ok(Some(body)) => Ok(body),
            Ok(None) => Err(CallError::Unknown),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(CallError::Ended(self.end().unwrap_or(End::Broken))),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.shared.lock().calls.end(id);
                // It may have arrived in the meantime.
                match response.try_recv() {
                    Ok(Some(body)) => Ok(body),
                    Ok(None) => Err(CallError::Unknown),
                    Err(_) => Err(CallError::TimedOut),
                }
            }
        }
    }

    /// Answers a request. Waits while the other side does not read. The last message of a tunnel, its response to a
    /// stop, ends the stream once it is written.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn respond(&self, to: RequestId, body: Sent<S>) -> Result<(), SendError> {
        self.send(Kind::Response(to.0), Some(body), None)
    }

    /// Answers a request that cannot be handled, without a body.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn refuse(&self, to: RequestId) -> Result<(), SendError> {
        self.send(Kind::Response(to.0), None, None)
    }

    /// Sends a message that has no response. Waits while the other side does not read.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn notify(&self, body: Sent<S>) -> Result<(), SendError> {
        self.check(&body)?;
        self.send(Kind::Notice, Some(body), None)
    }

    /// Sends a message that is dropped rather than waited for, such as a line of a log. Returns false if it was
    /// dropped: more than half of the room is in use, because the other side reads slowly.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn try_notify(&self, body: Sent<S>) -> Result<bool, SendError> {
        self.check(&body)?;
        if self.shared.is_slow() {
            self.shared.lock().stats.skipped += 1;
            return Ok(false);
        }
        match self.send(Kind::Notice, Some(body), Some(Instant::now())) {
            Err(SendError::TimedOut) => {
                self.shared.lock().stats.skipped += 1;
                Ok(false)
            }
            outcome => outcome.map(|()| true),
        }
    }

    /// Returns whether the negotiated version has the message.
    fn check(&self, body: &Sent<S>) -> Result<(), SendError> {
        let since = S::Sent::since(body);
        if self.version < since { Err(SendError::Unsupported { since }) } else { Ok(()) }
    }

    fn send(&self, kind: Kind, body: Option<Sent<S>>, deadline: Option<Instant>) -> Result<(), SendError> {
        let is_last = body.as_ref().is_some_and(S::Sent::is_last);
        let bytes = encode(&S::Sent::join(kind.rpc(), body)).map_err(SendError::Frame)?;
        self.shared.queue(Frame { bytes, is_last }, deadline)
    }

    /// Waits for a request or a notice. Unknown requests are answered without a body.
    ///
    /// # Errors
    /// The reason for the end of the stream, after all earlier messages have been received.
    pub fn recv(&self) -> Result<Incoming<Received<S>>, End> {
        loop {
            if let Some(incoming) = self.next(None)? {
                return Ok(incoming);
            }
        }
    }

    /// Receives like [`Speaker::recv`], with a time limit. Returns `None` after it.
    ///
    /// # Errors
    /// As [`Speaker::recv`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Incoming<Received<S>>>, End> {
        self.next(Instant::now().checked_add(timeout))
    }

    fn next(&self, deadline: Option<Instant>) -> Result<Option<Incoming<Received<S>>>, End> {
        loop {
            match self.shared.take(deadline)? {
                Some(Incoming::Unknown { id }) => {
                    // If the answer cannot be sent, the stream has ended, and the next turn returns that.
                    let _ = self.refuse(id);
                }
                incoming => return Ok(incoming),
            }
        }
    }

    /// Ends the stream at once: calls fail, and unsent messages are dropped. Idempotent.
    pub fn close(&self) {
        self.shared.end(End::Closed);
    }

    /// Returns the reason for the end of the stream, or `None` while it is open.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.shared.lock().end.clone()
    }

    /// Waits for the end of the stream, with a time limit. Returns whether it has ended.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        wait_timeout_while(&self.shared.arrived, self.shared.lock(), timeout, |state| state.end.is_none()).end.is_some()
    }

    /// Returns the numbers of messages dropped so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }
}

impl<S: Side> Drop for Speaker<S> {
    fn drop(&mut self) {
        self.close();
        if !self.owner.is_current() {
            for thread in self.threads.drain(..) {
                // If the thread has panicked, that has ended the stream already.
                let _ = thread.join();
            }
        }
    }
}
