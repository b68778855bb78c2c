//! The timers of section 6 as a table: its input are events, its output the next deadline and actions.
//!
//! It contains exactly the kernel's timers (drivers/net/wireguard/timers.c). The owner reports events with their time,
//! sleeps until [`Timers::next_deadline`], and then calls [`Timers::due`] until it returns `None`.

use std::time::Duration;

use super::REJECT_AFTER_TIME;
use crate::time::Instant;

/// The time after which an unanswered initiation is retried, and the minimum time between our last handshake message,
/// an initiation or a response, and the next initiation (section 6.1).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum random time added to [`REKEY_TIMEOUT`], so that two peers do not keep colliding (section 6.1; a third of
/// a second in the kernel).
pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
/// Determines the number of initiations (section 6.4). The attempts take longer than this: the kernel tries 20 times,
/// and gives up 100 to 112 s after the first.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// The time after which received data is acknowledged by an empty packet, if nothing else is sent (section 6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of retries after the second attempt: 18, so that there are [`ATTEMPTS`] in total.
const MAX_RETRIES: u32 = (REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs()) as u32;
/// The number of initiations after which a peer is given up: 20.
pub(crate) const ATTEMPTS: u8 = MAX_RETRIES as u8 + 2;

/// The time after the last session was made at which keys are wiped.
const WIPE_AFTER: Duration = Duration::from_secs(REJECT_AFTER_TIME.as_secs() * 3);

/// An action that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The initiation was not answered: send another, possibly from another source address.
    RetryHandshake {
        /// The number of this retry, from 1.
        attempt: u32,
    },
    /// It was not answered for too long: drop the staged packets and stop retrying.
    GiveUpHandshake,
    /// There was no reply to sent data: begin a handshake, possibly from another source address.
    RenewHandshake,
    /// Data was received, but none sent: send an empty packet.
    SendKeepalive,
    /// The configured interval has passed without a packet: send an empty packet.
    SendPersistentKeepalive,
    /// Wipe the sessions and the handshake.
    WipeKeys,
}

/// One peer's timers.
#[derive(Debug, Default)]
pub struct Timers {
    retransmit_handshake: Option<Instant>,
    send_keepalive: Option<Instant>,
    new_handshake: Option<Instant>,
    wipe_keys: Option<Instant>,
    persistent_keepalive: Option<Instant>,
    keepalive_interval: u16,
    retries: u32,
    need_another_keepalive: bool,
    sent_lastminute_handshake: bool,
    last_handshake_message: Option<Instant>,
    last_received: Option<Instant>,
    running: bool,
}

impl Timers {
    /// Reports that the interface has come up: timers may run from now on.
    pub fn start(&mut self) {
        self.running = true;
    }

    /// Reports that the interface has gone down: every timer stops, and a handshake may begin at once when it is up
    /// again.
    pub fn stop(&mut self) {
        self.reset();
        self.running = false;
    }

    /// Resets the state: every timer stops until the next event, and a handshake may begin at once.
    pub fn reset(&mut self) {
        *self = Self { keepalive_interval: self.keepalive_interval, running: self.running, ..Self::default() };
    }

