//! Resolves names: in the tunnel, or by the system if that is enabled and the stack has no DNS servers.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, ErrorKind},
    net::IpAddr,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use wg_embed::{
    device::resolve_with_system,
    sync::lock,
    thread::{self, Owner},
};
use wg_embed_netstack::{Notify, dns, dns::Family};

use crate::engine::Surroundings;

/// The maximum number of concurrent look-ups by the system in the whole process: each blocks a thread for an unlimited
/// time.
const MAX_THREADS: usize = 32;
/// The maximum number of names that wait for one of these threads.
const MAX_QUEUE: usize = 1024;
/// The maximum number of both for one client: the rest is for others.
const SHARE_OF_THREADS: usize = MAX_THREADS / 2;
const SHARE_OF_QUEUE: usize = MAX_QUEUE / 2;
/// The number of cached names from which old ones are removed.
const MAX_KNOWN: usize = 4096;
/// How long a result of the system is cached, since its TTL is unknown.
const KNOWN: Duration = Duration::from_secs(30);
/// How long a missing result is cached.
const UNKNOWN: Duration = Duration::from_secs(1);

/// The system's results, for all proxies of the process.
static SYSTEM: Names = Names::new(|name| resolve_with_system(name).map_err(|e| e.to_string()));

type Found = Result<Vec<IpAddr>, String>;

/// A look-up in progress. Dropping it cancels it.
pub(crate) enum Lookup {
    Tunnel(dns::Lookup),
    System(Arc<Asked>, Order),
}

/// A query to the system, shared by all look-ups of the same name.
#[derive(Default)]
pub(crate) struct Asked(Mutex<Answer>);

#[derive(Default)]
struct Answer {
    found: Option<Found>,
    notify: Vec<Arc<dyn Notify>>,
}

/// Names that are resolved by threads, and their results.
struct Names {
    resolve: fn(&str) -> Found,
    state: Mutex<State>,
}

struct State {
    threads: usize,
    names: BTreeMap<String, Name>,
    /// The clients with names that wait or are being resolved.
    askers: BTreeMap<Asker, Share>,
    /// The clients with waiting names, in the order of their turns.
    turns: VecDeque<Asker>,
    /// The number of names that no thread has taken yet.
    queued: usize,
}

/// The address of the client that needs a name; `None` is a service itself, or a client on a Unix socket.
type Asker = Option<IpAddr>;

/// The threads and the part of the queue that one client uses.
#[derive(Default)]
struct Share {
    threads: usize,
    queue: VecDeque<String>,
}

enum Name {
    /// It waits for a thread, on behalf of the holders of the query, if there are any.
    Asked(Weak<Asked>),
    /// A thread is resolving it.
    Running(Weak<Asked>),
    /// The result, valid until this time.
    Known(Instant, Found),
}

/// The usable addresses, and their order.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    family: Family,
    v4: bool,
    v6: bool,
}

impl Lookup {
    /// Starts to resolve a name for a client. An address in text form is returned unchanged.
    pub(crate) fn start(name: &str, client: Asker, around: &Surroundings<'_>) -> io::Result<Self> {
        if name.parse::<IpAddr>().is_ok() || !Self::is_by_system(around) {
            return around.stack().start_resolve(name, around.family(), around.limits.dial).map(Self::Tunnel);
        }
        let own = around.stack().options().addresses;
        let order =
            Order { family: around.family(), v4: own.iter().any(IpAddr::is_ipv4), v6: own.iter().any(IpAddr::is_ipv6) };
        SYSTEM.ask(name, client).map(|asked| Self::System(asked, order))
    }

    /// Returns whether names are resolved by the system.
    pub(crate) fn is_by_system(around: &Surroundings<'_>) -> bool {
        around.system_names() && around.stack().options().dns.is_empty()
    }

    /// Returns the addresses, at least one; `WouldBlock` until they are known.
    pub(crate) fn try_finish(&self) -> io::Result<Vec<IpAddr>> {
        match self {
            Self::Tunnel(lookup) => lookup.try_finish(),
            Self::System(asked, order) => match &lock(&asked.0).found {
                None => Err(ErrorKind::WouldBlock.into()),
                Some(Ok(found)) => order.apply(found),
                Some(Err(reason)) => Err(io::Error::new(ErrorKind::NotFound, reason.clone())),
            },
        }
    }

