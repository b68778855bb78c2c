//! Which response belongs to which request.

use crate::messages::Rpc;
use std::{collections::HashMap, num::NonZeroU64};

/// What a message that has arrived is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is to be answered with this number.
    Request(NonZeroU64),
    /// It answers the request with this number.
    Response(NonZeroU64),
    /// Neither.
    Notice,
}

impl Kind {
    /// What a message with these numbers is. One with both is a response.
    #[must_use]
    pub fn of(rpc: Option<&Rpc>) -> Self {
        let Some(rpc) = rpc else { return Self::Notice };
        match (NonZeroU64::new(rpc.response_to), NonZeroU64::new(rpc.msg_id)) {
            (Some(id), _) => Self::Response(id),
            (None, Some(id)) => Self::Request(id),
            (None, None) => Self::Notice,
        }
    }

    /// The numbers of such a message. A notice has none at all: where it is present and both are 0, a message is
    /// dropped by some receivers.
    #[must_use]
    pub fn rpc(self) -> Option<Rpc> {
        match self {
            Self::Request(id) => Some(Rpc { msg_id: id.get(), response_to: 0 }),
            Self::Response(id) => Some(Rpc { msg_id: 0, response_to: id.get() }),
            Self::Notice => None,
        }
    }
}

/// Requests of this side that wait for their responses, each with a `T`.
#[derive(Debug)]
pub struct Calls<T> {
    last: u64,
    waiting: HashMap<NonZeroU64, T>,
}

impl<T> Calls<T> {
    /// Without any. The first number will be 1.
    #[must_use]
    pub fn new() -> Self {
        Self { last: 0, waiting: HashMap::new() }
    }

    /// Takes the next number that no waiting request has.
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

    /// Ends the request with that number: because its response is there, or is not waited for any longer. Returns
    /// `None` if there is none: the response is late, a second one, or to something that was never asked.
    pub fn end(&mut self, id: NonZeroU64) -> Option<T> {
        self.waiting.remove(&id)
    }

    /// Ends all requests.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Whether a request waits.
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
