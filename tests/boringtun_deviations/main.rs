//! Why the protocol engine here is our own and not boringtun's, kept true by tests.
//!
//! ADR 0001 rests on a list of places (rows A to AB) where boringtun 0.7.1 behaves unlike the Linux kernel. Each test
//! runs boringtun itself under a hand-turned clock and asserts what it *does*, not what we want. A failure here means
//! that a reason given in the decision no longer holds: revisit the decision, do not just mend the test.
//!
//! The mock clock is thread-local and every test sets it to zero first, so tests neither wait nor disturb each other.
//!
//! Rows without a test of their own:
//! * J, sending side: no limit on messages sent is in the source, but 2^60 packets cannot be sent. The receiving side
//!   is shown.
//! * U: there is no `set_preshared_key`, and a missing function cannot be asserted; what it costs is shown.
//! * W: keys and packets are not wiped from memory. Seeing that takes unsafe reads of freed memory.
//! * X: the static-ephemeral DH and mac1 are each computed twice when the peer is looked up first: a cost, no output.
//! * Y: `&mut self` for every packet, copies from `src` to `dst`: the shape of the API, visible in each call below.
//! * Z, in part: subtraction panics if the clock steps back, but the mock clock's own `Instant` panics first.
//! * AB: the device layer is behind a feature that is off here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod forge;
mod handshakes;
mod packets;
#[path = "../common/snow_noise.rs"]
mod snow_noise;
mod timing;

use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::AeadInOut;
use forge::{Forger, cookie, cookie_reply, sign};
use mock_instant::MockClock;
use snow_noise::{LOW_ORDER, noise, timestamp};

/// How often boringtun asks for `update_timers` to be called.
const TICK: Duration = Duration::from_millis(250);
/// Where every datagram seems to come from.
const ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Private keys of the two ends.
const A: [u8; 32] = [1; 32];
const B: [u8; 32] = [2; 32];
/// Message types.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const DATA: u8 = 4;
/// Length of an empty data message.
const KEEPALIVE_LEN: usize = 32;
/// The second that boringtun writes for 1970-01-01, and the one the kernel and wireguard-go write.
const BORINGTUN_EPOCH: u64 = (1 << 62) + 37;
const KERNEL_EPOCH: u64 = (1 << 62) + 10;

/// What a call on a `Tunn` returned, with its bytes copied.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Out {
    Nothing,
    Error(String),
    Net(Vec<u8>),
    Tun(Vec<u8>),
}

impl Out {
    fn error(name: &str) -> Self {
        Self::Error(name.to_owned())
    }

    fn datagram(self) -> Vec<u8> {
        match self {
            Self::Net(datagram) => datagram,
            other => panic!("expected a datagram, got {other:?}"),
        }
    }
}

impl From<TunnResult<'_>> for Out {
    fn from(result: TunnResult<'_>) -> Self {
        match result {
            TunnResult::Done => Self::Nothing,
            TunnResult::Err(error) => Self::Error(format!("{error:?}")),
            TunnResult::WriteToNetwork(datagram) => Self::Net(datagram.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Self::Tun(packet.to_vec())
            }
        }
    }
}

/// The arguments of `Tunn::new`.
struct Setup {
    private: [u8; 32],
    peer: PublicKey,
    preshared_key: Option<[u8; 32]>,
    keepalive: Option<u16>,
    index: u32,
    limiter: Option<Arc<RateLimiter>>,
}

impl Setup {
    fn preshared_key(self, key: [u8; 32]) -> Self {
        Self { preshared_key: Some(key), ..self }
    }

    fn keepalive(self, seconds: u16) -> Self {
        Self { keepalive: Some(seconds), ..self }
    }

    fn index(self, index: u32) -> Self {
        Self { index, ..self }
    }

    fn limiter(self, limiter: Arc<RateLimiter>) -> Self {
        Self { limiter: Some(limiter), ..self }
    }

    fn start(self) -> Peer {
        let private = StaticSecret::from(self.private);
        let tunn = Tunn::new(private, self.peer, self.preshared_key, self.keepalive, self.index, self.limiter);
        Peer { tunn, buffer: vec![0; 2048] }
    }
}

