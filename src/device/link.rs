//! The requested and the actual state of the interface and its sockets, without I/O; `sockets.rs` carries out changes.

use std::time::Duration;

use super::{backoff::Backoff, events::Event};
use crate::time::Instant;

/// The delay before sockets that cannot be opened are first retried (wireguard-apple's interval); it doubles each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The maximum delay: a user would hardly wait for longer.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// The configured port, which is never replaced.
    Fixed(u16),
    /// The port that the system chose last, or 0. It may be replaced by another.
    Chosen(u16),
}

impl Port {
    /// Returns the port of a configuration; 0 lets the system choose.
    pub(super) const fn named(port: u16) -> Self {
        match port {
            0 => Self::Chosen(0),
            port => Self::Fixed(port),
        }
    }

    pub(super) const fn number(self) -> u16 {
        match self {
            Self::Fixed(port) | Self::Chosen(port) => port,
        }
    }

    /// Returns the same kind of port, after sockets were opened on this one.
    const fn opened(self, port: u16) -> Self {
        match self {
            Self::Fixed(_) => Self::Fixed(port),
            Self::Chosen(_) => Self::Chosen(port),
        }
    }
}

impl Default for Port {
    fn default() -> Self {
        Self::named(0)
    }
}

/// A pending attempt to open sockets.
#[derive(Clone, Debug)]
struct Retry {
    backoff: Backoff,
    at: Instant,
}

/// The state of an interface. Whether it is up follows from the requested state, and is changed by one
/// [`Transition`](super::sockets::Transition) at a time.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Whether the app, or the TUN, requests it to be up.
    wanted: bool,
    /// Whether the requested state has changed, which is left to the timers.
    to_settle: bool,
    paused: bool,
    /// Whether the sockets are open, and the peers' timers run.
    up: bool,
    port: Port,
    retry: Option<Retry>,
    /// Whether new sockets were requested, which is left to the timers.
    renewal: bool,
    /// The error of receiving, until the timers have handled it.
    loss: Option<String>,
    /// The handling of the last such loss.
    last_loss: Option<Retry>,
    /// Whether another port was requested instead of a dead one, which is left to the timers.
    moves: bool,
    /// Whether the last event about the sockets was `SocketsLost`.
    lost: bool,
}

impl Link {
    pub(super) const fn is_up(&self) -> bool {
        self.up
    }

    /// Returns whether it should be up: requested, and not paused.
    pub(super) const fn should_be_up(&self) -> bool {
        self.wanted && !self.paused
    }

    pub(super) const fn port(&self) -> Port {
        self.port
    }

    /// Sets the requested state, which also applies after a pause. Returns the previous one.
    pub(super) const fn want(&mut self, up: bool) -> bool {
        std::mem::replace(&mut self.wanted, up)
    }

    /// Sets the requested state for callers that cannot wait for a change of the sockets: the timers carry it out.
    pub(super) const fn want_soon(&mut self, up: bool) {
        (self.wanted, self.to_settle) = (up, true);
    }

    /// Restores the previously requested state, unless it has been changed since.
    pub(super) const fn want_again(&mut self, up: bool) {
        if !self.to_settle {
            self.wanted = up;
        }
    }

    /// Returns whether the timers must bring it up or take it down now.
    pub(super) const fn take_settling(&mut self) -> bool {
        std::mem::replace(&mut self.to_settle, false)
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) const fn pause(&mut self) {
        self.paused = true;
    }

    pub(super) const fn resume(&mut self) {
        self.paused = false;
    }

    /// Sets the port, while no open socket would have to move. A configured port is never replaced.
    pub(super) const fn set_port(&mut self, port: Port) {
        (self.port, self.moves) = (port, false);
    }

    /// Reports that new sockets are open on `port`, which was requested as `wanted`. Returns an event to report.
    pub(super) fn opened(&mut self, wanted: Port, port: u16) -> Option<Event> {
        self.port = wanted.opened(port);
        (self.up, self.retry, self.moves) = (true, None, false);
        let has_moved = matches!(wanted, Port::Chosen(1..)) && wanted.number() != port;
        (std::mem::take(&mut self.lost) || has_moved).then_some(Event::SocketsRecovered(port))
    }

    /// Reports unanswered handshakes: requests another port if this one may be dead and the system chose it. Returns
    /// whether that is pending.
    pub(super) const fn move_soon(&mut self, may_be_dead: bool) -> bool {
        self.moves |= may_be_dead && self.up && matches!(self.port, Port::Chosen(1..));
        self.moves
    }

