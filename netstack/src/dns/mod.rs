//! Name resolution: a stub resolver that sends queries to the configured servers through the tunnel.
//!
//! Queries for both families are sent at once. The servers are tried in turn, for 2 s each and then twice as long, over
//! TCP if a response does not fit. Responses are cached for their TTL (at most a day, or 15 min if nothing was found);
//! replacing the servers clears the cache. `localhost` and addresses in text form need no server. There are no search
//! domains, and names are ASCII.

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

/// The requested addresses of a name, and their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both families, in the order of RFC 8305 (IPv6 first), if the stack has addresses of the family.
    #[default]
    Any,
    /// IPv4 first, then IPv6, if the stack has addresses of the family.
    PreferIpv4,
    /// IPv6 first, then IPv4, if the stack has addresses of the family.
    PreferIpv6,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// A look-up in progress. Dropping it cancels it. Any thread may use it.
pub struct Lookup(Arc<Task<Looking<Netstack>>>);

impl Lookup {
    /// Returns the addresses, at least one; `WouldBlock` until they are known. If one family takes 2 s longer than the
    /// other, it is omitted.
    ///
    /// # Errors
    /// `NotFound`: there is no such name, or it has no such address. `TimedOut`: no server has responded in time.
    /// `Other`: the servers refused, failed or cannot be reached. `Unsupported`: there are no servers.
    /// `ConnectionAborted`: the stack was closed.
    pub fn try_finish(&self) -> io::Result<Vec<IpAddr>> {
        let looking = self.0.machine();
        if looking.outcome().is_none() {
            self.0.wake(); // The time may be over, and nothing may drive the stack any more.
        }
        looking.outcome().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }
    /// Replaces the notifier, which is called once there is a result: immediately if there already is one.
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
    /// Starts to resolve `name`. An address in text form is returned unchanged.
    ///
    /// # Errors
    /// `InvalidInput`: `name` is neither an address nor a valid host name.
    pub fn start_resolve(&self, name: &str, family: Family, timeout: Duration) -> io::Result<Lookup> {
        Ok(Lookup(Looking::start(self, Host::parse(name)?, family, timeout)))
    }
    /// Resolves `name` and waits for the result.
    ///
    /// # Errors
    /// As [`start_resolve`](Self::start_resolve) and [`Lookup::try_finish`].
    pub fn resolve(&self, name: &str, family: Family, timeout: Duration) -> io::Result<Vec<IpAddr>> {
        let lookup = self.start_resolve(name, family, timeout)?;
        block(timeout, |notify| lookup.set_notify(Some(notify)), || lookup.try_finish())
    }
}

/// The reason for missing addresses.
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
