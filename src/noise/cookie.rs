//! mac1, mac2 and cookies: sections 5.3, 5.4.4 and 5.4.7.
//!
//! [`CookieChecker`] is the responder's side, one for each device; [`MacStamper`] the initiator's, one for each peer.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use subtle::ConstantTimeEq;

use super::{
    aead::{AeadKey, TAG_LEN, XNONCE_LEN},
    kdf,
    message::{COOKIE_REPLY_LEN, TYPE_COOKIE_REPLY},
};
use crate::{
    key::{PublicKey, Secret},
    random::Random,
    time::Instant,
};

/// The lifetime of a cookie, and of the secret that it is made from (section 5.4.7).
const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// How much earlier an initiator stops using a cookie, to allow for the travel time of messages
/// (`COOKIE_SECRET_LATENCY` of the kernel).
const COOKIE_LATENCY: Duration = Duration::from_secs(5);

const MAC_LEN: usize = 16;
const COOKIE_LEN: usize = 16;

fn mac1_key(public: &PublicKey) -> [u8; 32] {
    kdf::hash(&[b"mac1----", public.as_bytes()])
}

fn cookie_key(public: &PublicKey) -> [u8; 32] {
    kdf::hash(&[b"cookie--", public.as_bytes()])
}

/// The result of checking the MACs of a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Macs {
    /// The sender does not have our public key, or the message is damaged: drop it.
    Invalid,
    /// The sender has our public key.
    Mac1,
    /// The sender also receives at the address that it sends from.
    Mac1AndCookie,
}

/// Checks the MACs of handshake messages and makes cookie replies, for one own public key.
pub struct CookieChecker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    secret: Secret,
    secret_born: Option<Instant>,
}

impl CookieChecker {
    /// Creates a checker for messages to `public`.
    #[must_use]
    pub fn new(public: &PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(public),
            cookie_key: cookie_key(public),
            secret: Secret::default(),
            secret_born: None,
        }
    }

    /// Checks a handshake message (initiation or response), whose last 32 bytes are its MACs. The cookie is checked
    /// only if `want_cookie` is set.
    pub fn check(
        &mut self,
        message: &[u8],
        from: SocketAddr,
        want_cookie: bool,
        now: Instant,
        random: &dyn Random,
    ) -> Macs {
        let (Some((rest, mac2)), Some((text, mac1))) = (
            message.split_last_chunk::<MAC_LEN>(),
            message[..message.len().saturating_sub(MAC_LEN)].split_last_chunk::<MAC_LEN>(),
        ) else {
            return Macs::Invalid;
        };
        if !bool::from(kdf::mac(&self.mac1_key, &[text]).ct_eq(mac1)) {
            return Macs::Invalid;
        }
        // Without a cookie, mac2 is zero: most messages of a flood need no further computation.
        if !want_cookie || *mac2 == [0; MAC_LEN] {
            return Macs::Mac1;
        }
        let cookie = self.cookie(from, now, random);
        if bool::from(kdf::mac(cookie.as_ref(), &[rest]).ct_eq(mac2)) { Macs::Mac1AndCookie } else { Macs::Mac1 }
    }

    /// Creates the reply to a handshake message whose mac1 was valid.
    pub fn reply(
        &mut self,
        message: &[u8],
        from: SocketAddr,
        now: Instant,
        random: &dyn Random,
    ) -> [u8; COOKIE_REPLY_LEN] {
        let cookie = self.cookie(from, now, random);
        let mac1 = &message[message.len() - 2 * MAC_LEN..message.len() - MAC_LEN];
        let mut reply = [0; COOKIE_REPLY_LEN];
        reply[..4].copy_from_slice(&TYPE_COOKIE_REPLY.to_le_bytes());
        // The sender's index is at the same place in both handshake messages.
        reply[4..8].copy_from_slice(&message[4..8]);
        let mut nonce = [0; XNONCE_LEN];
        random.fill(&mut nonce);
        let (head, sealed) = reply.split_at_mut(8 + XNONCE_LEN);
        head[8..].copy_from_slice(&nonce);
        sealed[..COOKIE_LEN].copy_from_slice(cookie.as_ref());
        let (key, counter) = AeadKey::extended(&self.cookie_key, &nonce);
        key.seal(counter, mac1, sealed);
        reply
    }

    /// Returns the cookie of an address and port. Its secret is replaced every two minutes.
    fn cookie(&mut self, from: SocketAddr, now: Instant, random: &dyn Random) -> Secret<COOKIE_LEN> {
        if self.secret_born.is_none_or(|born| now.since(born) >= COOKIE_LIFETIME) {
            random.fill(&mut self.secret[..]);
            self.secret_born = Some(now);
        }
        let port = from.port().to_be_bytes();
        Secret::new(match from.ip() {
            IpAddr::V4(ip) => kdf::mac(self.secret.as_ref(), &[&ip.octets(), &port]),
            IpAddr::V6(ip) => kdf::mac(self.secret.as_ref(), &[&ip.octets(), &port]),
        })
    }
}

struct Cookie {
    bytes: Secret<COOKIE_LEN>,
    received: Instant,
}

