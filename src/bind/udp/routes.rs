//! Detects that the routes may have changed, so that source addresses are checked again.
//!
//! A change costs one addition: earlier results then have an outdated number, and each address is checked again at its
//! next use.

use crate::{
    bind::{Endpoint, SourceCheck, driver::Watch, system::RouteWatch},
    error::ErrorKind,
    sync,
};
use mio::{Registry, Token, net::UdpSocket};
use std::{
    io,
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The time after a change during which others are ignored: changes seldom come alone.
const QUIET: Duration = Duration::from_millis(100);

/// The interval at which a watch is retried that failed for lack of descriptors or memory.
const RETRY: Duration = Duration::from_secs(1);

/// The number of the routes, and the watch that changes it.
pub(super) struct Routes<W: Watch = RouteWatch> {
    number: AtomicU64,
    watch: RwLock<WatchState<W>>,
    /// Whether a watch is missing, for the waiting thread.
    is_missing: AtomicBool,
}

/// The watch, or the reason why there is none.
enum WatchState<W: Watch> {
    /// The bind is closed, or changes are not reported on this system.
    Off,
    /// Resources were missing. To be retried, in this network.
    Missing(W::Network),
    On(W),
}

impl<W: Watch> WatchState<W> {
    fn watch(&self) -> Option<&W> {
        match self {
            Self::On(watch) => Some(watch),
            Self::Off | Self::Missing(_) => None,
        }
    }
}

/// The time until which changes are ignored, and the time to retry a missing watch. For the waiting thread.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    until: Option<Instant>,
    retry: Option<Instant>,
}

impl<W: Watch> Routes<W> {
    pub(super) fn new() -> Self {
        Self { number: AtomicU64::new(0), watch: RwLock::new(WatchState::Off), is_missing: AtomicBool::new(false) }
    }

    /// Reports that sockets were opened, on the thread that opened them. If changes are not reported (to an app on
    /// Android), the app must report changes of the network.
    pub(super) fn opened(&self, registry: &Registry, token: Token) {
        let (state, err) = match W::new(registry, token) {
            Ok(watch) => (WatchState::On(watch), None),
            Err(err) if is_short(&err) => (WatchState::Missing(W::network()), Some(err)),
            Err(err) => (WatchState::Off, Some(err)),
        };
        let is_missed = {
            let mut before = self.write();
            let news = matches!((&*before, &state), (WatchState::Off, WatchState::Missing(_)));
            // An existing watch is kept: sockets are usually reopened in the same network.
            if err.is_none() || before.watch().is_none() {
                self.set(&mut before, state);
            }
            news
        };
        match err {
            Some(err) if is_missed => tracing::warn!(%err, "cannot watch routes, trying again"),
            Some(err) => tracing::debug!(%err, "cannot watch routes"),
            None => {}
        }
        self.changed();
    }

    /// Reports that sockets were closed.
    pub(super) fn closed(&self) {
        self.set(&mut self.write(), WatchState::Off);
    }

    /// Sets the state. Nothing is logged under this lock, since that may call a function of the app.
    fn set(&self, state: &mut WatchState<W>, now: WatchState<W>) {
        self.is_missing.store(matches!(now, WatchState::Missing(_)), Relaxed);
        *state = now;
    }

