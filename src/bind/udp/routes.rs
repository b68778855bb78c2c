//! Hears that the routes may have changed, and has it checked then whether source addresses are still right.
//!
//! A change costs one addition: what was checked before has another number from then on, and is checked again when it is
//! used the next time.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
use crate::bind::fallback::RouteWatch;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::bind::linux::RouteWatch;
use crate::bind::{Endpoint, SourceCheck};
use mio::{Registry, Token, net::UdpSocket};
use std::{
    io,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// After a change nothing is heard for this long: changes seldom come alone.
const QUIET: Duration = Duration::from_millis(100);

/// What tells of changes of the routes.
pub(in crate::bind) trait Watch: Sized {
    /// Rings in a poll as `token` when something has changed, in the network that sockets of the calling thread are in.
    fn new(registry: &Registry, token: Token) -> io::Result<Self>;

    /// Takes in what was told, so that it rings again. Returns whether there was anything.
    fn drain(&self) -> bool;

    /// See [`Bind::check_source`](crate::bind::Bind::check_source).
    fn check_source(&self, socket: &UdpSocket, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck;
}

/// The number of the routes, and who tells when it is to change.
pub(super) struct Routes<W = RouteWatch> {
    number: AtomicU64,
    /// `None` while nothing is open, and where changes cannot be heard of.
    watch: RwLock<Option<W>>,
}

/// Until when nothing is heard. Of the thread that waits.
#[derive(Debug, Default)]
pub(super) struct Quiet(Option<Instant>);

impl<W: Watch> Routes<W> {
    pub(super) fn new() -> Self {
        Self { number: AtomicU64::new(0), watch: RwLock::new(None) }
    }

    /// To be called when sockets were opened, on the thread that has opened them. Where changes cannot be heard of (an app
    /// on Android may not), it is up to the app to say that the network has changed.
    pub(super) fn opened(&self, registry: &Registry, token: Token) {
        match W::new(registry, token) {
            Ok(watch) => *self.watch.write().unwrap_or_else(PoisonError::into_inner) = Some(watch),
            // One that is there still hears: sockets are usually renewed in the same network.
            Err(err) => tracing::debug!(%err, "cannot hear about routes"),
        }
        self.changed();
    }

    /// To be called when sockets were closed.
    pub(super) fn closed(&self) {
        *self.watch.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// To be called when something about the sockets has changed that their routes depend on.
    pub(super) fn changed(&self) {
        self.number.fetch_add(1, Relaxed);
    }

    /// See [`Bind::routes`](crate::bind::Bind::routes).
    pub(super) fn number(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// See [`Bind::check_source`](crate::bind::Bind::check_source).
    pub(super) fn check_source(&self, socket: &UdpSocket, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        let watch = self.watch.read().unwrap_or_else(PoisonError::into_inner);
        watch.as_ref().map_or(was, |watch| watch.check_source(socket, endpoint, was))
    }

    /// To be called before each wait, with its limit. Returns the limit that it must have.
    pub(super) fn before_wait(&self, quiet: &mut Quiet, timeout: Option<Duration>) -> Option<Duration> {
        self.before_wait_at(Instant::now, quiet, timeout)
    }

    /// To be called when it has rung.
    pub(super) fn rang(&self, quiet: &mut Quiet) {
        self.rang_at(Instant::now, quiet);
    }

    fn before_wait_at(
        &self,
        now: impl FnOnce() -> Instant,
        quiet: &mut Quiet,
        timeout: Option<Duration>,
    ) -> Option<Duration> {
        let Some(until) = quiet.0 else {
            return timeout;
        };
        let now = now();
        if now >= until {
            // Also if nothing was told: it is told of some changes before they are made.
            quiet.0 = self.take_change().then_some(now + QUIET);
        }
        quiet.0.map_or(timeout, |until| Some(timeout.map_or(until - now, |timeout| timeout.min(until - now))))
    }

    fn rang_at(&self, now: impl FnOnce() -> Instant, quiet: &mut Quiet) {
        if quiet.0.is_none() {
            self.take_change();
            quiet.0 = Some(now() + QUIET);
        }
    }

    /// The routes may be others now. Returns whether that was told.
    fn take_change(&self) -> bool {
        let told = self.watch.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Watch::drain);
        // After what was told was taken in: what comes from now on rings again.
        self.changed();
        told
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mio::Poll;
    use std::sync::atomic::AtomicBool;

    /// Something has changed.
    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Watch for Flag {
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

    static HAS_DESCRIPTORS: AtomicBool = AtomicBool::new(true);

    /// Has changed, and cannot be opened while there are no descriptors.
    struct Scarce;

    impl Watch for Scarce {
        fn new(_: &Registry, _: Token) -> io::Result<Self> {
            if HAS_DESCRIPTORS.load(Relaxed) { Ok(Self) } else { Err(io::ErrorKind::Other.into()) }
        }

        fn drain(&self) -> bool {
            true
        }

        fn check_source(&self, _: &UdpSocket, _: &Endpoint, was: SourceCheck) -> SourceCheck {
            was
        }
    }

    #[test]
    fn a_watch_stays_if_there_is_no_descriptor_for_a_fresh_one() {
        let (poll, routes) = (Poll::new().unwrap(), Routes::<Scarce>::new());
        routes.opened(poll.registry(), Token(1));
        HAS_DESCRIPTORS.store(false, Relaxed);
        routes.opened(poll.registry(), Token(1));
        assert!(routes.take_change(), "it still hears");
        routes.closed();
        routes.opened(poll.registry(), Token(1));
        assert!(!routes.take_change());
    }

    #[test]
    fn of_many_changes_the_first_and_the_last_count() {
        let routes = Routes::<Flag>::new();
        let poll = Poll::new().unwrap();
        routes.opened(poll.registry(), Token(0));
        let (start, mut quiet) = (Instant::now(), Quiet::default());
        let change = || routes.watch.read().unwrap().as_ref().unwrap().0.store(true, Relaxed);
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
        assert_eq!(routes.number(), number + 3, "a change may be told of before it is made");
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
