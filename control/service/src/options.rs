//! Limits of the service.

use std::time::Duration;

use wg_embed_wireproto::{Order, ReadOptions, Tolerance, options::DEFAULT_LIMIT};

/// How requests are read and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The largest request, in bytes: 16 MiB. Memory is taken only for what has arrived.
    pub request: usize,
    /// The largest response, in bytes: 16 MiB. A request whose commands, copied, and errors could be larger is refused
    /// as a whole; an answer that would make it larger is replaced by an error.
    pub response: usize,
    /// The most commands of a request: 1024.
    pub commands: usize,
    /// The most events that wait for a client: 256. The oldest is dropped, and counted, for one more.
    pub events: usize,
    /// The longest time that a request waits for events, all its commands together: 30 seconds.
    pub wait: Duration,
    /// The order of a request's counts and sizes. A response has that of its request.
    pub order: Order,
    /// Whether a request may have the other order, too.
    pub any_order: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            request: DEFAULT_LIMIT,
            response: DEFAULT_LIMIT,
            commands: 1024,
            events: 256,
            wait: Duration::from_secs(30),
            order: Order::Big,
            any_order: false,
        }
    }
}

impl Options {
    pub(crate) fn reading(&self) -> ReadOptions {
        ReadOptions {
            order: self.order,
            limit: self.request,
            accept: wg_embed_wireproto::Accept::Requests,
            tolerance: Tolerance { other_order: self.any_order, ..Tolerance::default() },
        }
    }
}
