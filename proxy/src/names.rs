//! Addresses of names: asked for in the tunnel, or of the system if that is wanted and the stack has no DNS servers.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use wg_embed::{
    device::resolve_with_system,
    sync::lock,
    thread::{self, Owner},
};
use wg_embed_netstack::{Notify, dns, dns::Family};

use crate::engine::Surroundings;

/// The most look-ups of the system at once, in the whole process: each blocks a thread for as long as it likes.
const MAX_THREADS: usize = 32;
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// A name that is being looked up. Dropping it gives up.
pub(crate) enum Lookup {
    Tunnel(dns::Lookup),
    System(Arc<Asked>, Order),
}

/// A question to the system.
#[derive(Default)]
pub(crate) struct Asked(Mutex<State>);

#[derive(Default)]
struct State {
    found: Option<Result<Vec<IpAddr>, String>>,
    notify: Option<Arc<dyn Notify>>,
}

/// Which addresses can be used, and which come first.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    family: Family,
    v4: bool,
    v6: bool,
}

impl Lookup {
    /// Begins to look a name up. An address in text form is its own answer.
    pub(crate) fn start(name: &str, around: &Surroundings<'_>) -> io::Result<Self> {
        if name.parse::<IpAddr>().is_ok() || !Self::is_by_system(around) {
            return around.stack().start_resolve(name, around.family(), around.limits.dial).map(Self::Tunnel);
        }
        let own = around.stack().options().addresses;
        let order =
            Order { family: around.family(), v4: own.iter().any(IpAddr::is_ipv4), v6: own.iter().any(IpAddr::is_ipv6) };
        ask(name).map(|asked| Self::System(asked, order))
    }

    /// Whether names are looked up by the system.
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

    /// Sets who is told once of the outcome: at once if it is known.
    pub(crate) fn set_notify(&self, notify: Arc<dyn Notify>) {
        match self {
            Self::Tunnel(lookup) => lookup.set_notify(Some(notify)),
            Self::System(asked, _) => {
                let mut state = lock(&asked.0);
                if state.found.is_none() {
                    state.notify = Some(notify);
                    return;
                }
                drop(state);
                notify.notify();
            }
        }
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

fn ask(name: &str) -> io::Result<Arc<Asked>> {
    let more = |threads| (threads < MAX_THREADS).then_some(threads + 1);
    if THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
        return Err(io::Error::new(ErrorKind::TimedOut, "other names are being looked up"));
    }
    let asked = Arc::<Asked>::default();
    // Whoever has given up holds it no more: nothing is kept for it.
    let (answer, name) = (Arc::downgrade(&asked), name.to_owned());
    let started = thread::spawn("wg-proxy-name", Owner::unique(), move || {
        let found = resolve_with_system(&name).map_err(|e| e.to_string());
        THREADS.fetch_sub(1, Ordering::Relaxed);
        if let Some(asked) = answer.upgrade() {
            let notify = {
                let mut state = lock(&asked.0);
                state.found = Some(found);
                state.notify.take()
            };
            if let Some(notify) = notify {
                notify.notify();
            }
        }
    });
    match started {
        Ok(_) => Ok(asked),
        Err(error) => {
            THREADS.fetch_sub(1, Ordering::Relaxed);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
