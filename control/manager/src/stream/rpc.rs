//! The assignment of responses to requests.

use crate::messages::Rpc;
use std::{collections::HashMap, num::NonZeroU64};

/// The kind of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request, to be answered with this number.
    Request(NonZeroU64),
    /// The response to the request with this number.
    Response(NonZeroU64),
    /// Neither.
    Notice,
}

impl Kind {
    /// Returns the kind of a message with these numbers. A message with both is a response.
    #[must_use]
    pub fn of(rpc: Option<&Rpc>) -> Self {
        let Some(rpc) = rpc else { return Self::Notice };
        match (NonZeroU64::new(rpc.response_to), NonZeroU64::new(rpc.msg_id)) {
            (Some(id), _) => Self::Response(id),
            (None, Some(id)) => Self::Request(id),
            (None, None) => Self::Notice,
        }
    }

    /// Returns the numbers for a message of this kind; `None` for a notice, because some receivers drop a message in
    /// which both numbers are present and 0.
    #[must_use]
    pub fn rpc(self) -> Option<Rpc> {
        match self {
            Self::Request(id) => Some(Rpc { msg_id: id.get(), response_to: 0 }),
            Self::Response(id) => Some(Rpc { msg_id: 0, response_to: id.get() }),
            Self::Notice => None,
        }
    }
}

/// The waiting requests of this side, each with a `T`.
#[derive(Debug)]
pub struct Calls<T> {
    last: u64,
    waiting: HashMap<NonZeroU64, T>,
}

impl<T> Calls<T> {
    /// Creates an empty list. The first number will be 1.
    #[must_use]
    pub fn new() -> Self {
        Self { last: 0, waiting: HashMap::new() }
    }

    /// Adds a request, and returns its number, which no other waiting request has.
    pub fn begin(&mut self, waiter: T) -> NonZeroU64 {
        loop {
            self.last = self.last.wrapping_add(1);
            let Some(id) = NonZeroU64::new(self.last) else { continue };
            if let std::collections::hash_map::Entry::Vacant(place) = self.waiting.entry(id) {
                place.insert(waiter);
                return id;
            }
        }
    }

    /// Removes the request with that number, because its response has arrived or is no longer waited for. Returns
    /// `None` if there is no such request: the response is late, a duplicate, or unsolicited.
    pub fn end(&mut self, id: NonZeroU64) -> Option<T> {
        self.waiting.remove(&id)
    }

    /// Removes all requests.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Returns whether a request waits.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self::new()
    }
}
