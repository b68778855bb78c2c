//! The context of the engine's entries.

use std::{cell::Cell, sync::Arc};

use mio::Registry;
use wg_embed_netstack::{Netstack, Notify, dns::Family};

use super::Serving;
use crate::{
    mailbox::Mailbox,
    service::{Limits, Options},
    stats::{Both, Counters},
};

/// The context that all entries share.
pub(crate) struct Common {
    pub(crate) registry: Registry,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) stack: Netstack,
    pub(crate) options: Options,
    pub(crate) all: Arc<Counters>,
    /// The last token.
    pub(crate) last: Cell<usize>,
}

impl Common {
    /// Returns a token that no entry has had.
    pub(crate) fn token(&self) -> usize {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }

    /// Returns whether all services together have reached their limit of connections.
    pub(crate) fn is_full(&self) -> bool {
        self.all.open() >= self.options.connections
    }

    pub(crate) const fn around<'a>(&'a self, serving: &'a Serving, token: usize) -> Surroundings<'a> {
        Surroundings { common: self, limits: &serving.service.limits, counters: &serving.counters, token }
    }
}

/// The context of one entry.
pub(crate) struct Surroundings<'a> {
    common: &'a Common,
    pub(crate) limits: &'a Limits,
    pub(crate) counters: &'a Both,
    /// The entry's token.
    pub(crate) token: usize,
}

impl Surroundings<'_> {
    pub(crate) const fn stack(&self) -> &Netstack {
        &self.common.stack
    }

    pub(crate) const fn registry(&self) -> &Registry {
        &self.common.registry
    }

    pub(crate) const fn family(&self) -> Family {
        self.common.options.family
    }

    pub(crate) const fn system_names(&self) -> bool {
        self.common.options.system_names
    }

    /// Returns whether all services together have reached their limit of connections.
    pub(crate) fn is_full(&self) -> bool {
        self.common.is_full()
    }

    pub(crate) fn new_token(&self) -> usize {
        self.common.token()
    }

    /// Returns a notifier that reports that this entry can continue.
    pub(crate) fn notify(&self) -> Arc<dyn Notify> {
        self.notify_of(self.token)
    }

    /// Returns the same for another entry.
    pub(crate) fn notify_of(&self, token: usize) -> Arc<dyn Notify> {
        self.common.mailbox.notifier(token)
    }
}
