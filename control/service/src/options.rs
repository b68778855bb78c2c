//! Limits of the service.

use std::time::Duration;

use wg_embed_wireproto::{Order, ReadOptions, Tolerance, options::DEFAULT_LIMIT};

/// Options of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The maximum length of a request, in bytes: 16 MiB. Memory is allocated for received bytes only.
    pub request: usize,
    /// The maximum length of a response, in bytes: 16 MiB. A request whose copied commands and errors might exceed it
    /// is refused as a whole; an answer that would exceed it is replaced by an error.
    pub response: usize,
    /// The maximum number of commands in a request: 1024.
    pub commands: usize,
    /// The maximum number of queued events of a client: 256. For one more, the oldest is dropped and counted.
    pub events: usize,
    /// The maximum time that all commands of a request together wait for events: 30 seconds.
    pub wait: Duration,
    /// The order of a request's counts and sizes. A response has the order of its request.
    pub order: Order,
    /// Whether requests in the other order are accepted as well.
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