    /// Sets the notifier, which is called once there is a result: immediately if there already is one.
    pub(crate) fn set_notify(&self, notify: Arc<dyn Notify>) {
        match self {
            Self::Tunnel(lookup) => lookup.set_notify(Some(notify)),
            Self::System(asked, _) => {
                let mut state = lock(&asked.0);
                if state.found.is_none() {
                    state.notify.push(notify);
                    return;
                }
                drop(state);
                notify.notify();
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// Adds a result of the system for an hour.
    pub(crate) fn know(name: &str, addresses: &[IpAddr]) {
        let known = Name::Known(Instant::now() + Duration::from_secs(3600), Ok(addresses.to_vec()));
        lock(&SYSTEM.state).names.insert(name.into(), known);
    }
}

impl Order {
    fn apply(self, found: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
        let (v4, v6) = match self.family {
            Family::Ipv4 => (self.v4, false),
            Family::Ipv6 => (false, self.v6),
            Family::Any | Family::PreferIpv4 | Family::PreferIpv6 => (self.v4, self.v6),
        };
        let usable = found.iter().map(IpAddr::to_canonical).filter(|ip| if ip.is_ipv4() { v4 } else { v6 });
        let mut usable: Vec<_> = usable.collect();
        let v4_first = matches!(self.family, Family::PreferIpv4 | Family::Ipv4);
        usable.sort_by_key(|ip| ip.is_ipv4() != v4_first);
        if usable.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(usable) }
    }
}

impl Names {
    const fn new(resolve: fn(&str) -> Found) -> Self {
        let state =
            State { threads: 0, names: BTreeMap::new(), askers: BTreeMap::new(), turns: VecDeque::new(), queued: 0 };
        Self { resolve, state: Mutex::new(state) }
    }

    fn ask(&'static self, name: &str, asker: Asker) -> io::Result<Arc<Asked>> {
        let name = name.to_ascii_lowercase();
        let mut state = lock(&self.state);
        let shared = match state.names.get(&name) {
            Some(Name::Known(until, found)) if *until > Instant::now() => {
                let answer = Answer { found: Some(found.clone()), ..Answer::default() };
                return Ok(Arc::new(Asked(Mutex::new(answer))));
            }
            Some(Name::Running(asked)) => {
                if let Some(asked) = asked.upgrade() {
                    return Ok(asked);
                }
                None
            }
            // It may be this client's turn first.
            Some(Name::Asked(asked)) => asked.upgrade(),
            Some(Name::Known(..)) | None => None,
        };
        let has_place = state.askers.get(&asker).is_none_or(|share| share.queue.len() < SHARE_OF_QUEUE);
        if state.queued >= MAX_QUEUE || !has_place {
            let full = || io::Error::new(ErrorKind::TimedOut, "other names are being looked up");
            return shared.ok_or_else(full);
        }
        if state.names.len() >= MAX_KNOWN {
            state.names.retain(|_, name| match name {
                Name::Asked(asked) | Name::Running(asked) => asked.strong_count() > 0,
                Name::Known(..) => false,
            });
        }
        let asked = shared.unwrap_or_default();
        state.names.insert(name.clone(), Name::Asked(Arc::downgrade(&asked)));
        state.push(asker, name);
        let may_run = state.askers.get(&asker).is_some_and(|share| share.threads < SHARE_OF_THREADS);
        if may_run && state.threads < MAX_THREADS {
            match thread::spawn("wg-proxy-name", Owner::unique(), || self.work()) {
                Ok(_) => state.threads += 1,
                // Existing threads continue.
                Err(error) if state.threads > 0 => tracing::debug!(%error, "names are looked up by fewer threads"),
                Err(error) => {
                    state.clear();
                    return Err(error);
                }
            }
        }
        Ok(asked)
    }

    /// Resolves names until none is waiting that may be resolved now.
    fn work(&self) {
        let mut done = None;
        loop {
            let next = {
                let mut state = lock(&self.state);
                if let Some(asker) = done.take() {
                    state.give_back(asker);
                }
                let next = state.next();
                state.threads -= usize::from(next.is_none());
                next
            };
            let Some((asker, name)) = next else { return };
            let found = (self.resolve)(&name);
            done = Some(asker);
            let until = Instant::now() + if found.is_ok() { KNOWN } else { UNKNOWN };
            let before = lock(&self.state).names.insert(name, Name::Known(until, found.clone()));
            if let Some(Name::Running(asked)) = before
                && let Some(asked) = asked.upgrade()
            {
                let waiting = {
                    let mut answer = lock(&asked.0);
                    answer.found = Some(found);
                    std::mem::take(&mut answer.notify)
                };
                for notify in waiting {
                    notify.notify();
                }
            }
        }
    }
}

impl State {
    fn push(&mut self, asker: Asker, name: String) {
        let share = self.askers.entry(asker).or_default();
        if share.queue.is_empty() {
            self.turns.push_back(asker);
        }
        share.queue.push_back(name);
        self.queued += 1;
    }

    /// Takes the next name. Clients take turns; one that uses all threads of its share is skipped.
    fn next(&mut self) -> Option<(Asker, String)> {
        for _ in 0..self.turns.len() {
            let asker = self.turns.pop_front()?;
            let Some(share) = self.askers.get_mut(&asker) else { continue };
            while share.threads < SHARE_OF_THREADS
                && let Some(name) = share.queue.pop_front()
            {
                self.queued -= 1;
                match self.names.get_mut(&name) {
                    Some(state @ Name::Asked(_)) => {
                        if let Name::Asked(asked) = state
                            && asked.strong_count() > 0
                        {
                            *state = Name::Running(std::mem::take(asked));
                            share.threads += 1;
                            if !share.queue.is_empty() {
                                self.turns.push_back(asker);
                            }
                            return Some((asker, name));
                        }
                        // All of them have given up.
                        self.names.remove(&name);
                    }
                    // It was in another queue, too.
                    Some(Name::Running(_) | Name::Known(..)) | None => {}
                }
            }
            if !share.queue.is_empty() {
                self.turns.push_back(asker);
            } else if share.threads == 0 {
                self.askers.remove(&asker);
            }
        }
        None
    }

    /// Ends the look-up of a name of this client.
    fn give_back(&mut self, asker: Asker) {
        if let Some(share) = self.askers.get_mut(&asker) {
            share.threads -= 1;
            if share.threads == 0 && share.queue.is_empty() {
                self.askers.remove(&asker);
            }
        }
    }

    /// Removes all waiting names.
    fn clear(&mut self) {
        self.turns.clear();
        self.queued = 0;
        self.askers.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn names_wait_for_a_thread_and_are_asked_for_once() {
        /// Held while no name is to have an answer.
        static GATE: Mutex<()> = Mutex::new(());
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        static NAMES: Names = Names::new(|name| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            drop(lock(&GATE));
            if name == "none" { Err("no such name".into()) } else { Ok(vec![[192, 0, 2, 1].into()]) }
        });
        let gate = lock(&GATE);
        let ask = |name: &str| NAMES.ask(name, None).unwrap_or_else(|e| unreachable!("{name}: {e}"));
        let slow: Vec<_> = (0..SHARE_OF_THREADS).map(|n| ask(&format!("slow{n}"))).collect();
        let others = ["other", "Other", "none"].map(ask);
        assert!(Arc::ptr_eq(&others[0], &others[1]), "the same question");
        drop(ask("given.up"));
        let (tell, told) = std::sync::mpsc::channel();
        for _ in 0..2 {
            struct Tell(std::sync::mpsc::Sender<()>);
            impl Notify for Tell {
                fn notify(&self) {
                    let _ = self.0.send(());
                }
            }
            let order = Order { family: Family::Any, v4: true, v6: true };
            let lookup = Lookup::System(others[0].clone(), order);
            assert_eq!(lookup.try_finish().map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
            lookup.set_notify(Arc::new(Tell(tell.clone())));
        }
        drop(gate);
        assert!(told.recv().is_ok() && told.recv().is_ok());
        while slow.iter().chain(&others).any(|asked| lock(&asked.0).found.is_none()) {
            std::thread::yield_now();
        }
        assert!(lock(&others[2].0).found.as_ref().is_some_and(Result::is_err));
        assert!(lock(&ask("other").0).found.is_some(), "it is known");
        assert_eq!(CALLS.load(Ordering::Relaxed), SHARE_OF_THREADS + 2);
    }

    #[test]
    fn one_client_leaves_threads_and_places_to_others() {
        /// Held while slow names are to have no answer.
        static GATE: Mutex<()> = Mutex::new(());
        static NAMES: Names = Names::new(|name| {
            if name.starts_with("slow") {
                drop(lock(&GATE));
            }
            Ok(vec![[192, 0, 2, 1].into()])
        });
        let gate = lock(&GATE);
        let [greedy, other]: [Asker; 2] = [1, 2].map(|n| Some([192, 0, 2, n].into()));
        let slow: Vec<_> = (0..MAX_QUEUE * 2).map_while(|n| NAMES.ask(&format!("slow{n}"), greedy).ok()).collect();
        assert!(slow.len() >= SHARE_OF_QUEUE && slow.len() <= SHARE_OF_QUEUE + SHARE_OF_THREADS, "{}", slow.len());
        let quick = NAMES.ask("quick", other).unwrap_or_else(|e| unreachable!("{e}"));
        // One that waits in the first one's queue has its turn in that of the other one.
        let last = NAMES.ask(&format!("slow{}", slow.len() - 1), other);
        assert!(last.is_ok_and(|last| slow.last().is_some_and(|slow| Arc::ptr_eq(&last, slow))));
        while lock(&quick.0).found.is_none() {
            std::thread::yield_now();
        }
        drop(gate);
        while slow.iter().any(|asked| lock(&asked.0).found.is_none()) {
            std::thread::yield_now();
        }
        while lock(&NAMES.state).threads > 0 {
            std::thread::yield_now();
        }
        let state = lock(&NAMES.state);
        assert!(state.askers.is_empty() && state.turns.is_empty() && state.queued == 0);
    }

    #[test]
    fn families_in_their_order() {
        let [v4, v6]: [IpAddr; 2] = [[192, 0, 2, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
        let order =
            |family, has_v4, has_v6| Order { family, v4: has_v4, v6: has_v6 }.apply(&[v4, v6]).map_err(|e| e.kind());
        assert_eq!(order(Family::PreferIpv4, true, true), Ok(vec![v4, v6]));
        assert_eq!(order(Family::PreferIpv6, true, true), Ok(vec![v6, v4]));
        assert_eq!(order(Family::Any, true, false), Ok(vec![v4]));
        assert_eq!(order(Family::Ipv6, true, false), Err(ErrorKind::NotFound));
    }
}
