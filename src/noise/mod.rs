//! The protocol engine: Noise IKpsk2 as WireGuard uses it, without I/O.
//!
//! Nothing here asks the operating system for the time or for randomness; both are arguments. Sections named in the
//! comments are those of the WireGuard paper (Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", NDSS
//! 2017); where the paper leaves room, the Linux kernel's behaviour decides.
//!
//! | question | file |
//! |---|---|
//! | What do the four messages look like? | [`message`] |
//! | How is a handshake made and answered? | [`handshake`] |
//! | How is a packet sealed and opened? | [`session`] |
//! | Has this counter been seen? | [`replay`] |
//! | What are mac1, mac2 and cookies? | [`cookie`] |
//! | What happens when, if nothing else does? | [`timers`] |
//! | Which time stamp does an initiation carry? | [`tai64n`] |

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

/// A session asks for a successor after this many sent messages (section 6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// No message is sent or accepted with this counter or a higher one. The kernel's number, so that the replay window
/// never overflows; the paper's (section 6.1: 2^64 - 2^13 - 1) is 63 lower.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - replay::WINDOW - 1;
/// An initiator asks for a successor when it sends on a session of this age (section 6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session is not used any more at this age (section 6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// An unanswered initiation is retried after this, and none is sent sooner after our last handshake message, be it an
/// initiation or a response (section 6.1).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Random time on top of [`REKEY_TIMEOUT`], so that two peers do not go on colliding (section 6.1; a third of a second
/// in the kernel).
pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
/// Decides how often an initiation is tried (section 6.4). Retrying takes longer than this: the kernel tries 20 times,
/// and gives up 100 to 112 s after the first.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Received data is acknowledged by an empty packet after this, if nothing else is sent (section 6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