    fn write(&self) -> RwLockWriteGuard<'_, WatchState<W>> {
        sync::write(&self.watch)
    }

    fn read(&self) -> RwLockReadGuard<'_, WatchState<W>> {
        sync::read(&self.watch)
    }

    /// Opens the missing watch, if that is possible now.
    fn open_missing(&self, registry: &Registry, token: Token) {
        let WatchState::Missing(network) = *self.read() else { return };
        // Another thread opened the sockets, in another network with other routes.
        let is_here = network == W::network();
        let opened = if is_here { W::new(registry, token) } else { Err(io::ErrorKind::Unsupported.into()) };
        let (state, err) = match opened {
            Ok(watch) => (WatchState::On(watch), None),
            Err(err) if is_short(&err) => return,
            Err(err) => (WatchState::Off, Some(err)),
        };
        {
            let mut before = self.write();
            if !matches!(*before, WatchState::Missing(same) if same == network) {
                return; // Opened or closed by now.
            }
            self.set(&mut before, state);
        }
        match err {
            Some(err) => tracing::warn!(%err, "cannot watch routes"),
            None => tracing::debug!("watching routes from now on"),
        }
        // Changes until now were not reported.
        self.changed();
    }

    /// Reports a change of the sockets that affects their routes.
    pub(super) fn changed(&self) {
        self.number.fetch_add(1, Relaxed);
    }

    /// See [`Bind::routes`](crate::bind::Bind::routes).
    pub(super) fn number(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// See [`Bind::check_source`](crate::bind::Bind::check_source).
    pub(super) fn check_source(&self, socket: &UdpSocket, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        self.read().watch().map_or(was, |watch| watch.check_source(socket, endpoint, was))
    }

    /// Prepares a wait in the poll of `registry` with this limit. Returns the limit to use.
    pub(super) fn before_wait(
        &self,
        registry: &Registry,
        token: Token,
        quiet: &mut Quiet,
        timeout: Option<Duration>,
    ) -> Option<Duration> {
        let retry = self.retry_at(Instant::now, registry, token, quiet);
        let limit = self.before_wait_at(Instant::now, quiet, timeout);
        retry.map_or(limit, |retry| Some(limit.map_or(retry, |limit| limit.min(retry))))
    }

    /// Retries a missing watch when it is time. Returns the time of the next attempt.
    fn retry_at(
        &self,
        now: impl FnOnce() -> Instant,
        registry: &Registry,
        token: Token,
        quiet: &mut Quiet,
    ) -> Option<Duration> {
        if !self.is_missing.load(Relaxed) {
            return None;
        }
        let now = now();
        if *quiet.retry.get_or_insert(now + RETRY) <= now {
            self.open_missing(registry, token);
            quiet.retry = self.is_missing.load(Relaxed).then_some(now + RETRY);
        }
        quiet.retry.map(|retry| retry - now)
    }

    /// Reports that the watch has woken the poll.
    pub(super) fn rang(&self, quiet: &mut Quiet) {
        self.rang_at(Instant::now, quiet);
    }

    fn before_wait_at(
        &self,
        now: impl FnOnce() -> Instant,
        quiet: &mut Quiet,
        timeout: Option<Duration>,
    ) -> Option<Duration> {
        let Some(until) = quiet.until else {
            return timeout;
        };
        let now = now();
        if now >= until {
            // Also if nothing was reported: some changes are reported before they are made.
            quiet.until = self.take_change().then_some(now + QUIET);
        }
        quiet.until.map_or(timeout, |until| Some(timeout.map_or(until - now, |timeout| timeout.min(until - now))))
    }

    fn rang_at(&self, now: impl FnOnce() -> Instant, quiet: &mut Quiet) {
        if quiet.until.is_none() {
            self.take_change();
            quiet.until = Some(now() + QUIET);
        }
    }

    /// Increments the number. Returns whether a change was reported.
    fn take_change(&self) -> bool {
        let reported = self.read().watch().is_some_and(Watch::drain);
        // After the reports were read: the next one wakes the poll again.
        self.changed();
        reported
    }
}