    /// Returns whether timers run.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running
    }

    fn arm(running: bool, timer: &mut Option<Instant>, at: Instant) {
        if running {
            *timer = Some(at);
        }
    }

    /// Reports that a data message with a packet was sent, at or after `now`: data received since then may be the
    /// reply. `jitter` returns a random time below [`REKEY_TIMEOUT_JITTER`], if one is needed.
    pub fn data_sent(&mut self, now: Instant, jitter: impl FnOnce() -> Duration) {
        if self.new_handshake.is_none() && self.last_received.is_none_or(|last| last <= now) {
            Self::arm(self.running, &mut self.new_handshake, now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter());
        }
    }

    /// Reports that an authentic data message with a packet was received.
    pub fn data_received(&mut self, now: Instant) {
        if self.send_keepalive.is_none() {
            Self::arm(self.running, &mut self.send_keepalive, now + KEEPALIVE_TIMEOUT);
        } else {
            self.need_another_keepalive = true;
        }
    }

    /// Reports that a message of any kind except a cookie reply was sent, at or after `now`. It acknowledges data
    /// received until then.
    pub fn message_sent(&mut self, now: Instant) {
        self.send_keepalive.take_if(|at| *at <= now + KEEPALIVE_TIMEOUT);
        self.message_passed(now);
    }

    /// Reports that an authentic message of any kind except a cookie reply was received.
    pub fn message_received(&mut self, now: Instant) {
        self.new_handshake = None;
        self.last_received = Some(now);
        self.message_passed(now);
    }

    fn message_passed(&mut self, now: Instant) {
        if self.keepalive_interval != 0 {
            let at = now + Duration::from_secs(self.keepalive_interval.into());
            Self::arm(self.running, &mut self.persistent_keepalive, at);
        }
    }

    /// Returns whether enough time has passed since our last handshake message to send an initiation.
    #[must_use]
    pub fn may_initiate(&self, now: Instant) -> bool {
        self.last_handshake_message.is_none_or(|last| now.since(last) >= REKEY_TIMEOUT)
    }

    /// Returns whether an initiation waits for its response, and will be retried without one.
    #[must_use]
    pub const fn is_retrying(&self) -> bool {
        self.retransmit_handshake.is_some()
    }

    /// Reports that a handshake begins for a new reason, not as a retry, so that it gets all its attempts.
    pub fn handshake_wanted(&mut self) {
        self.retries = 0;
    }

    /// Reports that an initiation or a response is about to be sent.
    pub fn handshake_message_sent(&mut self, now: Instant) {
        self.last_handshake_message = Some(now);
    }

    /// Reports that an initiation was sent. `jitter` is random, below [`REKEY_TIMEOUT_JITTER`].
    pub fn initiation_sent(&mut self, now: Instant, jitter: Duration) {
        Self::arm(self.running, &mut self.retransmit_handshake, now + REKEY_TIMEOUT + jitter);
    }

    /// Reports that a session was created: a response was sent or received.
    pub fn session_derived(&mut self, now: Instant) {
        Self::arm(self.running, &mut self.wipe_keys, now + WIPE_AFTER);
    }

    /// Reports that all sessions were wiped early.
    pub fn keys_wiped(&mut self) {
        self.wipe_keys = None;
    }

    /// Reports that a session is confirmed: a response was received, or the first packet on a session for which we had
    /// sent the response.
    pub fn handshake_complete(&mut self) {
        self.retransmit_handshake = None;
        self.retries = 0;
        self.sent_lastminute_handshake = false;
    }

    /// Allows a handshake to begin at once, as earlier ones do not count: they used another key of ours, or went to
    /// another place.
    pub fn handshake_may_begin(&mut self) {
        self.last_handshake_message = None;
    }

    /// Returns whether the receiving side may still request a handshake before this session ends, which it does once.
    pub fn take_lastminute_handshake(&mut self) -> bool {
        !std::mem::replace(&mut self.sent_lastminute_handshake, true)
    }

    /// Returns the seconds between persistent keepalives; 0 if off.
    #[must_use]
    pub const fn keepalive_interval(&self) -> u16 {
        self.keepalive_interval
    }

    /// Sets the interval of persistent keepalives; 0 turns them off. A new interval applies from the next message on;
    /// the current one is not shortened. Returns true if they were off and the interface is up: one must then be sent
    /// now.
    #[must_use]
    pub fn set_keepalive_interval(&mut self, seconds: u16) -> bool {
        if seconds == 0 {
            self.persistent_keepalive = None;
        }
        let was = std::mem::replace(&mut self.keepalive_interval, seconds);
        was == 0 && seconds != 0 && self.running
    }

    /// Returns the time at which [`due`](Self::due) must be called next; `None` if no timer runs.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let timers = [
            self.retransmit_handshake,
            self.send_keepalive,
            self.new_handshake,
            self.wipe_keys,
            self.persistent_keepalive,
        ];
        timers.into_iter().flatten().min()
    }

    /// Returns an action that is due; `None` if there is none. Execute it, report the events that it causes, and call
    /// again.
    #[must_use]
    pub fn due(&mut self, now: Instant) -> Option<Action> {
        let ran_out = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
        // This is first, so that after a long sleep it does not wipe the handshake that another timer has just begun.
        if ran_out(&mut self.wipe_keys) {
            return Some(Action::WipeKeys);
        }
        if ran_out(&mut self.retransmit_handshake) {
            if self.retries > MAX_RETRIES {
                self.send_keepalive = None;
                if self.wipe_keys.is_none() {
                    Self::arm(self.running, &mut self.wipe_keys, now + WIPE_AFTER);
                }
                return Some(Action::GiveUpHandshake);
            }
            self.retries += 1;
            return Some(Action::RetryHandshake { attempt: self.retries });
        }
        if ran_out(&mut self.send_keepalive) {
            // As in the kernel, sending the first one also stops the second: it runs only if nothing can be sent now.
            if std::mem::take(&mut self.need_another_keepalive) {
                Self::arm(self.running, &mut self.send_keepalive, now + KEEPALIVE_TIMEOUT);
            }
            return Some(Action::SendKeepalive);
        }
        if ran_out(&mut self.new_handshake) {
            return Some(Action::RenewHandshake);
        }
        if ran_out(&mut self.persistent_keepalive) {
            // Sending it does the same. But if it cannot be sent, without a session and too soon for a handshake, there
            // must still be a next one.
            self.message_passed(now);
            return Some(Action::SendPersistentKeepalive);
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);
    const JITTER: Duration = Duration::from_millis(123);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn running() -> Timers {
        let mut t = Timers::default();
        t.start();
        t
    }

    /// Nothing happens before `after` has passed, and then this does, at once and once.
    fn assert_next(t: &mut Timers, after: Duration, action: Action) {
        let at = START + after;
        assert_eq!(t.next_deadline(), Some(at));
        assert_eq!(t.due(Instant::from_nanos(at.as_nanos() - 1)), None);
        assert_eq!(t.next_deadline(), Some(at), "asking early changes nothing");
        assert_eq!(t.due(at), Some(action));
    }

    fn assert_idle(t: &mut Timers) {
        assert_eq!(t.next_deadline(), None);
        assert_eq!(t.due(Instant::from_nanos(u64::MAX)), None);
    }

    #[test]
    fn unanswered_data_leads_to_a_handshake_15_s_after_the_first_packet() {
        let mut t = running();
        t.data_sent(START, || JITTER);
        t.data_sent(START + secs(9), || Duration::ZERO);
        assert_next(&mut t, secs(15) + JITTER, Action::RenewHandshake);
        assert_idle(&mut t);
    }

    #[test]
    fn any_message_received_answers_data() {
        let mut t = running();
        t.data_sent(START, || JITTER);
        t.message_received(START + secs(1));
        assert_idle(&mut t);
        t.data_sent(START + secs(2), || Duration::ZERO);
        assert_next(&mut t, secs(17), Action::RenewHandshake);
    }

    /// What is sent is reported when it is on its way; the other thread may have the answer by then.
    #[test]
    fn an_answer_may_be_reported_before_what_it_answers() {
        let mut t = running();
        t.message_received(START + secs(1));
        t.data_received(START + secs(1));
        t.message_sent(START);
        t.data_sent(START, || JITTER);
        assert_next(&mut t, secs(11), Action::SendKeepalive);
        assert_idle(&mut t);
    }

    #[test]
    fn received_data_is_acknowledged_10_s_after_the_first_packet() {
        let mut t = running();
        t.data_received(START);
        assert_next(&mut t, secs(10), Action::SendKeepalive);
        t.message_sent(START + secs(10));
        assert_idle(&mut t);
    }

    #[test]
    fn any_message_sent_acknowledges_data() {
        let mut t = running();
        t.data_received(START);
        t.message_sent(START + secs(9));
        assert_idle(&mut t);
        t.message_received(START);
        assert_idle(&mut t);
    }

    /// The kernel's `timer_need_another_keepalive`. There too sending the keepalive stops the timer that it has set, so
    /// that it counts only if the keepalive cannot be sent.
    #[test]
    fn a_keepalive_that_is_not_sent_is_tried_again_if_there_was_more_data() {
        for sent in [false, true] {
            let mut t = running();
            t.data_received(START);
            t.data_received(START + secs(9));
            assert_next(&mut t, secs(10), Action::SendKeepalive);
            if sent {
                t.message_sent(START + secs(10));
            } else {
                assert_next(&mut t, secs(20), Action::SendKeepalive);
            }
            assert_idle(&mut t);
        }
    }

    #[test]
    fn traffic_of_any_kind_puts_the_persistent_keepalive_off() {
        let mut t = running();
        assert!(t.set_keepalive_interval(25), "the first one is sent at once");
        assert_idle(&mut t);
        t.message_sent(START);
        t.message_received(START + secs(20));
        t.message_sent(START + secs(30));
        assert_next(&mut t, secs(55), Action::SendPersistentKeepalive);
        t.message_sent(START + secs(55));
        assert_next(&mut t, secs(80), Action::SendPersistentKeepalive);
    }

    #[test]
    fn a_persistent_keepalive_that_cannot_be_sent_is_not_the_last() {
        let mut t = running();
        assert!(t.set_keepalive_interval(3));
        // We have answered an initiation, the session is never confirmed, and for 5 s there may be no initiation of
        // ours.
        t.handshake_message_sent(START);
        t.message_sent(START);
        assert_next(&mut t, secs(3), Action::SendPersistentKeepalive);
        assert!(!t.may_initiate(START + secs(3)));
        assert_next(&mut t, secs(6), Action::SendPersistentKeepalive);
        assert!(t.may_initiate(START + secs(6)));
    }

    #[test]
    fn the_keepalive_interval_can_be_changed_and_turned_off() {
        let mut t = Timers::default();
        assert!(!t.set_keepalive_interval(25), "not while the interface is down");
        assert!(!t.set_keepalive_interval(0));
        t.start();
        assert!(t.set_keepalive_interval(25));
        t.message_sent(START);
        assert!(!t.set_keepalive_interval(5), "they were on");
        assert_eq!(t.keepalive_interval(), 5);
        assert_next(&mut t, secs(25), Action::SendPersistentKeepalive);
        assert_next(&mut t, secs(30), Action::SendPersistentKeepalive);
        assert!(!t.set_keepalive_interval(0));
        assert_idle(&mut t);
        t.message_sent(START);
        assert_idle(&mut t);
    }

    #[test]
    fn an_initiation_is_tried_20_times_and_then_given_up() {
        let mut t = running();
        t.data_received(START);
        t.handshake_wanted();
        let (mut now, mut sent) = (START, 0);
        loop {
            assert!(t.may_initiate(now));
            t.initiation_sent(now, JITTER);
            sent += 1;
            // Another packet is put on the wire meanwhile, and no reason to begin anew.
            t.data_received(now);
            now = now + REKEY_TIMEOUT + JITTER;
            match t.due(now) {
                Some(Action::RetryHandshake { attempt }) => assert_eq!(attempt, sent),
                Some(Action::GiveUpHandshake) => break,
                other => unreachable!("{other:?}"),
            }
            while let Some(action) = t.due(now) {
                assert_eq!(action, Action::SendKeepalive);
            }
        }
        assert_eq!(sent, 20);
        assert_eq!(t.next_deadline(), Some(now + secs(540)), "what is left is wiped, and nothing else goes on");
        assert_eq!(t.due(now + secs(540)), Some(Action::WipeKeys));
        assert_idle(&mut t);

        t.handshake_wanted();
        t.initiation_sent(now, JITTER);
        assert_eq!(t.due(now + secs(6)), Some(Action::RetryHandshake { attempt: 1 }), "a new reason, all tries");
    }

    #[test]
    fn giving_up_does_not_put_the_wiping_off() {
        let mut t = running();
        t.session_derived(START);
        let mut now = START + secs(1);
        loop {
            t.initiation_sent(now, Duration::ZERO);
            now = now + REKEY_TIMEOUT;
            if t.due(now) == Some(Action::GiveUpHandshake) {
                break;
            }
        }
        assert_next(&mut t, secs(540), Action::WipeKeys);
        assert_idle(&mut t);
    }

    #[test]
    fn a_complete_handshake_is_not_retried() {
        let mut t = running();
        t.initiation_sent(START, JITTER);
        assert_next(&mut t, secs(5) + JITTER, Action::RetryHandshake { attempt: 1 });
        t.initiation_sent(START + secs(6), JITTER);
        t.handshake_complete();
        assert_idle(&mut t);
        t.initiation_sent(START + secs(12), JITTER);
        assert_next(&mut t, secs(17) + JITTER, Action::RetryHandshake { attempt: 1 });
    }

    #[test]
    fn a_later_initiation_moves_the_retry() {
        let mut t = running();
        t.initiation_sent(START, JITTER);
        t.initiation_sent(START + secs(5), Duration::ZERO);
        assert_next(&mut t, secs(10), Action::RetryHandshake { attempt: 1 });
    }

    #[test]
    fn keys_are_wiped_540_s_after_the_last_session() {
        let mut t = running();
        t.session_derived(START);
        t.session_derived(START + secs(100));
        assert_next(&mut t, secs(640), Action::WipeKeys);
        assert_idle(&mut t);
    }

    #[test]
    fn there_are_5_s_between_a_handshake_message_of_ours_and_an_initiation() {
        let mut t = running();
        let soon = Instant::from_nanos((START + REKEY_TIMEOUT).as_nanos() - 1);
        assert!(t.may_initiate(START));
        t.handshake_message_sent(START);
        assert!(!t.may_initiate(START) && !t.may_initiate(soon));
        assert!(t.may_initiate(START + REKEY_TIMEOUT));
        t.handshake_may_begin();
        assert!(t.may_initiate(START), "the old key's handshakes do not count");
    }

    #[test]
    fn a_receiver_asks_for_a_handshake_once_a_session() {
        let mut t = running();
        assert!(t.take_lastminute_handshake());
        assert!(!t.take_lastminute_handshake());
        t.handshake_complete();
        assert!(t.take_lastminute_handshake());
    }

    #[test]
    fn jitter_is_added_as_it_is() {
        for jitter in [Duration::ZERO, REKEY_TIMEOUT_JITTER - Duration::from_nanos(1)] {
            let mut t = running();
            t.initiation_sent(START, jitter);
            t.data_sent(START, || jitter);
            assert_next(&mut t, secs(5) + jitter, Action::RetryHandshake { attempt: 1 });
            assert_next(&mut t, secs(15) + jitter, Action::RenewHandshake);
            assert!(jitter < REKEY_TIMEOUT_JITTER);
        }
    }

    /// Every timer is set, with a deadline of its own.
    fn all_set() -> Timers {
        let mut t = running();
        assert!(t.set_keepalive_interval(300));
        t.message_sent(START);
        t.data_sent(START, || JITTER);
        t.data_received(START);
        t.initiation_sent(START, JITTER);
        t.session_derived(START);
        t
    }

    #[test]
    fn deadlines_are_met_one_by_one() {
        let mut t = all_set();
        assert_next(&mut t, secs(5) + JITTER, Action::RetryHandshake { attempt: 1 });
        assert_next(&mut t, secs(10), Action::SendKeepalive);
        assert_next(&mut t, secs(15) + JITTER, Action::RenewHandshake);
        assert_next(&mut t, secs(300), Action::SendPersistentKeepalive);
        assert!(!t.set_keepalive_interval(0));
        assert_next(&mut t, secs(540), Action::WipeKeys);
        assert_idle(&mut t);
    }

    #[test]
    fn after_a_long_sleep_old_keys_go_first_and_nothing_is_done_twice() {
        let mut t = all_set();
        let mut done = vec![];
        while let Some(action) = t.due(START + secs(3600)) {
            done.push(action);
        }
        assert_eq!(
            done,
            [
                Action::WipeKeys,
                Action::RetryHandshake { attempt: 1 },
                Action::SendKeepalive,
                Action::RenewHandshake,
                Action::SendPersistentKeepalive,
            ]
        );
        assert_eq!(t.next_deadline(), Some(START + secs(3900)), "not one for each interval that was slept through");
    }

    #[test]
    fn a_reset_stops_everything_until_something_happens() {
        let mut t = all_set();
        t.handshake_message_sent(START);
        t.reset();
        assert!(t.is_running() && t.may_initiate(START));
        assert_idle(&mut t);
        t.message_sent(START);
        assert_next(&mut t, secs(300), Action::SendPersistentKeepalive);
    }

    #[test]
    fn stopping_stops_everything_and_keeps_the_interval() {
        let mut t = all_set();
        assert!(t.take_lastminute_handshake());
        t.stop();
        assert!(!t.is_running());
        assert_idle(&mut t);
        assert_eq!(t.keepalive_interval(), 300);
        assert!(t.may_initiate(START));
        assert!(t.take_lastminute_handshake());
        t.start();
        assert!(t.is_running());
        assert_idle(&mut t);
        t.message_sent(START);
        assert_next(&mut t, secs(300), Action::SendPersistentKeepalive);
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Start,
        Stop,
        DataSent,
        DataReceived,
        MessageSent,
        MessageReceived,
        HandshakeWanted,
        InitiationSent,
        ResponseSent,
        SessionDerived,
        HandshakeComplete,
        HandshakeMayBegin,
        Interval(u16),
        /// Time passes, to the next deadline if that is sooner than so many milliseconds; what is due is done, or only
        /// taken note of.
        Pass {
            ms: u64,
            dutiful: bool,
        },
    }

    fn event() -> impl Strategy<Value = Event> {
        use Event::*;
        prop_oneof![
            1 => prop::sample::select(vec![Start, Stop, HandshakeMayBegin]),
            6 => prop::sample::select(vec![
                DataSent, DataReceived, MessageSent, MessageReceived, HandshakeWanted, InitiationSent, ResponseSent,
                SessionDerived, HandshakeComplete,
            ]),
            1 => prop_oneof![Just(0), 1u16..6, any::<u16>()].prop_map(Interval),
            6 => (prop_oneof![0u64..400, 0u64..30_000, 0u64..1_000_000], any::<bool>())
                .prop_map(|(ms, dutiful)| Pass { ms, dutiful }),
        ]
    }

    fn apply(t: &mut Timers, now: Instant, event: Event) {
        match event {
            Event::Start => t.start(),
            Event::Stop => t.stop(),
            Event::DataSent => t.data_sent(now, || JITTER),
            Event::DataReceived => t.data_received(now),
            Event::MessageSent => t.message_sent(now),
            Event::MessageReceived => t.message_received(now),
            Event::HandshakeWanted => t.handshake_wanted(),
            Event::InitiationSent => t.initiation_sent(now, JITTER),
            Event::ResponseSent => t.handshake_message_sent(now),
            Event::SessionDerived => t.session_derived(now),
            Event::HandshakeComplete => t.handshake_complete(),
            Event::HandshakeMayBegin => t.handshake_may_begin(),
            Event::Interval(seconds) => {
                let _ = t.set_keepalive_interval(seconds);
            }
            Event::Pass { .. } => {}
        }
    }

    proptest! {
        #[test]
        fn whatever_happens(events in prop::collection::vec(event(), 1..120)) {
            let (mut t, mut now) = (Timers::default(), START);
            for event in events {
                apply(&mut t, now, event);
                if !t.is_running() {
                    prop_assert_eq!(t.next_deadline(), None);
                    prop_assert_eq!(t.due(Instant::from_nanos(u64::MAX)), None);
                }
                let Event::Pass { ms, dutiful } = event else { continue };
                let end = now + Duration::from_millis(ms);
                while let Some(at) = t.next_deadline().filter(|at| *at <= end) {
                    now = now.max(at);
                    let action = t.due(now);
                    prop_assert!(action.is_some(), "a deadline has an action");
                    let Some(action) = action.filter(|_| dutiful) else { continue };
                    match action {
                        Action::RetryHandshake { .. } | Action::RenewHandshake if t.may_initiate(now) => {
                            t.message_sent(now);
                            t.initiation_sent(now, JITTER);
                        }
                        Action::SendKeepalive | Action::SendPersistentKeepalive => t.message_sent(now),
                        _ => {}
                    }
                }
                now = end;
                prop_assert_eq!(t.due(now), None);
                prop_assert!(t.next_deadline().is_none_or(|at| at > now));
            }
            t.stop();
            prop_assert_eq!(t.next_deadline(), None);
        }
    }
}
