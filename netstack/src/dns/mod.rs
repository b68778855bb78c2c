//! Names: a stub resolver that asks the configured servers through the tunnel.
//!
//! Both families are asked at once. The servers are asked in turn, for 2 s each and then twice as long, over TCP if an
//! answer does not fit. Answers are kept as long as their TTL allows (a day at most; 15 min if nothing was found);
//! replacing the servers forgets them. `localhost` and addresses in text form are answered without a server. There are
//! no search domains, and names are ASCII.

mod cache;
mod lookup;
mod message;
mod name;
pub(crate) mod network;
mod query;
pub(crate) mod resolver;
mod stack;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use self::{lookup::Looking, resolver::Host};
use crate::{
    Netstack,
    notify::Notify,
    task::{Task, block},
};

/// Which addresses of a name are wanted, and which first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both, as RFC 8305 orders them (IPv6 first), as far as the stack has addresses of the family.
    #[default]
    Any,
    /// IPv4 first, then IPv6, as far as the stack has addresses of the family.
    PreferIpv4,
    /// IPv6 first, then IPv4, as far as the stack has addresses of the family.
    PreferIpv6,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// A name that is being looked up. Dropping it gives up. Any thread may use it.
pub struct Lookup(Arc<Task<Looking<Netstack>>>);

impl Lookup {
    /// Returns the addresses, at least one; `WouldBlock` until they are known. When one family is known and the other
    /// one takes 2 s longer, it is left out.
    ///
    /// # Errors
    /// `NotFound`: there is no such name, or it has no such address. `TimedOut`: no server has answered in time.
    /// `Other`: the servers refused, failed or cannot be reached. `Unsupported`: there are no servers.
    /// `ConnectionAborted`: the stack was closed.
    pub fn try_finish(&self) -> io::Result<Vec<IpAddr>> {
        let looking = self.0.machine();
        if looking.outcome().is_none() {
            self.0.wake(); // The time may be over, and nothing may drive the stack any more.
        }
        looking.outcome().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }
    /// Replaces the notifier, which is called once when the outcome is known: at once if it is known already.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.0.machine().told.set(notify);
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lookup").field(&self.0.machine().outcome()).finish()
    }
}

impl Netstack {
    /// Begins to look `name` up. An address in text form is its own answer.
    ///
    /// # Errors
    /// `InvalidInput`: `name` is neither an address nor a name of a host.
    pub fn start_resolve(&self, name: &str, family: Family, timeout: Duration) -> io::Result<Lookup> {
        Ok(Lookup(Looking::start(self, Host::parse(name)?, family, timeout)))
    }
    /// Looks `name` up and waits.
    ///
    /// # Errors
    /// As [`start_resolve`](Self::start_resolve) and [`Lookup::try_finish`].
    pub fn resolve(&self, name: &str, family: Family, timeout: Duration) -> io::Result<Vec<IpAddr>> {
        let lookup = self.start_resolve(name, family, timeout)?;
        block(timeout, |notify| lookup.set_notify(Some(notify)), || lookup.try_finish())
    }
}

/// Why addresses are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    NotFound,
    TimedOut,
    Refused,
    NoServers,
    Closed,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let (kind, why) = match failure {
            Failure::NotFound => (io::ErrorKind::NotFound, "there is no such name, or it has no such address"),
            Failure::TimedOut => (io::ErrorKind::TimedOut, "no DNS server has answered in time"),
            Failure::Refused => (io::ErrorKind::Other, "the DNS servers refused, failed or cannot be reached"),
            Failure::NoServers => (io::ErrorKind::Unsupported, "there are no DNS servers"),
            Failure::Closed => (io::ErrorKind::ConnectionAborted, "the network was closed"),
        };
        Self::new(kind, why)
    }
}
