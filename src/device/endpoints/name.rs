//! A host name as the endpoint of a peer.

use super::{
    candidates::Candidates,
    inquiry::{Inquiry, Outcome},
};
use crate::{config::HostPort, noise::REKEY_ATTEMPT_TIME, time::Instant};
use std::net::IpAddr;

/// The number of unanswered handshake initiations after which the next address is tried.
const TRIES: u32 = 2;

/// The name, and its known addresses.
#[derive(Debug)]
pub(in crate::device) struct Name {
    host: HostPort,
    inquiry: Inquiry,
    known: Option<Candidates>,
    /// The time at which it is resolved again because packets wait for it.
    retry_at: Option<Instant>,
    /// The last time at which something was to be sent and had to wait.
    last_wanted: Instant,
    /// Handshake initiations that the endpoint has not answered.
    unanswered: u32,
}

impl Name {
    pub(in crate::device) const fn new(host: HostPort) -> Self {
        Self {
            host,
            inquiry: Inquiry::new(),
            known: None,
            retry_at: None,
            last_wanted: Instant::from_nanos(0),
            unanswered: 0,
        }
    }

    pub(in crate::device) const fn host(&self) -> &HostPort {
        &self.host
    }

    /// Returns its memory in bytes.
    pub(in crate::device) fn memory(&self) -> usize {
        size_of::<Self>() + self.host.host().len() + self.known.as_ref().map_or(0, Candidates::memory)
    }

    /// Returns the addresses, if there are any yet.
    pub(in crate::device) fn known(&mut self) -> Option<&mut Candidates> {
        self.known.as_mut()
    }

    /// Requests a look-up as if for the first time.
    pub(in crate::device) const fn restart(&mut self) {
        self.retry_at = None;
        self.inquiry = Inquiry::new();
    }

    /// Abandons the look-up in progress and the next one: the name is not resolved until it is needed again.
    pub(in crate::device) fn stop(&mut self) {
        self.retry_at = None;
        self.inquiry.give_up();
    }

    /// Starts a look-up with this number.
    pub(in crate::device) fn ask(&mut self, number: u64) {
        self.retry_at = None;
        self.inquiry.ask(number);
    }

    /// Ends a look-up. Addresses that were found replace the known ones.
    pub(in crate::device) fn take(&mut self, number: u64, found: &[IpAddr], now: Instant) -> Outcome {
        let candidates = Candidates::new(found, self.host.port());
        let outcome = self.inquiry.take(number, candidates.is_some(), now);
        if outcome == Outcome::Found {
            self.known = candidates;
        }
        outcome
    }

    /// Reports that there is something to send. Returns true if the name must be resolved for it now; if that has to
    /// wait, it gets a deadline.
    pub(in crate::device) fn want(&mut self, now: Instant) -> bool {
        self.last_wanted = now;
        if !self.inquiry.is_lacking() {
            return false;
        }
        let may_ask = self.inquiry.not_before() <= now;
        if !may_ask {
            self.retry();
        }
        may_ask
    }

    /// Requests a look-up at the earliest permitted time.
    pub(in crate::device) const fn retry(&mut self) {
        self.retry_at = Some(self.inquiry.not_before());
    }

    /// Returns the time of the next look-up.
    pub(in crate::device) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Returns true, once, if it is time for the next look-up.
    pub(in crate::device) fn take_due_retry(&mut self, now: Instant) -> bool {
        self.retry_at.take_if(|at| *at <= now).is_some()
    }

    /// Returns whether packets have waited for as long as a handshake would have been tried.
    pub(in crate::device) fn is_hopeless(&self, now: Instant) -> bool {
        now.since(self.last_wanted) >= REKEY_ATTEMPT_TIME
    }

    /// Reports that the endpoint has answered, or has changed.
    pub(in crate::device) fn answered(&mut self) {
        self.unanswered = 0;
    }

    /// Reports that the endpoint has not answered an initiation. Returns true if another address is now current.
    pub(in crate::device) fn not_answered(&mut self) -> bool {
        self.unanswered += 1;
        self.unanswered >= TRIES
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    fn name() -> Name {
        Name::new("host.example:7".parse().unwrap())
    }

    #[test]
    fn it_is_looked_up_when_wanted_and_not_too_often() {
        let mut name = name();
        assert!(name.want(START));
        name.ask(1);
        assert!(!name.want(START), "under way");
        assert_eq!(name.take(1, &[], START), Outcome::Failed);
        assert_eq!(name.retry_at, None, "nothing waits");
        assert!(!name.want(START));
        let later = START + Duration::from_secs(1);
        assert_eq!(name.retry_at, Some(later));
        assert!(name.want(later));
        name.ask(2);
        assert_eq!(name.retry_at, None);
        assert_eq!(name.take(2, &["192.0.2.1".parse().unwrap()], START), Outcome::Found);
        assert_eq!(name.known().unwrap().current(), "192.0.2.1:7".parse().unwrap());
        assert!(!name.want(later));
        // What failed later does not take away what is known.
        name.restart();
        assert!(name.want(later));
        name.ask(3);
        assert_eq!(name.take(3, &["0.0.0.0".parse().unwrap()], later), Outcome::Failed);
        assert!(name.known().is_some());
    }

    #[test]
    fn what_waits_is_hopeless_after_as_long_as_a_handshake_is_tried() {
        let mut name = name();
        name.want(START);
        assert!(!name.is_hopeless(START + Duration::from_millis(89_999)));
        assert!(name.is_hopeless(START + Duration::from_secs(90)));
    }

    #[test]
    fn the_next_address_comes_after_two_tries() {
        let mut name = name();
        assert_eq!([name.not_answered(), name.not_answered()], [false, true]);
        name.answered();
        assert!(!name.not_answered());
    }
}
