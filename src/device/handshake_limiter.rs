//! Limits handshakes: determines whether the device is under load, and which handshake messages it then computes.

use std::{net::SocketAddr, time::Duration};

use super::ratelimit::RateLimiter;
use crate::{
    noise::{
        cookie::{CookieChecker, Macs},
        message::COOKIE_REPLY_LEN,
    },
    random::Random,
    time::Instant,
};

/// How long the device counts as under load after it was, as in the kernel.
const LOAD_LASTS: Duration = Duration::from_secs(1);

/// Handshake computations may take one part in this many of the time.
const COMPUTING: u32 = 10;
/// Cookie replies may take one part in this many of the time: a few thousand replies a second on a fast machine.
const ANSWERING: u32 = 50;
/// The period whose share may be used up at once. That is for peers that connect together, for instance after a
/// server's restart: a peer that gets a cookie starts again only after 5 s.
const WINDOW: Duration = Duration::from_millis(300);

/// The decision about a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Compute it.
    Compute,
    /// Send a cookie, by which the sender must first prove its address.
    RequireCookie,
    /// Drop it.
    Refuse(Refusal),
}

/// The reason why a handshake message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no private key.
    NoKey,
    /// Its mac1 is wrong.
    BadMac,
    /// The sender has sent too many, or no time is left to reply with a cookie.
    TooMany,
}

#[derive(Default)]
pub(super) struct HandshakeLimiter {
    /// `None` while there is no private key.
    checker: Option<CookieChecker>,
    by_address: RateLimiter,
    computing: Effort<COMPUTING>,
    answering: Effort<ANSWERING>,
    last_load: Option<Instant>,
}

impl HandshakeLimiter {
    /// Sets the checker of another private key; without one, all messages are refused.
    pub(super) fn set_checker(&mut self, checker: Option<CookieChecker>) {
        self.checker = checker;
    }

    /// Decides whether a handshake message is computed: its mac1 must be right and, while the device is under load, its
    /// sender must have proven its address and not exceed its rate.
    pub(super) fn judge(
        &mut self,
        message: &[u8],
        from: SocketAddr,
        queue_is_long: bool,
        now: Instant,
        random: &dyn Random,
    ) -> Verdict {
        let loaded = self.is_under_load(queue_is_long, now);
        let Some(checker) = &mut self.checker else {
            return Verdict::Refuse(Refusal::NoKey);
        };
        match checker.check(message, from, loaded, now, random) {
            Macs::Invalid => Verdict::Refuse(Refusal::BadMac),
            Macs::Mac1 if !loaded => Verdict::Compute,
            Macs::Mac1AndCookie if self.by_address.allow(from.ip(), now) => Verdict::Compute,
            Macs::Mac1 if self.may_answer(now) => Verdict::RequireCookie,
            Macs::Mac1 | Macs::Mac1AndCookie => Verdict::Refuse(Refusal::TooMany),
        }
    }

    /// Returns the cookie reply to a message; `None` if there is no private key any more.
    pub(super) fn cookie_reply(
        &mut self,
        message: &[u8],
        from: SocketAddr,
        now: Instant,
        random: &dyn Random,
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        self.checker.as_mut().map(|checker| checker.reply(message, from, now, random))
    }

    /// Reports the processor time of computing a handshake message.
    pub(super) fn computed(&mut self, took: Duration, now: Instant) {
        self.computing.add(took, now);
    }

    /// Reports the processor time of cookie replies.
    pub(super) fn answered(&mut self, took: Duration, now: Instant) {
        self.answering.add(took, now);
    }

    /// Returns additional memory in bytes.
    pub(super) fn memory(&self) -> usize {
        self.by_address.memory()
    }

    /// Releases memory after a load has ended.
    pub(super) fn trim(&mut self, now: Instant) {
        self.is_under_load(false, now);
    }

    /// Returns whether the device is under load, or was a moment ago: the queue of handshakes is too long, or they take
    /// too much time of a packet thread.
    fn is_under_load(&mut self, queue_is_long: bool, now: Instant) -> bool {
        if queue_is_long || self.computing.is_too_much(now) {
            self.last_load = Some(now);
        } else if self.last_load.take_if(|last| now.since(*last) >= LOAD_LASTS).is_some() {
            self.by_address.clear();
        }
        self.last_load.is_some()
    }

    /// Returns whether there is time for a cookie reply. Otherwise a flood from forged addresses would take all the
    /// time: a reply costs more than all other work for such a message.
    fn may_answer(&self, now: Instant) -> bool {
        !self.answering.is_too_much(now)
    }
}

/// The time of work that may take one part in `SHARE` of the time.
#[derive(Default)]
struct Effort<const SHARE: u32> {
    /// The time at which the share will be met again, without further work until then.
    even_at: Instant,
}

impl<const SHARE: u32> Effort<SHARE> {
    fn add(&mut self, took: Duration, now: Instant) {
        // The duration of a single one is not significant.
        self.even_at = (self.even_at.max(now) + took * SHARE).min(now + 2 * WINDOW);
    }

    fn is_too_much(&self, now: Instant) -> bool {
        self.even_at > now + WINDOW
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        bind::mem::MemNetwork,
        device::{Device, Options, lock, ratelimit},
        key::PrivateKey,
        noise::{cookie::MacStamper, message::INITIATION_LEN},
        random::SystemRandom,
        time::{Clock, ManualClock},
        tun::mem::MemTun,
    };
    use std::{net::Ipv4Addr, sync::Arc};

    const START: Instant = Instant::from_nanos(1_000_000_000);

