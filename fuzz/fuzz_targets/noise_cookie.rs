//! Two senders of handshake messages, the one who checks them, and cookie replies that arrive late, damaged or at the
//! other sender: the result of each check is that of a plain model without cryptography.
//!
//! The input is a row of operations: a byte that chooses one and a sender, and its parameters.
#![no_main]

use std::{net::SocketAddr, time::Duration};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    PublicKey,
    noise::{
        cookie::{CookieChecker, MacStamper, Macs},
        message::{COOKIE_REPLY_LEN, INITIATION_LEN, RESPONSE_LEN},
    },
    time::{Clock, Instant, ManualClock},
};
use wg_embed_fuzz::{Input, Numbers, at};

const OWN: PublicKey = PublicKey::from_bytes([7; 32]);
/// The lifetime of a cookie's secret, and of a cookie at its receiver.
const SECRET: Duration = Duration::from_secs(120);
const COOKIE: Duration = Duration::from_secs(115);

/// A cookie: the number of the secret that it was made with, and its address.
type Cookie = (u32, SocketAddr);

/// The model of a stamped message.
#[derive(Clone)]
struct Stamped {
    message: Vec<u8>,
    /// The cookie in its mac2.
    cookie: Option<Cookie>,
    /// The number of this message.
    number: u32,
}

#[derive(Default)]
struct Sender {
    stamper: MacStamper,
    last: Option<Stamped>,
    /// Whether a reply to the last message may still be accepted.
    is_open: bool,
    cookie: Option<(Cookie, Instant)>,
}

struct Reply {
    bytes: [u8; COOKIE_REPLY_LEN],
    /// The number of the message that it answers.
    number: u32,
    cookie: Cookie,
}

struct World {
    clock: ManualClock,
    random: Numbers,
    checker: CookieChecker,
    /// The number of the secret, and when it was made.
    secret: Option<(u32, Instant)>,
    senders: [Sender; 2],
    stamped: u32,
    replies: Vec<Reply>,
}

fn address(number: u8) -> SocketAddr {
    at(["192.0.2.1:1", "192.0.2.1:2", "[2001:db8::1]:1", "192.0.2.2:1"][usize::from(number) % 4])
}

impl World {
    /// Returns the cookie that the checker has now for an address.
    fn cookie(&mut self, from: SocketAddr) -> Cookie {
        let now = self.clock.now();
        let number = match self.secret {
            Some((number, born)) if now.since(born) < SECRET => number,
            last => {
                let number = last.map_or(0, |(number, _)| number) + 1;
                self.secret = Some((number, now));
                number
            }
        };
        (number, from)
    }

    fn stamp(&mut self, sender: usize, text: &[u8], is_initiation: bool) {
        let mut message = vec![0; if is_initiation { INITIATION_LEN } else { RESPONSE_LEN }];
        let len = text.len().min(message.len() - 32);
        message[..len].copy_from_slice(&text[..len]);
        self.stamped += 1;
        // Messages differ.
        message[4..8].copy_from_slice(&self.stamped.to_be_bytes());
        let now = self.clock.now();
        let sender = &mut self.senders[sender];
        sender.stamper.stamp(&mut message, &OWN, now);
        let fresh = sender.cookie.filter(|(_, received)| now.since(*received) < COOKIE);
        assert_eq!(fresh.is_some(), message[message.len() - 16..] != [0; 16]);
        let cookie = fresh.map(|(cookie, _)| cookie);
        sender.last = Some(Stamped { message, cookie, number: self.stamped });
        sender.is_open = true;
    }

    /// Checks the last message of a sender, of which one byte may be changed; and answers it.
    fn check(&mut self, sender: usize, from: SocketAddr, want_cookie: bool, place: u8, change: u8) {
        let Some(Stamped { mut message, cookie, number }) = self.senders[sender].last.clone() else { return };
        let place = usize::from(place) % message.len();
        message[place] ^= change;
        let (now, macs) = (self.clock.now(), message.len() - 32);
        let found = self.checker.check(&message, from, want_cookie, now, &self.random);
        let expected = if change != 0 && place < macs + 16 {
            Macs::Invalid
        } else if !want_cookie || message[macs + 16..] == [0; 16] {
            Macs::Mac1
        } else if cookie == Some(self.cookie(from)) && change == 0 {
            Macs::Mac1AndCookie
        } else {
            Macs::Mac1
        };
        assert_eq!(found, expected);
        if found == Macs::Mac1 && want_cookie {
            let bytes = self.checker.reply(&message, from, now, &self.random);
            assert_eq!((&bytes[..4], &bytes[4..8]), (&[3, 0, 0, 0][..], &message[4..8]));
            let cookie = self.cookie(from);
            self.replies.push(Reply { bytes, number, cookie });
            self.replies.drain(..self.replies.len().saturating_sub(8));
        }
    }

    fn take_reply(&mut self, sender: usize, reply: usize, place: u8, change: u8) {
        let Some(reply) = self.replies.iter().rev().nth(reply) else { return };
        let mut bytes = reply.bytes;
        bytes[8 + usize::from(place) % 56] ^= change;
        let now = self.clock.now();
        let sender = &mut self.senders[sender];
        let accepted = sender.stamper.take_reply(&bytes, &OWN, now);
        let is_answer = sender.last.as_ref().is_some_and(|last| last.number == reply.number);
        assert_eq!(accepted, is_answer && sender.is_open && change == 0);
        if accepted {
            sender.is_open = false;
            sender.cookie = Some((reply.cookie, now));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mut world = World {
        clock: ManualClock::new(),
        random: Numbers::new(3),
        checker: CookieChecker::new(&OWN),
        secret: None,
        senders: Default::default(),
        stamped: 0,
        replies: Vec::new(),
    };
    while let Some(kind) = input.next_byte() {
        let sender = usize::from(kind & 1);
        match kind >> 1 & 3 {
            0 => {
                let text = input.bytes(usize::from(kind >> 4));
                world.stamp(sender, text, kind & 8 == 0);
            }
            1 => {
                let (place, change) = if kind & 8 == 0 { (0, 0) } else { (input.byte(), input.byte()) };
                world.check(sender, address(kind >> 4), kind & 0x40 == 0, place, change);
            }
            2 => {
                let (place, change) = if kind & 8 == 0 { (0, 0) } else { (input.byte(), input.byte()) };
                world.take_reply(sender, usize::from(kind >> 4 & 3), place, change);
            }
            _ => {
                world.clock.advance(Duration::from_secs(u64::from(kind >> 3)));
                let from = address(kind);
                let bytes = input.bytes(usize::from(kind >> 3));
                let found = world.checker.check(bytes, from, true, world.clock.now(), &world.random);
                assert_eq!(found, Macs::Invalid, "31 bytes are no message");
            }
        }
    }
});