    /// Returns whether the timers must change the port now.
    pub(super) const fn take_move(&mut self) -> bool {
        std::mem::replace(&mut self.moves, false)
    }

    /// Reports that sockets could not be opened, and schedules a retry. Returns an event to report: once, however often
    /// it fails.
    pub(super) fn failed(&mut self, reason: &str, now: Instant) -> Option<Event> {
        let mut backoff = self.retry.take().map_or(Backoff::new(FIRST_RETRY, LAST_RETRY), |retry| retry.backoff);
        let at = now + backoff.failed();
        self.retry = Some(Retry { backoff, at });
        (!std::mem::replace(&mut self.lost, true)).then(|| Event::SocketsLost(reason.into()))
    }

    /// Reports that the open sockets can no longer receive. Returns false if that changes nothing: they are closed, or
    /// new ones are due anyway.
    pub(super) fn lose(&mut self, reason: &str) -> bool {
        if !self.up {
            return false;
        }
        // Also while new ones are being opened, since these may be the lost ones.
        let known = self.loss.replace(reason.into()).is_some() || self.retry.is_some();
        !known
    }

    /// Makes the timers open new sockets instead of lost ones, with a delay that grows if they are soon lost again.
    /// Returns an event to report.
    pub(super) fn take_loss(&mut self, now: Instant) -> Option<Event> {
        let reason = self.loss.take()?;
        if self.retry.is_none() {
            let last = self.last_loss.take().filter(|last| now.since(last.at) < LAST_RETRY);
            let mut backoff = last.map_or(Backoff::new(FIRST_RETRY, LAST_RETRY), |last| last.backoff);
            let at = now + backoff.failed();
            self.retry = Some(Retry { backoff, at });
            self.last_loss.clone_from(&self.retry);
        }
        (!std::mem::replace(&mut self.lost, true)).then_some(Event::SocketsLost(reason))
    }

    /// Takes it down and cancels retries. Returns whether it was up.
    pub(super) fn closed(&mut self) -> bool {
        (self.retry, self.renewal, self.loss, self.moves) = (None, false, None, false);
        std::mem::replace(&mut self.up, false)
    }

    /// Requests new sockets, unless none should be open.
    pub(super) const fn renew_soon(&mut self) {
        self.renewal = self.should_be_up();
    }

