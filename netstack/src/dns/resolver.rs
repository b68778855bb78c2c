//! The state shared by look-ups: cached responses, and queries in progress.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use wg_embed::{sync::lock, time::Instant};

use super::{
    Failure, Family,
    cache::Cache,
    message::Kind,
    name::Name,
    network::Network,
    query::{Outcome, Query},
};
use crate::task::{Task, Waker};

/// A stack's stub resolver.
pub(crate) struct Resolver<N: Network>(Arc<Mutex<Table<N>>>);

/// A question: a name, and an address family.
pub(super) type Question = (Name, Kind);

pub(super) struct Table<N: Network> {
    /// The servers that were last used. With others all cached results are invalid.
    servers: Vec<IpAddr>,
    /// The number of changes of the servers.
    generation: u64,
    cache: Cache,
    running: HashMap<Question, Weak<Task<Query<N>>>>,
}

/// A response that is known, or a query in progress.
pub(super) enum Answer<N: Network> {
    Known(Outcome),
    Running(Arc<Task<Query<N>>>),
}

impl<N: Network> Answer<N> {
    /// Returns the result, once there is one.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Known(outcome) => Some(outcome),
            Self::Running(query) => query.machine().outcome(),
        }
    }
}

impl<N: Network> Resolver<N> {
    /// Creates a resolver with an empty cache.
    pub(crate) fn new() -> Self {
        let (servers, cache, running) = (Vec::new(), Cache::default(), HashMap::new());
        Self(Arc::new(Mutex::new(Table { servers, generation: 0, cache, running })))
    }

    /// Returns the number of queries in progress.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        lock(&self.0).running.len()
    }

    /// Resolves `question`. If the result is not yet known, `waker` is woken when it is.
    fn ask(&self, net: &N, question: Question, waker: &Waker) -> Answer<N> {
        let servers = net.servers();
        let (query, new) = {
            let mut guard = lock(&self.0);
            let table = &mut *guard;
            if table.servers != servers {
                table.servers = servers;
                table.generation += 1;
                table.cache = Cache::default();
                table.running.clear();
            }
            if let Some(addresses) = table.cache.get(&question, net.now()) {
                return Answer::Known(Ok(addresses.to_vec()));
            }
            if table.servers.is_empty() {
                return Answer::Known(Err(Failure::NoServers));
            }
            let running = table.running.entry(question);
            match &running {
                Entry::Occupied(query) => query.get().upgrade(),
                Entry::Vacant(_) => None,
            }
            .map_or_else(
                || {
                    let servers = (&table.servers[..], table.generation);
                    let (net, shared, question) = (net.clone(), Arc::clone(&self.0), running.key().clone());
                    let query = Task::new(|waker| Query::new(net, shared, question, servers, waker));
                    running.insert_entry(Arc::downgrade(&query));
                    (query, true)
                },
                |query| (query, false),
            )
        };
        query.machine().join(waker.clone());
        if new {
            query.wake();
        }
        Answer::Running(query)
    }
}

impl<N: Network> Table<N> {
    /// Ends a query that was sent to the servers of a generation.
    pub(super) fn answered(
        &mut self,
        question: &Question,
        generation: u64,
        addresses: Option<&[IpAddr]>,
        now: Instant,
        ttl: Duration,
    ) {
        if generation != self.generation {
            return;
        }
        self.running.remove(question);
        if let Some(addresses) = addresses {
            self.cache.put(question, addresses, now, ttl);
        }
    }

    /// Removes the dropped query of a question.
    pub(super) fn given_up(&mut self, question: &Question) {
        // It may belong to another query by now.
        if self.running.get(question).is_some_and(|query| query.strong_count() == 0) {
            self.running.remove(question);
        }
    }
}

/// The target of a look-up.
pub(crate) enum Host {
    /// An address in text form.
    Address(IpAddr),
    /// Addresses that the caller has found, in its order. The family of the first one is preferred.
    Known(Vec<IpAddr>),
    /// `localhost`, or a name below it.
    Local,
    /// Any other name.
    Name(Name),
}

impl Host {
    /// Reads an address or a name.
    pub(crate) fn parse(text: &str) -> std::io::Result<Self> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = Name::parse(text)?;
        Ok(if name.is_localhost() { Self::Local } else { Self::Name(name) })
    }
}

/// The addresses of a host by family: the preferred family, then the other one, if both are requested.
pub(crate) struct Addresses<N: Network>(Vec<Answer<N>>);

impl<N: Network> Addresses<N> {
    /// Resolves `host`. `waker` is woken when the addresses of another family are known.
    pub(crate) fn look_up(net: &N, host: Host, family: Family, waker: &Waker) -> Self {
        let local = |kind: &Kind| match kind {
            Kind::A => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Kind::Aaaa => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let known = |address| Answer::Known(Ok(vec![address]));
        Self(match host {
            Host::Address(address) => match (family, address) {
                (Family::Ipv4, IpAddr::V6(_)) | (Family::Ipv6, IpAddr::V4(_)) => vec![Answer::Known(Ok(Vec::new()))],
                _ => vec![known(address)],
            },
            Host::Known(all) => {
                let first = all.first().map(IpAddr::is_ipv4);
                let (preferred, other) = all.into_iter().partition(|address| Some(address.is_ipv4()) == first);
                [preferred, other].map(|addresses| Answer::Known(Ok(addresses))).into()
            }
            Host::Local => kinds(net, family).iter().map(|kind| known(local(kind))).collect(),
            Host::Name(name) => kinds(net, family)
                .into_iter()
                .map(|kind| net.resolver().ask(net, (name.clone(), kind), waker))
                .collect(),
        })
    }

    /// Returns the results so far, by family.
    pub(crate) fn outcomes(&self) -> impl ExactSizeIterator<Item = Option<&Outcome>> + Clone {
        self.0.iter().map(Answer::outcome)
    }

    /// Cancels queries in progress.
    pub(crate) fn give_up(&mut self) {
        self.0.clear();
    }

    /// Returns the reason why there is no address, once all results are known. A failure takes precedence over an empty
    /// result: the failed query may have had an address.
    pub(crate) fn failure(&self) -> Failure {
        self.outcomes().flatten().find_map(|outcome| outcome.as_ref().err().copied()).unwrap_or(Failure::NotFound)
    }
}

/// Returns the families to query, in order of preference.
fn kinds(net: &impl Network, family: Family) -> Vec<Kind> {
    let both = match family {
        Family::Any | Family::PreferIpv6 => [Kind::Aaaa, Kind::A],
        Family::PreferIpv4 => [Kind::A, Kind::Aaaa],
        Family::Ipv4 => return vec![Kind::A],
        Family::Ipv6 => return vec![Kind::Aaaa],
    };
    let usable: Vec<Kind> = both.into_iter().filter(|kind| net.has_family(*kind == Kind::Aaaa)).collect();
    if usable.is_empty() { both.to_vec() } else { usable }
}
