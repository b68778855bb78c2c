//! The timers of section 6, as a table: events in, the next deadline and what to do out.
//!
//! It holds the kernel's timers (drivers/net/wireguard/timers.c) and nothing else: whoever owns it says what happened
//! and when, sleeps until [`Timers::next_deadline`], and then asks [`Timers::due`] until there is nothing left to do.

use std::time::Duration;

use super::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};
use crate::time::Instant;

/// An unanswered handshake is retried up to this often after the second try: 18, so that it is tried 20 times in all.
const MAX_RETRIES: u32 = (REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs()) as u32;

/// Keys are wiped this long after the last session was made.
const WIPE_AFTER: Duration = Duration::from_secs(REJECT_AFTER_TIME.as_secs() * 3);

/// What to do, as a timer has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The initiation was not answered: send another, perhaps from another source address.
    RetryHandshake {
        /// Which retry this is, from 1.
        attempt: u32,
    },
    /// It was not answered for too long: drop the staged packets and stop trying.
    GiveUpHandshake,
    /// Nothing has come back for what was sent: begin a handshake, perhaps from another source address.
    RenewHandshake,
    /// Data was received and nothing sent: send an empty packet.
    SendKeepalive,
    /// The configured interval has passed without a packet: send an empty one.
    SendPersistentKeepalive,
    /// Wipe sessions and handshake.
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
    running: bool,
}

impl Timers {
    /// The interface has come up: timers may run from now on.
    pub fn start(&mut self) {
        self.running = true;
    }

    /// The interface has gone down: every timer stops, and a handshake may begin at once when it is up again.
    pub fn stop(&mut self) {
        *self = Self { keepalive_interval: self.keepalive_interval, ..Self::default() };
    }

    /// Whether timers run.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running
    }

    fn arm(running: bool, timer: &mut Option<Instant>, at: Instant) {
        if running {
            *timer = Some(at);
        }
    }

    /// A data message with a packet in it was sent. `jitter` gives a random time below
    /// [`REKEY_TIMEOUT_JITTER`](super::REKEY_TIMEOUT_JITTER), if one is needed.
    pub fn data_sent(&mut self, now: Instant, jitter: impl FnOnce() -> Duration) {
        if self.new_handshake.is_none() {
            Self::arm(self.running, &mut self.new_handshake, now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter());
        }
    }

    /// An authentic data message with a packet in it was received.
    pub fn data_received(&mut self, now: Instant) {
        if self.send_keepalive.is_none() {
            Self::arm(self.running, &mut self.send_keepalive, now + KEEPALIVE_TIMEOUT);
        } else {
            self.need_another_keepalive = true;
        }
    }

    /// A message of any kind but a cookie reply was sent.
    pub fn message_sent(&mut self, now: Instant) {
        self.send_keepalive = None;
        self.message_passed(now);
    }

    /// An authentic message of any kind but a cookie reply was received.
    pub fn message_received(&mut self, now: Instant) {
        self.new_handshake = None;
        self.message_passed(now);
    }

    fn message_passed(&mut self, now: Instant) {
        if self.keepalive_interval != 0 {
            let at = now + Duration::from_secs(self.keepalive_interval.into());
            Self::arm(self.running, &mut self.persistent_keepalive, at);
        }
    }

    /// Whether enough time has passed since our last handshake message to send an initiation.
    #[must_use]
    pub fn may_initiate(&self, now: Instant) -> bool {
        self.last_handshake_message.is_none_or(|last| now.since(last) >= REKEY_TIMEOUT)
    }

    /// A handshake begins for a new reason, not as a retry: it has all its tries before it.
    pub fn handshake_wanted(&mut self) {
        self.retries = 0;
    }

    /// An initiation or a response is about to be sent.
    pub fn handshake_message_sent(&mut self, now: Instant) {
        self.last_handshake_message = Some(now);
    }

    /// An initiation was sent. `jitter` is random, below [`REKEY_TIMEOUT_JITTER`](super::REKEY_TIMEOUT_JITTER).
    pub fn initiation_sent(&mut self, now: Instant, jitter: Duration) {
        Self::arm(self.running, &mut self.retransmit_handshake, now + REKEY_TIMEOUT + jitter);
    }

    /// A session was made: a response was sent, or received.
    pub fn session_derived(&mut self, now: Instant) {
        Self::arm(self.running, &mut self.wipe_keys, now + WIPE_AFTER);
    }

    /// A session is confirmed: a response was received, or the first packet on a session that we had responded for.
    pub fn handshake_complete(&mut self) {
        self.retransmit_handshake = None;
        self.retries = 0;
        self.sent_lastminute_handshake = false;
    }

    /// Our own key has changed: a handshake may begin at once.
    pub fn identity_changed(&mut self) {
        self.last_handshake_message = None;
    }

    /// Whether the receiving side may still ask for a handshake before this session ends; it does so once.
    pub fn take_lastminute_handshake(&mut self) -> bool {
        !std::mem::replace(&mut self.sent_lastminute_handshake, true)
    }

    /// Seconds between persistent keepalives; 0 if off.
    #[must_use]
    pub const fn keepalive_interval(&self) -> u16 {
        self.keepalive_interval
    }

    /// Sets the interval of persistent keepalives; 0 turns them off. Returns true if they were off and the interface
    /// is up: one is then to be sent now.
    #[must_use]
    pub fn set_keepalive_interval(&mut self, seconds: u16) -> bool {
        let was = std::mem::replace(&mut self.keepalive_interval, seconds);
        was == 0 && seconds != 0 && self.running
    }

    /// When [`due`](Self::due) must be asked next; `None` if nothing runs.
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

    /// One thing to do now; `None` if there is nothing. Do it, report the events that it causes, and ask again.
    #[must_use]
    pub fn due(&mut self, now: Instant) -> Option<Action> {
        let ran_out = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
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
            // Sending the first one stops the second again, in the kernel too: it runs only if nothing can be sent now.
            if std::mem::take(&mut self.need_another_keepalive) {
                Self::arm(self.running, &mut self.send_keepalive, now + KEEPALIVE_TIMEOUT);
            }
            return Some(Action::SendKeepalive);
        }
        if ran_out(&mut self.new_handshake) {
            return Some(Action::RenewHandshake);
        }
        if ran_out(&mut self.wipe_keys) {
            return Some(Action::WipeKeys);
        }
        if ran_out(&mut self.persistent_keepalive) && self.keepalive_interval != 0 {
            return Some(Action::SendPersistentKeepalive);
        }
        None
    }
}
