//! One end of a stream, for any of the four sides.
//!
//! A [`Speaker`] has two threads: one reads, one writes. Its methods may be called from several threads at once. What
//! arrives is either a response, which goes to the [`Speaker::call`] that waits for it past everything else that waits,
//! or something for [`Speaker::recv`].
//!
//! What waits to be received is limited: when the limit is reached, the other side is not read from until there is room
//! again. A call of this side lifts it to twice as much; beyond that the stream ends with [`End::Overrun`].

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

/// Messages that wait to be received, at most; twice as many during a call.
const MOST_MESSAGES: usize = 1024;

/// How a stream is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// What this side speaks.
    pub versions: Versions,
    /// How its header is written.
    pub order: HeaderOrder,
    /// For both headers; `None`: no limit.
    pub handshake_timeout: Option<Duration>,
    /// Bytes of memory for messages that wait to be received, at most, beyond a single one; twice as many during a
    /// call.
    pub inbox: usize,
    /// Bytes that wait to be written, at most, beyond a single message.
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

/// The number of a request of the other side. There may be two with one number; then each is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(NonZeroU64);

impl RequestId {
    /// As it was sent.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// A message that has arrived and is not a response.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming<B> {
    /// Is to be answered by [`Speaker::respond`].
    Request {
        /// Goes into the response.
        id: RequestId,
        /// What is asked.
        body: B,
    },
    /// Has no response.
    Notice(B),
    /// A request that this version does not have. [`Speaker::recv`] answers it and never returns it.
    #[doc(hidden)]
    Unknown {
        /// Goes into the response.
        id: RequestId,
    },
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Responses to no request that waits: late ones, second ones.
    pub unknown_responses: u64,
    /// Messages without numbers and without a body that is known.
    pub empty_messages: u64,
    /// Own messages of [`Speaker::try_notify`] because the other side reads slowly.
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
    /// Exchanges headers. Both sides write and read at once.
    ///
    /// # Errors
    /// See [`OpenError`]; then the transport is closed. Ours has still been written, if the other side has read it in
    /// time.
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

    /// The version that both sides speak.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Sends a request and waits for its response. Not on the thread that receives, if the other side asks something
    /// before it answers.
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
                // It may have arrived since.
                match response.try_recv() {
                    Ok(Some(body)) => Ok(body),
                    Ok(None) => Err(CallError::Unknown),
                    Err(_) => Err(CallError::TimedOut),
                }
            }
        }
    }

    /// Answers a request. Waits while the other side does not read. The last message of a tunnel, its response to a
    /// stop, ends the stream when it is written.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn respond(&self, to: RequestId, body: Sent<S>) -> Result<(), SendError> {
        self.send(Kind::Response(to.0), Some(body), None)
    }

    /// Answers a request that cannot be served, without a body.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn refuse(&self, to: RequestId) -> Result<(), SendError> {
        self.send(Kind::Response(to.0), None, None)
    }

    /// Sends what has no response. Waits while the other side does not read.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn notify(&self, body: Sent<S>) -> Result<(), SendError> {
        self.check(&body)?;
        self.send(Kind::Notice, Some(body), None)
    }

    /// Sends what is not worth waiting for, such as a line of a log. Returns whether it is sent: not if more than half
    /// of the room is taken, because the other side reads slowly.
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

    /// Whether the other side's version has it.
    fn check(&self, body: &Sent<S>) -> Result<(), SendError> {
        let since = S::Sent::since(body);
        if self.version < since { Err(SendError::Unsupported { since }) } else { Ok(()) }
    }

    fn send(&self, kind: Kind, body: Option<Sent<S>>, deadline: Option<Instant>) -> Result<(), SendError> {
        let is_last = body.as_ref().is_some_and(S::Sent::is_last);
        let bytes = encode(&S::Sent::join(kind.rpc(), body)).map_err(SendError::Frame)?;
        self.shared.queue(Frame { bytes, is_last }, deadline)
    }

    /// Waits for a request or a notice. Requests that are not known are answered, without a body.
    ///
    /// # Errors
    /// Why the stream has ended, once everything that arrived before has been received.
    pub fn recv(&self) -> Result<Incoming<Received<S>>, End> {
        loop {
            if let Some(incoming) = self.next(None)? {
                return Ok(incoming);
            }
        }
    }

    /// As [`Speaker::recv`], at most for this long. Returns `None` if nothing has arrived.
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
                    // If it cannot be sent, the stream has ended, and the next turn says so.
                    let _ = self.refuse(id);
                }
                incoming => return Ok(incoming),
            }
        }
    }

    /// Ends the stream at once: calls fail, and what waits to be written is dropped. Idempotent.
    pub fn close(&self) {
        self.shared.end(End::Closed);
    }

    /// Why the stream has ended; `None` if it has not.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.shared.lock().end.clone()
    }

    /// Waits for the end of the stream, at most for this long. Returns whether it has ended.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        wait_timeout_while(&self.shared.arrived, self.shared.lock(), timeout, |state| state.end.is_none()).end.is_some()
    }

    /// What was dropped so far.
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
                // A panic of it has ended the stream already.
                let _ = thread.join();
            }
        }
    }
}
