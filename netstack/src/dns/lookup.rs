//! A look-up by one caller: the queries for both families together, within the caller's time limit.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use wg_embed::{sync::lock, time::Instant};

use super::{
    Failure, Family,
    network::{Deadline, Network},
    query::Outcome,
    resolver::{Addresses, Host},
};
use crate::task::{Machine, Task, Told, Waker};

/// How much longer than one family the other one may take.
const OTHER_FAMILY: Duration = Duration::from_secs(2);

/// A look-up in progress. Dropping it cancels it.
pub(crate) struct Looking<N: Network> {
    net: N,
    waker: Waker,
    end: Instant,
    state: Mutex<State<N>>,
    outcome: OnceLock<Outcome>,
    /// The notifier of the result.
    pub(super) told: Told,
}

struct State<N: Network> {
    addresses: Addresses<N>,
    /// The time from which the known addresses are sufficient.
    enough: Option<Instant>,
    alarm: Deadline<N>,
}

impl<N: Network> Looking<N> {
    pub(super) fn start(net: &N, host: Host, family: Family, timeout: Duration) -> Arc<Task<Self>> {
        let task = Task::new(|waker| {
            let addresses = Addresses::look_up(net, host, family, &waker);
            let state = Mutex::new(State { addresses, enough: None, alarm: Deadline::new() });
            let (end, net) = (net.now() + timeout, net.clone());
            Self { net, waker, end, state, outcome: OnceLock::new(), told: Told::default() }
        });
        task.wake();
        task
    }

    /// Returns the result, once there is one.
    pub(super) fn outcome(&self) -> Option<io::Result<Vec<IpAddr>>> {
        self.outcome.get().map(|outcome| outcome.clone().map_err(io::Error::from))
    }

    fn go_on(&self, state: &mut State<N>) -> Option<Outcome> {
        let known = state.addresses.outcomes();
        let found: Vec<IpAddr> = known.clone().flatten().flatten().flatten().copied().collect();
        let now = self.net.now();
        if known.clone().all(|outcome| outcome.is_some()) {
            return Some(if found.is_empty() { Err(state.addresses.failure()) } else { Ok(found) });
        }
        let until = if found.is_empty() {
            self.end
        } else {
            *state.enough.get_or_insert_with(|| self.end.min(now + OTHER_FAMILY))
        };
        if now >= until {
            return Some(if found.is_empty() { Err(Failure::TimedOut) } else { Ok(found) });
        }
        state.alarm.set(&self.net, Some(until), &self.waker);
        None
    }
}

impl<N: Network> Machine for Looking<N> {
    fn run(&self) {
        if self.outcome.get().is_some() {
            return;
        }
        let outcome = {
            let mut state = lock(&self.state);
            let outcome = self.go_on(&mut state);
            if outcome.is_some() {
                state.alarm.set(&self.net, None, &self.waker);
                state.addresses.give_up();
            }
            outcome
        };
        if let Some(outcome) = outcome {
            let _first = self.outcome.set(outcome);
            self.told.tell();
        }
    }
}