/// Writes the MACs of handshake messages to one peer, and stores its cookies.
#[derive(Default)]
pub struct MacStamper {
    /// The mac1 of our last handshake message, until a cookie reply to it has been accepted.
    last_mac1: Option<[u8; MAC_LEN]>,
    cookie: Option<Cookie>,
}

impl MacStamper {
    /// Fills in the last 32 bytes of a handshake message to `remote`.
    pub fn stamp(&mut self, message: &mut [u8], remote: &PublicKey, now: Instant) {
        let (text, macs) = message.split_at_mut(message.len() - 2 * MAC_LEN);
        let mac1 = kdf::mac(&mac1_key(remote), &[text]);
        macs[..MAC_LEN].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        let mac2 = match &self.cookie {
            Some(cookie) if now.since(cookie.received) < COOKIE_LIFETIME - COOKIE_LATENCY => {
                kdf::mac(&cookie.bytes[..], &[text, &mac1])
            }
            _ => [0; MAC_LEN],
        };
        macs[MAC_LEN..].copy_from_slice(&mac2);
    }

    /// Accepts a cookie reply from `remote`. Returns false if it does not match our last handshake message.
    #[must_use]
    pub fn take_reply(&mut self, reply: &[u8; COOKIE_REPLY_LEN], remote: &PublicKey, now: Instant) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let (mut nonce, mut body) = ([0; XNONCE_LEN], [0; COOKIE_LEN + TAG_LEN]);
        nonce.copy_from_slice(&reply[8..8 + XNONCE_LEN]);
        body.copy_from_slice(&reply[8 + XNONCE_LEN..]);
        let (key, counter) = AeadKey::extended(&cookie_key(remote), &nonce);
        if key.open(counter, &mac1, &mut body).is_none() {
            return false;
        }
        let mut bytes = Secret::default();
        bytes.copy_from_slice(&body[..COOKIE_LEN]);
        self.cookie = Some(Cookie { bytes, received: now });
        self.last_mac1 = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        noise::message::INITIATION_LEN,
        random::SystemRandom,
        time::{Clock, ManualClock},
    };

    const FROM: &str = "192.0.2.1:1000";
    const REMOTE: PublicKey = PublicKey::from_bytes([5; 32]);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| unreachable!("a literal address"))
    }

    fn stamped(stamper: &mut MacStamper, now: Instant) -> [u8; INITIATION_LEN] {
        let mut message = [7; INITIATION_LEN];
        stamper.stamp(&mut message, &REMOTE, now);
        message
    }

    #[test]
    fn a_cookie_proves_address_and_port_for_two_minutes() {
        let clock = ManualClock::new();
        let (mut checker, mut stamper) = (CookieChecker::new(&REMOTE), MacStamper::default());
        let first = stamped(&mut stamper, clock.now());
        assert_eq!(checker.check(&first, at(FROM), true, clock.now(), &SystemRandom), Macs::Mac1);

        let reply = checker.reply(&first, at(FROM), clock.now(), &SystemRandom);
        assert!(stamper.take_reply(&reply, &REMOTE, clock.now()));
        assert!(!stamper.take_reply(&reply, &REMOTE, clock.now()), "a reply answers one message");

        let second = stamped(&mut stamper, clock.now());
        let mut check = |from, at_time| checker.check(&second, at(from), true, at_time, &SystemRandom);
        assert_eq!(check(FROM, clock.now()), Macs::Mac1AndCookie);
        assert_eq!(check("192.0.2.1:1001", clock.now()), Macs::Mac1, "another port");
        assert_eq!(check("192.0.2.2:1000", clock.now()), Macs::Mac1, "another address");
        clock.advance(Duration::from_secs(120));
        assert_eq!(check(FROM, clock.now()), Macs::Mac1, "the secret has changed");
    }

    #[test]
    fn a_cookie_is_not_used_after_115_seconds() {
        let clock = ManualClock::new();
        let (mut checker, mut stamper) = (CookieChecker::new(&REMOTE), MacStamper::default());
        let first = stamped(&mut stamper, clock.now());
        let reply = checker.reply(&first, at(FROM), clock.now(), &SystemRandom);
        assert!(stamper.take_reply(&reply, &REMOTE, clock.now()));
        clock.advance(Duration::from_millis(114_999));
        assert_ne!(stamped(&mut stamper, clock.now())[132..], [0; 16]);
        clock.advance(Duration::from_millis(1));
        assert_eq!(stamped(&mut stamper, clock.now())[132..], [0; 16]);
    }

    #[test]
    fn a_damaged_message_or_reply_is_refused() {
        let now = ManualClock::new().now();
        let (mut checker, mut stamper) = (CookieChecker::new(&REMOTE), MacStamper::default());
        let mut message = stamped(&mut stamper, now);
        let mut reply = checker.reply(&message, at(FROM), now, &SystemRandom);
        reply[40] ^= 1;
        assert!(!stamper.take_reply(&reply, &REMOTE, now));
        message[20] ^= 1;
        assert_eq!(checker.check(&message, at(FROM), false, now, &SystemRandom), Macs::Invalid);
        assert_eq!(checker.check(&message[..20], at(FROM), false, now, &SystemRandom), Macs::Invalid);
    }
}