/// Returns whether an error is temporary, until other resources are released.
fn is_short(err: &io::Error) -> bool {
    ErrorKind::of_io(err) == ErrorKind::Resources
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mio::Poll;
    use std::cell::Cell;

    /// Something has changed.
    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Watch for Flag {
        type Network = ();

        fn network() {}

        fn new(_: &Registry, _: Token) -> io::Result<Self> {
            Ok(Self::default())
        }

        fn drain(&self) -> bool {
            self.0.swap(false, Relaxed)
        }

        fn check_source(&self, _: &UdpSocket, _: &Endpoint, was: SourceCheck) -> SourceCheck {
            was
        }
    }

    thread_local! {
        /// What opening a watch fails with, and the network of this thread.
        static FAILS: Cell<Option<io::ErrorKind>> = const { Cell::new(None) };
        static NETWORK: Cell<u8> = const { Cell::new(0) };
    }

    /// Has changed, and cannot always be opened.
    struct Scarce;

    impl Watch for Scarce {
        type Network = u8;

        fn network() -> u8 {
            NETWORK.get()
        }

        fn new(_: &Registry, _: Token) -> io::Result<Self> {
            FAILS.get().map_or(Ok(Self), |kind| Err(kind.into()))
        }

        fn drain(&self) -> bool {
            true
        }

        fn check_source(&self, _: &UdpSocket, _: &Endpoint, was: SourceCheck) -> SourceCheck {
            was
        }
    }

    #[test]
    fn a_watch_stays_if_there_is_no_descriptor_for_a_new_one() {
        let (poll, routes) = (Poll::new().unwrap(), Routes::<Scarce>::new());
        routes.opened(poll.registry(), Token(1));
        FAILS.set(Some(io::ErrorKind::OutOfMemory));
        routes.opened(poll.registry(), Token(1));
        assert!(routes.take_change(), "it still reports");
        routes.closed();
        routes.opened(poll.registry(), Token(1));
        assert!(!routes.take_change());
    }

    /// Tries again at this number of milliseconds after the start, if it is time. Returns when the next try is due.
    fn wait_at(routes: &Routes<Scarce>, quiet: &mut Quiet, start: Instant, ms: u64) -> Option<Duration> {
        let (poll, now) = (Poll::new().unwrap(), start + Duration::from_millis(ms));
        routes.retry_at(|| now, poll.registry(), Token(1), quiet)
    }

    #[test]
    fn a_watch_that_is_missing_is_opened_as_soon_as_that_can_be_done() {
        let (poll, routes, mut quiet, start) = (Poll::new().unwrap(), Routes::new(), Quiet::default(), Instant::now());
        for _ in 0..2 {
            FAILS.set(Some(io::ErrorKind::OutOfMemory));
            for _ in 0..2 {
                routes.opened(poll.registry(), Token(1));
            }
            quiet = Quiet::default();
            assert_eq!(wait_at(&routes, &mut quiet, start, 0), Some(RETRY));
            assert_eq!(wait_at(&routes, &mut quiet, start, 400), Some(Duration::from_millis(600)));
            let number = routes.number();
            assert_eq!(wait_at(&routes, &mut quiet, start, 1100), Some(RETRY));
            assert_eq!(routes.number(), number);
            FAILS.set(None);
            assert_eq!(wait_at(&routes, &mut quiet, start, 2099), Some(Duration::from_millis(1)));
            assert_eq!(wait_at(&routes, &mut quiet, start, 2100), None);
            assert_eq!(routes.number(), number + 1, "what was not reported may have changed them");
            assert!(routes.take_change());
            routes.closed();
        }
        assert_eq!(wait_at(&routes, &mut quiet, start, 9000), None);
    }

    #[test]
    fn nothing_is_tried_again_that_cannot_help() {
        let (poll, routes, mut quiet, start) = (Poll::new().unwrap(), Routes::new(), Quiet::default(), Instant::now());
        // A system or an app that may not listen.
        for kind in [io::ErrorKind::Unsupported, io::ErrorKind::PermissionDenied] {
            FAILS.set(Some(kind));
            routes.opened(poll.registry(), Token(1));
            assert_eq!(wait_at(&routes, &mut quiet, start, 0), None);
        }
        // What is closed.
        FAILS.set(Some(io::ErrorKind::OutOfMemory));
        routes.opened(poll.registry(), Token(1));
        routes.closed();
        assert_eq!(wait_at(&routes, &mut quiet, start, 0), None);
        // Another network.
        routes.opened(poll.registry(), Token(1));
        FAILS.set(None);
        NETWORK.set(1);
        assert_eq!(wait_at(&routes, &mut quiet, start, 0), Some(RETRY));
        assert_eq!(wait_at(&routes, &mut quiet, start, 1000), None);
        assert!(!routes.take_change());
    }

    #[test]
    fn of_many_changes_the_first_and_the_last_count() {
        let routes = Routes::<Flag>::new();
        let poll = Poll::new().unwrap();
        routes.opened(poll.registry(), Token(0));
        let (start, mut quiet) = (Instant::now(), Quiet::default());
        let change = || routes.read().watch().unwrap().0.store(true, Relaxed);
        let number = routes.number();
        let limit = Duration::from_secs(9);
        assert_eq!(routes.before_wait_at(|| start, &mut quiet, Some(limit)), Some(limit));
        for _ in 0..1000 {
            change();
            routes.rang_at(|| start, &mut quiet);
        }
        assert_eq!(routes.number(), number + 1);
        // The wait is short, so that the last of them is not missed.
        assert_eq!(routes.before_wait_at(|| start, &mut quiet, None), Some(QUIET));
        assert_eq!(routes.before_wait_at(|| start + QUIET, &mut quiet, Some(limit)), Some(QUIET), "more has come");
        assert_eq!(routes.number(), number + 2);
        assert_eq!(routes.before_wait_at(|| start + 2 * QUIET, &mut quiet, Some(limit)), Some(limit));
        assert_eq!(routes.number(), number + 3, "a change may be reported before it is made");
        assert_eq!(routes.before_wait_at(|| start + 9 * QUIET, &mut quiet, None), None, "and then nothing more");
        assert_eq!(routes.number(), number + 3);
    }

    #[test]
    fn other_sockets_have_other_routes() {
        let routes = Routes::<Flag>::new();
        let poll = Poll::new().unwrap();
        let before = routes.number();
        routes.opened(poll.registry(), Token(0));
        let opened = routes.number();
        routes.closed();
        routes.opened(poll.registry(), Token(0));
        assert!(before < opened && opened < routes.number());
    }
}
