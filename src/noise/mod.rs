//! The protocol engine: Noise IKpsk2 as used by WireGuard, without I/O.
//!
//! Time and randomness are arguments, never obtained from the operating system. Sections in comments refer to the
//! WireGuard paper (Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", NDSS 2017); where the paper leaves
//! room, the behaviour is the Linux kernel's.
//!
//! ```
//! use std::time::Duration;
//! use wg_embed::{PrivateKey, noise::handshake::{Handshake, Identity, OpenedInitiation}, random::SystemRandom};
//! use wg_embed::time::Instant;
//!
//! # fn main() -> wg_embed::Result<()> {
//! let (a, b) = (Identity::new(PrivateKey::generate()?), Identity::new(PrivateKey::generate()?));
//! let (mut to_b, mut to_a) = (Handshake::new(*b.public()), Handshake::new(*a.public()));
//! let (now, wall) = (Instant::from_nanos(1), Duration::from_secs(1_700_000_000));
//!
//! let first = to_b.create_initiation(&a, 1, wall, &SystemRandom).expect("b's key is not of low order");
//! let opened = OpenedInitiation::open(&first, &b).expect("it is for b");
//! assert!(to_a.consume_initiation(opened, &first, &b, now));
//! let second = to_a.create_response(2, &SystemRandom).expect("an initiation was accepted");
//! assert!(to_b.consume_response(&second, &a));
//!
//! let (ours, theirs) = (to_b.begin_session(now).expect("complete"), to_a.begin_session(now).expect("complete"));
//! let mut message = [9; 16 + 32 + 16]; // header, padded packet, tag
//! ours.seal(0, &mut message);
//! assert_eq!(theirs.open(0, &mut message[16..]), Some(32));
//! assert_eq!(message[16..48], [9; 32]);
//! # Ok(())
//! # }
//! ```
//!
//! | question | file |
//! |---|---|
//! | What are the formats of the four messages? | [`message`] |
//! | How is a handshake made and answered? | [`handshake`] |
//! | How is a packet sealed and opened? | [`session`] |
//! | How are replayed counters detected? | [`replay`] |
//! | What are mac1, mac2 and cookies? | [`cookie`] |
//! | Which protocol timers are there? | [`timers`] |
//! | Which timestamp does an initiation have? | [`tai64n`] |

mod aead;
pub mod cookie;
pub mod handshake;
mod kdf;
pub mod message;
pub mod replay;
pub mod session;
pub mod tai64n;
pub mod timers;

use std::time::Duration;

pub use timers::{KEEPALIVE_TIMEOUT, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER};

/// The number of sent messages after which a session needs a successor (section 6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// The first counter that is neither sent nor accepted. It is the kernel's, so that the replay window never overflows;
/// the paper's (section 6.1: 2^64 - 2^13 - 1) is 63 lower.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - replay::WINDOW - 1;
/// The age of a session from which its initiator starts a new handshake when it sends (section 6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// The age at which a session is no longer used (section 6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
