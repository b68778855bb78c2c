//! A client of the service: requests in, responses out.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use wg_embed::{
    device::Tunnel,
    error::{Error, ErrorKind, Result},
    key::wiped,
    sync::lock,
    uapi::{Limits, get_public_text, get_text},
};
use wg_embed_wireproto::{Message, Pairs};
use zeroize::Zeroizing;

use crate::{
    answer::{self, AROUND_ANSWER, AROUND_RECORDS, Answer, LONGEST_ERROR},
    command::Command,
    events::{Hub, Queue},
    options::Options,
    set, state,
};

/// Answers one request to a tunnel. Events are unsupported here, as they are queued for a client: see [`Session`].
///
/// The response may contain keys: those in a `set`, and those requested by a `get`. It is wiped when dropped.
#[must_use]
pub fn call(tunnel: &Tunnel, request: &[u8]) -> Zeroizing<Vec<u8>> {
    Session::new(Options::default(), None).call(tunnel, request)
}

/// A client. Its methods may be called on several threads concurrently.
#[derive(Debug)]
pub struct Session {
    options: Options,
    hub: Option<Arc<Hub>>,
    events: Mutex<Events>,
}

#[derive(Debug)]
struct Events {
    /// Created by the client's first request for events.
    queue: Option<Arc<Queue>>,
    /// Whether waiting has been disabled for the client.
    is_closed: bool,
}

/// Calls its argument, which waits for an event, once.
pub type Wait<'a> = &'a dyn Fn(&mut dyn FnMut());

impl Session {
    /// Creates a client that gets its events from `hub`.
    #[must_use]
    pub const fn new(options: Options, hub: Option<Arc<Hub>>) -> Self {
        Self { options, hub, events: Mutex::new(Events { queue: None, is_closed: false }) }
    }

    /// Answers one request, which is exactly one message. The whole request is checked, including its checksum, before
    /// the first command is executed. Commands are executed in order, also after one that fails. The response is empty
    /// only if there is no memory for it.
    ///
    /// It waits for events if a command requests that, for at most [`Options::wait`]; [`Hub::close`] and
    /// [`close`](Self::close) end such waits.
    #[must_use]
    pub fn call(&self, tunnel: &Tunnel, request: &[u8]) -> Zeroizing<Vec<u8>> {
        self.call_waiting(tunnel, request, &|wait| wait())
    }

    /// Answers a request like [`call`](Self::call), and calls `wait` with a function for each command that may wait for
    /// an event; `wait` must call that function. It shows the caller when the request waits.
    #[must_use]
    pub fn call_waiting(&self, tunnel: &Tunnel, request: &[u8], wait: Wait<'_>) -> Zeroizing<Vec<u8>> {
        wiped(|| self.respond(tunnel, request, wait))
    }

    /// Ends the client's waits for events, and disables further ones. Commands behind one that waited are executed.
    /// Idempotent.
    pub fn close(&self) {
        let mut events = lock(&self.events);
        events.is_closed = true;
        if let Some(queue) = &events.queue {
            queue.close();
        }
    }

    /// Returns the response to a request that cannot be parsed for this reason.
    #[must_use]
    pub fn refuse(&self, error: &wg_embed_wireproto::Error) -> Zeroizing<Vec<u8>> {
        answer::refusal(&answer::of_codec(error), self.options.order)
    }

    /// Returns the limits.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    fn respond(&self, tunnel: &Tunnel, request: &[u8], wait: Wait<'_>) -> Zeroizing<Vec<u8>> {
        let message = match Message::parse(request, &self.options.reading()) {
            Ok(message) => message,
            Err(error) => return self.refuse(&error),
        };
        let order = message.head().order;
        let response = self.answers(tunnel, &message, wait).and_then(|answers| {
            let limit = self.options.response;
            answer::response(&message, &answers, limit)
        });
        response.unwrap_or_else(|error| answer::refusal(&error, order))
    }

    /// Executes all commands, unless the request as a whole is refused.
    fn answers(&self, tunnel: &Tunnel, request: &Message<'_>, wait: Wait<'_>) -> Result<Vec<Answer>> {
        let count = request.groups().map(|group| group.len()).fold(0, usize::saturating_add);
        if count > self.options.commands {
            let text = format!("{count} commands are more than {}", self.options.commands);
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let groups = request.groups().len() * AROUND_ANSWER;
        let least = request.head().size as usize + AROUND_RECORDS + groups + count * (LONGEST_ERROR + AROUND_ANSWER);
        let left = self.options.response.checked_sub(least);
        // The remaining space for results; that for errors is reserved.
        let mut left = left.ok_or_else(|| Error::new(ErrorKind::TooLarge, "the response would exceed its limit"))?;
        let mut answers = Vec::new();
        answers.try_reserve_exact(count)?;
        let began = Instant::now();
        for record in request.records() {
            let patience = self.options.wait.saturating_sub(began.elapsed());
            let answer = self.answer(tunnel, record.pairs(), left + LONGEST_ERROR, patience, wait);
            let taken = answer.as_ref().map_or(0, |value| value.len());
            left = left.saturating_sub(taken.saturating_sub(LONGEST_ERROR));
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Executes one command. Its result may have `limit` bytes, and it may wait for that time.
    fn answer(&self, tunnel: &Tunnel, pairs: Pairs<'_>, limit: usize, patience: Duration, wait: Wait<'_>) -> Answer {
        let device = tunnel.device();
        match Command::of(pairs)? {
            Command::Get { json: true, secrets } => state::get(tunnel, secrets, limit),
            Command::Get { json: false, secrets } => {
                let text = if secrets { get_text } else { get_public_text };
                answer::text(text(device.snapshot())?, limit)
            }
            Command::Set(pairs) => {
                self.hub.as_ref().map_or(Ok(()), |hub| hub.check_running())?;
                let limits = Limits { host_names: device.resolves_names(), ..Limits::for_peers(device.max_peers()) };
                device.apply(set::update(pairs, limits)?)?;
                Ok(Zeroizing::default())
            }
            Command::Stats => state::stats(tunnel, limit),
            Command::Events { max, wait: timeout } => {
                let events = self.events()?;
                let mut answer = Ok(Zeroizing::default());
                wait(&mut || answer = events.take(max, limit, timeout.min(patience)));
                answer
            }
            Command::Peers { key } => state::peers(tunnel, key, limit),
            Command::Version => state::version(limit),
        }
    }

    fn events(&self) -> Result<Arc<Queue>> {
        let hub = self.hub.as_ref();
        let hub = hub.ok_or_else(|| Error::new(ErrorKind::Unsupported, "this client cannot wait for events"))?;
        let mut events = lock(&self.events);
        if let Some(queue) = &events.queue {
            return Ok(queue.clone());
        }
        let queue = hub.queue(self.options.events)?;
        if events.is_closed {
            queue.close();
        }
        Ok(events.queue.insert(queue).clone())
    }
}