    /// Returns the time at which the timers must handle the sockets.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        if self.to_settle || self.renewal || self.moves || self.loss.is_some() {
            Some(now)
        } else {
            self.retry.as_ref().map(|retry| retry.at)
        }
    }

    /// Returns whether the timers must open sockets now, also for the first time. Pending requests then count as done.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        std::mem::take(&mut self.renewal) || self.retry.as_ref().is_some_and(|retry| retry.at <= now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

    fn up(port: Port) -> Link {
        let mut link = Link::default();
        link.want(true);
        link.set_port(port);
        link.opened(port, 7);
        link
    }

    #[test]
    fn a_wish_survives_what_becomes_of_it() {
        assert_eq!((Port::named(0), Port::named(7)), (Port::Chosen(0), Port::Fixed(7)));
        assert_eq!((up(Port::Chosen(0)).port(), up(Port::Fixed(7)).port()), (Port::Chosen(7), Port::Fixed(7)));
    }

    #[test]
    fn a_wish_that_could_not_wait_is_not_undone() {
        let mut link = Link::default();
        let before = link.want(true);
        link.want_soon(true);
        assert_eq!(link.next_try(NOW), Some(NOW));
        link.want_again(before);
        assert!(link.should_be_up() && link.take_settling() && !link.take_settling());
        link.want_again(false);
        assert!(!link.should_be_up());
    }

    #[test]
    fn what_fails_is_tried_again_and_told_once() {
        let mut link = up(Port::Fixed(7));
        assert!(matches!(link.failed("x", NOW), Some(Event::SocketsLost(reason)) if reason == "x"));
        let first = NOW + FIRST_RETRY;
        assert_eq!((link.next_try(NOW), link.take_due(NOW), link.take_due(first)), (Some(first), false, true));
        assert_eq!((link.failed("x", first), link.next_try(first)), (None, Some(first + 2 * FIRST_RETRY)));
        assert_eq!((link.opened(Port::Fixed(7), 7), link.next_try(NOW)), (Some(Event::SocketsRecovered(7)), None));
        assert_eq!(link.opened(Port::Fixed(7), 7), None, "nothing was wrong");
    }

    #[test]
    fn a_dead_port_is_left_once_and_only_if_the_system_chose_it() {
        let mut link = up(Port::Chosen(0));
        assert!(!link.move_soon(false), "nothing has changed");
        assert!(link.move_soon(true) && link.move_soon(false), "it is under way");
        assert_eq!((link.next_try(NOW), link.take_move(), link.take_move()), (Some(NOW), true, false));
        assert_eq!(link.opened(Port::Chosen(7), 8), Some(Event::SocketsRecovered(8)));
        assert!(!link.move_soon(false), "once");
        assert!(!up(Port::Fixed(7)).move_soon(true));
        // Named by then, it is not left.
        assert!(link.move_soon(true));
        link.set_port(Port::Fixed(8));
        assert!(!link.take_move() && !link.move_soon(true));
    }

    #[test]
    fn what_was_told_lost_is_told_recovered_also_after_a_pause() {
        let mut link = up(Port::Fixed(7));
        assert!(link.failed("x", NOW).is_some());
        link.pause();
        assert!(link.closed() && !link.should_be_up());
        assert_eq!(link.next_try(NOW), None);
        link.resume();
        assert!(link.should_be_up() && !link.is_up());
        assert_eq!(link.opened(Port::Fixed(7), 7), Some(Event::SocketsRecovered(7)));
    }

    #[test]
    fn what_is_lost_again_and_again_is_renewed_later_and_later() {
        let mut link = up(Port::Fixed(7));
        let mut now = NOW;
        let mut lose_and_renew = |link: &mut Link, lasted: Duration| {
            now = now + lasted;
            assert!(link.lose("gone"));
            assert_eq!(link.next_try(now), Some(now), "the timers tell it");
            assert!(!link.lose("gone"), "it is known");
            assert!(matches!(link.take_loss(now), Some(Event::SocketsLost(_))));
            assert!(!link.lose("gone") && link.take_loss(now).is_none());
            let at = link.next_try(now).unwrap();
            let waited = at.since(now);
            now = at;
            assert!(link.take_due(at));
            assert_eq!(link.opened(Port::Fixed(7), 7), Some(Event::SocketsRecovered(7)));
            waited
        };
        for (lasted, waited) in [(0, 1), (0, 2), (29, 4), (0, 8), (31, 1), (0, 2)] {
            assert_eq!(lose_and_renew(&mut link, Duration::from_secs(lasted)), waited * FIRST_RETRY);
        }
        link.closed();
        assert!(!link.lose("gone"), "what is closed cannot be lost");
    }

    #[test]
    fn what_is_lost_while_it_is_renewed_is_renewed_again() {
        let mut link = up(Port::Fixed(7));
        link.failed("x", NOW);
        assert!(link.take_due(NOW + FIRST_RETRY));
        link.lose("the new ones");
        link.opened(Port::Fixed(7), 7);
        assert!(link.take_loss(NOW).is_some());
        assert!(link.next_try(NOW).is_some());
    }

    #[test]
    fn new_sockets_are_asked_for_once_and_not_of_what_is_down() {
        let mut link = up(Port::Chosen(0));
        link.renew_soon();
        link.renew_soon();
        assert_eq!((link.next_try(NOW), link.take_due(NOW), link.take_due(NOW)), (Some(NOW), true, false));
        link.pause();
        link.closed();
        link.renew_soon();
        assert_eq!(link.next_try(NOW), None);
    }

    proptest! {
        /// Whatever happens in whatever order: the last wish counts, a pause hides it, and events take turns.
        #[test]
        fn the_last_wish_counts(steps in proptest::collection::vec(0_u8..8, 0..40)) {
            let mut link = Link::default();
            let (mut wanted, mut paused, mut lost) = (false, false, false);
            for step in steps {
                let told = match step {
                    0 | 1 => {
                        wanted = step == 1;
                        link.want(wanted);
                        None
                    }
                    2 => {
                        paused = true;
                        link.pause();
                        None
                    }
                    3 => {
                        paused = false;
                        link.resume();
                        None
                    }
                    4 if link.should_be_up() => link.failed("x", NOW),
                    5 if link.should_be_up() => link.opened(link.port(), 7),
                    6 => {
                        link.lose("x");
                        None
                    }
                    7 => link.take_loss(NOW),
                    _ => None,
                };
                if let Some(event) = told {
                    prop_assert_eq!(lost, matches!(event, Event::SocketsRecovered(7)));
                    lost = !lost;
                }
                if !link.should_be_up() {
                    link.closed();
                }
                prop_assert_eq!(link.should_be_up(), wanted && !paused);
                prop_assert!(!link.is_up() || link.should_be_up());
                prop_assert!(link.next_try(NOW).is_none() || link.should_be_up());
            }
        }
    }
}
