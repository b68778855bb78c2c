//! What an entry of the engine needs of what is around it.

use std::{sync::Arc, time::Duration};

use mio::Registry;
use wg_embed_netstack::{Netstack, Notify, dns::Family};

pub(crate) struct Surroundings<'a> {
    pub(crate) stack: &'a Netstack,
    pub(crate) registry: &'a Registry,
    pub(crate) family: Family,
    /// How long a connection to a target may take to be made.
    pub(crate) timeout: Duration,
    /// The entry's token.
    pub(crate) token: usize,
    /// Tells the engine that the entry can go on.
    pub(crate) notify: Arc<dyn Notify>,
}