/// A `Tunn` with a buffer.
struct Peer {
    tunn: Tunn,
    buffer: Vec<u8>,
}

impl Peer {
    #[allow(clippy::new_ret_no_self, reason = "ends in start()")]
    fn new(private: [u8; 32], peer: PublicKey) -> Setup {
        Setup { private, peer, preshared_key: None, keepalive: None, index: private[0].into(), limiter: None }
    }

    fn send(&mut self, packet: &[u8]) -> Out {
        self.tunn.encapsulate(packet, &mut self.buffer).into()
    }

    fn receive_from(&mut self, from: Option<IpAddr>, datagram: &[u8]) -> Out {
        self.tunn.decapsulate(from, datagram, &mut self.buffer).into()
    }

    fn receive(&mut self, datagram: &[u8]) -> Out {
        self.receive_from(Some(ADDR), datagram)
    }

    fn tick(&mut self) -> Out {
        self.tunn.update_timers(&mut self.buffer).into()
    }

    fn initiate(&mut self) -> Vec<u8> {
        Out::from(self.tunn.format_handshake_initiation(&mut self.buffer, true)).datagram()
    }

    /// Calls `decapsulate` with nothing until it is done, as its documentation asks.
    fn flush(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        while let Out::Net(datagram) = self.receive(&[]) {
            datagrams.push(datagram);
        }
        datagrams
    }

    /// Turns the clock to `until` (ms) with a tick at each step; what the ticks returned, and when (ms).
    fn run(&mut self, until: u64, step: Duration) -> Vec<(u64, Out)> {
        let mut log = Vec::new();
        while MockClock::time() < Duration::from_millis(until) {
            MockClock::advance(step);
            let out = self.tick();
            if out != Out::Nothing {
                log.push((u64::try_from(MockClock::time().as_millis()).unwrap(), out));
            }
        }
        log
    }
}

fn start_clock() {
    MockClock::set_time(Duration::ZERO);
}

/// The times in a log at which a message of this type was sent.
fn times(log: &[(u64, Out)], kind: u8) -> Vec<u64> {
    log.iter().filter(|(_, out)| matches!(out, Out::Net(datagram) if datagram[0] == kind)).map(|(at, _)| *at).collect()
}

fn public(private: [u8; 32]) -> PublicKey {
    PublicKey::from(&StaticSecret::from(private))
}

/// A session from `a` to `b`, confirmed; returns the initiation.
fn connect(a: &mut Peer, b: &mut Peer) -> Vec<u8> {
    let initiation = a.initiate();
    let response = b.receive(&initiation).datagram();
    let keepalive = a.receive(&response).datagram();
    assert_eq!(keepalive.len(), KEEPALIVE_LEN);
    assert_eq!(b.receive(&keepalive), Out::Nothing);
    initiation
}

/// Two ends with a session at time 0, begun by the first.
fn connected() -> (Peer, Peer) {
    start_clock();
    let mut a = Peer::new(A, public(B)).start();
    let mut b = Peer::new(B, public(A)).start();
    connect(&mut a, &mut b);
    (a, b)
}

/// How many of `count` initiations, 1 ms apart, get a response.
fn answered(a: &mut Peer, b: &mut Peer, count: usize) -> usize {
    let send = |_: &usize| {
        MockClock::advance(Duration::from_millis(1));
        b.receive(&a.initiate()).datagram()[0] == RESPONSE
    };
    (0..count).filter(send).count()
}

/// An IPv4 packet of this length from 10.0.0.1 to 10.0.0.2.
fn ipv4(len: u16) -> Vec<u8> {
    let mut packet = vec![0; len.into()];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

/// The index a message carries first: the sender's in an initiation, the receiver's in a data message.
fn index(datagram: &[u8]) -> u32 {
    u32::from_le_bytes(datagram[4..8].try_into().unwrap())
}

/// Runs `call`; the message if it panics.
fn panic_message(call: impl FnOnce() -> Out) -> Result<Out, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}