    /// Computes something that takes `took` each `every`, so often. Returns how often that was under load.
    fn loaded(limiter: &mut HandshakeLimiter, from: Instant, took: Duration, every: Duration, times: u32) -> usize {
        let at = |n| from + every * n;
        let mut one = |n| {
            let loaded = limiter.is_under_load(false, at(n));
            limiter.computed(took, at(n) + took);
            loaded
        };
        (0..times).filter(|n| one(*n)).count()
    }

    #[test]
    fn a_tenth_of_the_time_is_no_load() {
        let (took, every) = (Duration::from_micros(100), Duration::from_millis(1));
        assert_eq!(loaded(&mut HandshakeLimiter::default(), START, took, every, 10_000), 0);
        // As many at once as a tenth of the window holds.
        let mut limiter = HandshakeLimiter::default();
        assert_eq!(loaded(&mut limiter, START, took, took, 100), 0);
        assert_eq!(loaded(&mut limiter, START + Duration::from_secs(1), took, took, 100), 0);
    }

    #[test]
    fn more_is_load_that_goes_when_it_is_less_again() {
        let (took, every) = (Duration::from_micros(100), Duration::from_micros(500));
        let mut limiter = HandshakeLimiter::default();
        let times = loaded(&mut limiter, START, took, every, 3000);
        assert!((2000..2500).contains(&times), "{times}");
        let later = START + every * 3000 + 2 * WINDOW;
        assert!(limiter.is_under_load(false, later), "it lasts");
        assert!(!limiter.is_under_load(false, later + LOAD_LASTS));
    }

    #[test]
    fn one_that_takes_long_is_forgotten_soon() {
        let mut limiter = HandshakeLimiter::default();
        limiter.computed(Duration::from_secs(5), START + Duration::from_secs(5));
        let now = START + Duration::from_secs(5);
        assert!(limiter.is_under_load(false, now));
        assert!(!limiter.is_under_load(false, now + 2 * WINDOW + LOAD_LASTS));
    }

    #[test]
    fn answers_have_a_share_of_their_own() {
        let mut limiter = HandshakeLimiter::default();
        let took = Duration::from_micros(100);
        let answers =
            (0..1000).filter(|_| limiter.may_answer(START).then(|| limiter.answered(took, START)).is_some()).count();
        assert_eq!(answers, 61, "a fiftieth of the window, and one that was over it");
        assert!(!limiter.is_under_load(false, START));
        assert!(limiter.may_answer(START + WINDOW));
    }

    #[test]
    fn computations_that_take_no_time_are_no_load() {
        assert_eq!(loaded(&mut HandshakeLimiter::default(), START, Duration::ZERO, Duration::ZERO, 100_000), 0);
    }

    #[test]
    fn memory_of_a_load_is_given_back_when_that_is_over() {
        let clock = Arc::new(ManualClock::new());
        let options = Options { clock: clock.clone(), ..Options::default() };
        let bind = MemNetwork::new().bind(Ipv4Addr::LOCALHOST.into());
        let device = Device::new(Arc::new(MemTun::new("", 1420).0), bind, options);
        {
            let mut limiter = lock(&device.handshake_limiter);
            assert!(limiter.is_under_load(true, clock.now()));
            for n in 0..5000_u32 {
                limiter.by_address.allow(Ipv4Addr::from_bits(n).into(), clock.now());
            }
        }
        device.trim();
        assert_eq!(device.memory_usage().buffers, ratelimit::MAX_MEMORY);
        clock.advance(LOAD_LASTS);
        device.trim();
        assert_eq!(device.memory_usage().buffers, 0);
    }

    #[test]
    fn what_is_computed_depends_on_the_load_and_on_the_sender() {
        let (public, random) = (PrivateKey::from_bytes([7; 32]).public_key(), SystemRandom);
        let from = "192.0.2.1:1".parse().unwrap();
        let mut message = [1; INITIATION_LEN];
        let mut limiter = HandshakeLimiter::default();
        let judge = |limiter: &mut HandshakeLimiter, message: &[u8], is_long| {
            limiter.judge(message, from, is_long, START, &random)
        };
        assert_eq!(judge(&mut limiter, &message, false), Verdict::Refuse(Refusal::NoKey));
        assert_eq!(limiter.cookie_reply(&message, from, START, &random), None);
        limiter.set_checker(Some(CookieChecker::new(&public)));
        assert_eq!(judge(&mut limiter, &message, false), Verdict::Refuse(Refusal::BadMac));
        let mut macs = MacStamper::default();
        macs.stamp(&mut message, &public, START);
        assert_eq!(judge(&mut limiter, &message, false), Verdict::Compute);
        assert_eq!(judge(&mut limiter, &message, true), Verdict::RequireCookie);
        assert_eq!(judge(&mut limiter, &message, false), Verdict::RequireCookie, "a load lasts");
        let reply = limiter.cookie_reply(&message, from, START, &random).unwrap();
        assert!(macs.take_reply(&reply, &public, START));
        macs.stamp(&mut message, &public, START);
        let verdicts = [(); 6].map(|()| judge(&mut limiter, &message, true));
        assert_eq!(verdicts[..5], [Verdict::Compute; 5]);
        assert_eq!(verdicts[5], Verdict::Refuse(Refusal::TooMany), "of one address");
        limiter.answered(WINDOW, START);
        macs = MacStamper::default();
        macs.stamp(&mut message, &public, START);
        assert_eq!(judge(&mut limiter, &message, true), Verdict::Refuse(Refusal::TooMany), "no time for answers");
    }
}
