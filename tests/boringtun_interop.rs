//! The protocol engine against boringtun, in one process: each role, each message, and what both must refuse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Update, consts::U16},
};
use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519,
};
use mock_instant::MockClock;
use proptest::prelude::*;
use wg_embed::{
    key::{PresharedKey, PrivateKey, PublicKey},
    noise::{
        cookie::{CookieChecker, MacStamper, Macs},
        handshake::{Handshake, Identity, OpenedInitiation},
        message::{self, DATA_HEADER_LEN, DATA_OVERHEAD, Message},
        session::Session,
    },
    random::{Random, SystemRandom},
    time::Instant,
};

/// Private keys.
const OURS: [u8; 32] = [1; 32];
const THEIRS: [u8; 32] = [2; 32];
/// Where every datagram comes from.
const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 51820);
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
/// Length of an empty data message.
const KEEPALIVE_LEN: usize = 32;

/// What became of a received datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Out {
    /// Not accepted.
    Refused,
    /// Accepted, and nothing follows: a keepalive, a cookie.
    Taken,
    /// Accepted, and this is the answer to it.
    Answer(Vec<u8>),
    /// This packet was in it.
    Packet(Vec<u8>),
}

impl Out {
    fn answer(self) -> Vec<u8> {
        match self {
            Self::Answer(datagram) => datagram,
            other => panic!("expected an answer, got {other:?}"),
        }
    }
}

/// Our side: the engine, and as little of a device around it as will do.
struct Ours {
    identity: Identity,
    handshake: Handshake,
    stamper: MacStamper,
    checker: CookieChecker,
    session: Option<Arc<Session>>,
    under_load: bool,
}

fn now() -> Instant {
    Instant::default() + MockClock::time()
}

fn wall() -> Duration {
    Duration::from_secs(1_700_000_000) + MockClock::time()
}

impl Ours {
    fn new(private: [u8; 32], remote: [u8; 32]) -> Self {
        let identity = Identity::new(PrivateKey::from_bytes(private));
        Self {
            handshake: Handshake::new(PrivateKey::from_bytes(remote).public_key()),
            stamper: MacStamper::default(),
            checker: CookieChecker::new(identity.public()),
            session: None,
            under_load: false,
            identity,
        }
    }

    fn stamped<const N: usize>(&mut self, mut datagram: [u8; N]) -> Vec<u8> {
        self.stamper.stamp(&mut datagram, self.handshake.remote(), now());
        datagram.to_vec()
    }

    fn index() -> u32 {
        (&SystemRandom as &dyn Random).u32()
    }

    fn initiate(&mut self) -> Vec<u8> {
        let datagram = self.handshake.create_initiation(&self.identity, Self::index(), wall(), &SystemRandom).unwrap();
        self.stamped(datagram)
    }

    fn send(&self, packet: &[u8]) -> Vec<u8> {
        let session = self.session.as_ref().unwrap();
        let mut datagram = vec![0; message::padded_len(packet.len(), 1420) + DATA_OVERHEAD];
        datagram[DATA_HEADER_LEN..DATA_HEADER_LEN + packet.len()].copy_from_slice(packet);
        session.seal(session.take_counters(1).unwrap(), &mut datagram);
        datagram
    }

    fn receive(&mut self, datagram: &[u8]) -> Out {
        self.accept(datagram).unwrap_or(Out::Refused)
    }

    fn accept(&mut self, datagram: &[u8]) -> Option<Out> {
        let mut copy = datagram.to_vec();
        let message = Message::parse(&mut copy)?;
        if matches!(message, Message::Initiation(_) | Message::Response(_)) {
            let load = self.under_load;
            match self.checker.check(datagram, ADDR, load, now(), &SystemRandom) {
                Macs::Invalid => return None,
                Macs::Mac1 if load => {
                    let reply = self.checker.reply(datagram, ADDR, now(), &SystemRandom);
                    return Some(Out::Answer(reply.to_vec()));
                }
                Macs::Mac1 | Macs::Mac1AndCookie => {}
            }
        }
        match message {
            Message::Initiation(m) => {
                let opened =
                    OpenedInitiation::open(m, &self.identity).filter(|o| o.remote == *self.handshake.remote())?;
                self.handshake.consume_initiation(opened, m, &self.identity, now()).then_some(())?;
                let response = self.handshake.create_response(Self::index(), &SystemRandom)?;
                self.session = self.handshake.begin_session(now());
                Some(Out::Answer(self.stamped(response)))
            }
            Message::Response(m) => {
                self.handshake.consume_response(m, &self.identity).then_some(())?;
                self.session = self.handshake.begin_session(now());
                Some(Out::Answer(self.send(&[])))
            }
            Message::CookieReply(m) => self.stamper.take_reply(m, self.handshake.remote(), now()).then_some(Out::Taken),
            Message::Data(data) => {
                let session = self.session.as_ref()?;
                (data.receiver == session.local_index() && session.may_receive(now())).then_some(())?;
                let len = session.open(data.counter, data.body)?;
                let mut fresh = false;
                session.accept(&mut [data.counter], |counter| *counter, |_| fresh = true);
                fresh.then(|| match len {
                    0 => Out::Taken,
                    _ => Out::Packet(data.body[..len].to_vec()),
                })
            }
        }
    }
}

/// The other side: boringtun, with a buffer.
struct Theirs(Tunn, Vec<u8>);

impl Theirs {
    fn new(private: [u8; 32], remote: [u8; 32], preshared: Option<[u8; 32]>, handshakes: u64) -> Self {
        let (private, remote) = (x25519::StaticSecret::from(private), x25519::StaticSecret::from(remote));
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&private), handshakes);
        let remote = x25519::PublicKey::from(&remote);
        let tunn = Tunn::new(private, remote, preshared, None, 7, Some(Arc::new(limiter)));
        Self(tunn, vec![0; 4096])
    }

    fn out(result: TunnResult<'_>) -> Out {
        match result {
            TunnResult::Done => Out::Taken,
            TunnResult::Err(_) => Out::Refused,
            TunnResult::WriteToNetwork(datagram) => Out::Answer(datagram.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Out::Packet(packet.to_vec())
            }
        }
    }

    fn initiate(&mut self) -> Vec<u8> {
        // Its time stamps move with the clock alone.
        MockClock::advance(Duration::from_millis(50));
        Self::out(self.0.format_handshake_initiation(&mut self.1, true)).answer()
    }

    fn send(&mut self, packet: &[u8]) -> Vec<u8> {
        Self::out(self.0.encapsulate(packet, &mut self.1)).answer()
    }

    fn receive(&mut self, datagram: &[u8]) -> Out {
        Self::out(self.0.decapsulate(Some(ADDR.ip()), datagram, &mut self.1))
    }
}

fn pair() -> (Ours, Theirs) {
    MockClock::set_time(Duration::from_secs(10));
    (Ours::new(OURS, THEIRS), Theirs::new(THEIRS, OURS, None, u64::MAX))
}

/// A handshake from our side.
fn shake_ours(ours: &mut Ours, theirs: &mut Theirs) {
    MockClock::advance(Duration::from_millis(50));
    let response = theirs.receive(&ours.initiate()).answer();
    assert_eq!(response[0], RESPONSE);
    let keepalive = ours.receive(&response).answer();
    assert_eq!(theirs.receive(&keepalive), Out::Taken);
}

/// A handshake from theirs.
fn shake_theirs(ours: &mut Ours, theirs: &mut Theirs) {
    let response = ours.receive(&theirs.initiate()).answer();
    assert_eq!(response[0], RESPONSE);
    let keepalive = theirs.receive(&response).answer();
    assert_eq!(keepalive.len(), KEEPALIVE_LEN);
    assert_eq!(ours.receive(&keepalive), Out::Taken);
}

const SHAKES: [fn(&mut Ours, &mut Theirs); 2] = [shake_ours, shake_theirs];

/// An IPv4 or IPv6 packet of this length, as far as it goes.
fn packet(len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|at| at as u8).collect();
    if len >= 40 && len % 2 == 1 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&u16::try_from(len - 40).unwrap().to_be_bytes());
    } else if len >= 20 {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    }
    packet
}

/// Data in both directions.
fn talk(ours: &mut Ours, theirs: &mut Theirs) {
    for len in [20, 100, 1420] {
        let packet = packet(len);
        assert_eq!(theirs.receive(&ours.send(&packet)), Out::Packet(packet.clone()));
        assert_eq!(ours.receive(&theirs.send(&packet)), Out::Packet(packet));
    }
}

#[test]
fn handshakes_and_data_in_both_roles() {
    for shake in SHAKES {
        let (mut ours, mut theirs) = pair();
        shake(&mut ours, &mut theirs);
        talk(&mut ours, &mut theirs);
    }
}

#[test]
fn handshakes_follow_one_another() {
    let (mut ours, mut theirs) = pair();
    for shake in SHAKES.into_iter().cycle().take(20) {
        shake(&mut ours, &mut theirs);
        talk(&mut ours, &mut theirs);
    }
}

#[test]
fn a_preshared_key_must_be_the_same() {
    for shake in SHAKES {
        let (mut ours, _) = pair();
        let mut theirs = Theirs::new(THEIRS, OURS, Some([9; 32]), u64::MAX);
        ours.handshake.set_preshared(PresharedKey::from_bytes([9; 32]));
        shake(&mut ours, &mut theirs);
        talk(&mut ours, &mut theirs);

        ours.handshake.set_preshared(PresharedKey::from_bytes([8; 32]));
        MockClock::advance(Duration::from_millis(50));
        let response = theirs.receive(&ours.initiate()).answer();
        assert_eq!(ours.receive(&response), Out::Refused);
        let response = ours.receive(&theirs.initiate()).answer();
        assert_eq!(theirs.receive(&response), Out::Refused);
    }
}

#[test]
fn packets_of_every_length_arrive() {
    let (mut ours, mut theirs) = pair();
    shake_ours(&mut ours, &mut theirs);
    for len in 0..=1500 {
        let packet = packet(len);
        let datagram = ours.send(&packet);
        assert!(datagram.len() - DATA_OVERHEAD >= len && datagram.len() - DATA_OVERHEAD - len < 16);
        let expected = match len {
            0 => Out::Taken,
            1..20 => Out::Refused, // for not being IP, after it was opened
            _ => Out::Packet(packet.clone()),
        };
        assert_eq!(theirs.receive(&datagram), expected, "{len} bytes");

        // boringtun does not pad, so what comes out is what went in.
        let expected = if len == 0 { Out::Taken } else { Out::Packet(packet.clone()) };
        assert_eq!(ours.receive(&theirs.send(&packet)), expected, "{len} bytes");
    }
}

#[test]
fn keepalives_are_taken() {
    for shake in SHAKES {
        let (mut ours, mut theirs) = pair();
        shake(&mut ours, &mut theirs);
        let keepalive = ours.send(&[]);
        assert_eq!(keepalive.len(), KEEPALIVE_LEN);
        assert_eq!(theirs.receive(&keepalive), Out::Taken);
        let keepalive = theirs.send(&[]);
        assert_eq!(keepalive.len(), KEEPALIVE_LEN);
        assert_eq!(ours.receive(&keepalive), Out::Taken);
    }
}

#[test]
fn packets_arrive_in_any_order_once() {
    let (mut ours, mut theirs) = pair();
    shake_theirs(&mut ours, &mut theirs);
    let packets: Vec<Vec<u8>> = (100..164).map(packet).collect();
    let to_them: Vec<_> = packets.iter().map(|p| ours.send(p)).collect();
    let to_us: Vec<_> = packets.iter().map(|p| theirs.send(p)).collect();
    let shuffled = |n: usize| n * 37 % 64;
    for n in (0..64).map(shuffled) {
        assert_eq!(theirs.receive(&to_them[n]), Out::Packet(packets[n].clone()));
        assert_eq!(ours.receive(&to_us[n]), Out::Packet(packets[n].clone()));
    }
    for n in 0..64 {
        assert_eq!(theirs.receive(&to_them[n]), Out::Refused, "replayed");
        assert_eq!(ours.receive(&to_us[n]), Out::Refused, "replayed");
    }
}

#[test]
fn replayed_handshake_messages_are_refused() {
    let (mut ours, mut theirs) = pair();
    for _ in 0..2 {
        MockClock::advance(Duration::from_millis(50));
        let initiation = ours.initiate();
        let response = theirs.receive(&initiation).answer();
        let keepalive = ours.receive(&response).answer();
        assert_eq!(theirs.receive(&keepalive), Out::Taken);
        MockClock::advance(Duration::from_millis(50));
        assert_eq!(theirs.receive(&initiation), Out::Refused);
        assert_eq!(ours.receive(&response), Out::Refused);

        let initiation = theirs.initiate();
        let response = ours.receive(&initiation).answer();
        let keepalive = theirs.receive(&response).answer();
        assert_eq!(ours.receive(&keepalive), Out::Taken);
        MockClock::advance(Duration::from_millis(50));
        assert_eq!(ours.receive(&initiation), Out::Refused);
        assert_eq!(theirs.receive(&response), Out::Refused);
    }
    talk(&mut ours, &mut theirs);
}

#[test]
fn a_late_response_to_an_older_initiation_is_refused() {
    let (mut ours, mut theirs) = pair();
    let late = theirs.receive(&ours.initiate()).answer();
    MockClock::advance(Duration::from_secs(5));
    let second = ours.initiate();
    assert_eq!(ours.receive(&late), Out::Refused);
    let response = theirs.receive(&second).answer();
    let keepalive = ours.receive(&response).answer();
    assert_eq!(theirs.receive(&keepalive), Out::Taken);
    assert_eq!(ours.receive(&late), Out::Refused);
    talk(&mut ours, &mut theirs);
}

#[test]
fn a_data_message_with_any_byte_changed_is_refused() {
    let (mut ours, mut theirs) = pair();
    shake_ours(&mut ours, &mut theirs);
    for packet in [packet(100), vec![]] {
        let (to_them, to_us) = (ours.send(&packet), theirs.send(&packet));
        for (datagram, to_ours) in [(&to_them, false), (&to_us, true)] {
            let mut receive = |datagram: &[u8]| match to_ours {
                true => ours.receive(datagram),
                false => theirs.receive(datagram),
            };
            for at in 0..datagram.len() {
                // boringtun finds a session by three bits of the index alone; ours must look at all of it.
                if !to_ours && (4..8).contains(&at) {
                    continue;
                }
                let mut bad = datagram.clone();
                bad[at] ^= 0x10;
                assert_eq!(receive(&bad), Out::Refused, "byte {at}, to us: {to_ours}");
            }
            for len in 0..datagram.len() {
                if len > 0 {
                    assert_eq!(receive(&datagram[..len]), Out::Refused, "cut to {len}, to us: {to_ours}");
                }
            }
            assert_ne!(receive(datagram), Out::Refused, "what was refused has changed nothing");
        }
    }
}

#[test]
fn our_messages_carry_the_cookie_that_they_want() {
    MockClock::set_time(Duration::from_secs(10));
    // Under load from the first message on.
    let (mut ours, mut theirs) = (Ours::new(OURS, THEIRS), Theirs::new(THEIRS, OURS, None, 0));
    // As initiator.
    let initiation = ours.initiate();
    assert_eq!(initiation[132..], [0; 16]);
    let reply = theirs.receive(&initiation).answer();
    assert_eq!(reply[0], COOKIE_REPLY);
    let mut bad = reply.clone();
    bad[40] ^= 1;
    assert_eq!(ours.receive(&bad), Out::Refused);
    assert_eq!(ours.receive(&reply), Out::Taken);
    assert_eq!(ours.receive(&reply), Out::Refused, "it answers one message");
    MockClock::advance(Duration::from_secs(5));
    let initiation = ours.initiate();
    assert_ne!(initiation[132..], [0; 16]);
    let mut bad = initiation.clone();
    bad[140] ^= 1;
    assert_eq!(theirs.receive(&bad).answer()[0], COOKIE_REPLY);
    let response = theirs.receive(&initiation).answer();
    assert_eq!(response[0], RESPONSE);
    let keepalive = ours.receive(&response).answer();
    assert_eq!(theirs.receive(&keepalive), Out::Taken);
    talk(&mut ours, &mut theirs);

    // As responder, without a cookie at first.
    let (mut ours, mut theirs) = (Ours::new(OURS, THEIRS), Theirs::new(THEIRS, OURS, None, 0));
    let response = ours.receive(&theirs.initiate()).answer();
    let reply = theirs.receive(&response).answer();
    assert_eq!(reply[0], COOKIE_REPLY);
    assert_eq!(ours.receive(&reply), Out::Taken);
    shake_theirs(&mut ours, &mut theirs);
    talk(&mut ours, &mut theirs);
}

#[test]
fn their_messages_carry_the_cookie_that_we_want() {
    let (mut ours, mut theirs) = pair();
    ours.under_load = true;
    // As responder to us.
    let initiation = theirs.initiate();
    let reply = ours.receive(&initiation).answer();
    assert_eq!(reply[0], COOKIE_REPLY);
    let mut bad = reply.clone();
    bad[40] ^= 1;
    assert_eq!(theirs.receive(&bad), Out::Refused);
    assert_eq!(theirs.receive(&reply), Out::Taken);
    assert_eq!(ours.receive(&initiation).answer()[0], COOKIE_REPLY, "it has no cookie");
    let initiation = theirs.initiate();
    assert_ne!(initiation[132..], [0; 16]);
    let elsewhere = SocketAddr::new(ADDR.ip(), 1);
    let macs = ours.checker.check(&initiation, elsewhere, true, now(), &SystemRandom);
    assert_eq!(macs, Macs::Mac1);
    let response = ours.receive(&initiation).answer();
    assert_eq!(response[0], RESPONSE);
    let keepalive = theirs.receive(&response).answer();
    assert_eq!(ours.receive(&keepalive), Out::Taken);
    talk(&mut ours, &mut theirs);

    // As initiator: their response needs one too.
    let (mut ours, mut theirs) = pair();
    ours.under_load = true;
    let response = theirs.receive(&ours.initiate()).answer();
    let reply = ours.receive(&response).answer();
    assert_eq!(reply[0], COOKIE_REPLY);
    assert_eq!(theirs.receive(&reply), Out::Taken);
    MockClock::advance(Duration::from_secs(5));
    let response = theirs.receive(&ours.initiate()).answer();
    let keepalive = ours.receive(&response).answer();
    assert_eq!(theirs.receive(&keepalive), Out::Taken);
    talk(&mut ours, &mut theirs);
}

/// Puts mac1 for the owner of a key at the end of a handshake message, as anybody who knows the public key can.
fn sign(datagram: &mut [u8], to: &PublicKey) {
    let Some(at) = datagram.len().checked_sub(32) else {
        return;
    };
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(to.as_bytes()).finalize();
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap();
    Update::update(&mut mac, &datagram[..at]);
    datagram[at..at + 16].copy_from_slice(&mac.finalize_fixed());
}

/// Something that is done to a datagram on its way.
#[derive(Clone, Debug)]
enum Harm {
    Flip(prop::sample::Index, u8),
    Fill(prop::sample::Index, usize, u8),
    Cut(prop::sample::Index),
    Extend(u8),
}

impl Harm {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            8 => (any::<prop::sample::Index>(), 0u8..8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            2 => (any::<prop::sample::Index>(), 1usize..40, prop_oneof![Just(0), Just(255)])
                .prop_map(|(at, len, byte)| Self::Fill(at, len, byte)),
            1 => any::<prop::sample::Index>().prop_map(Self::Cut),
            1 => any::<u8>().prop_map(Self::Extend),
        ]
    }

    fn apply(&self, datagram: &mut Vec<u8>) {
        let len = datagram.len();
        if len == 0 {
            return;
        }
        match self {
            Self::Flip(at, bit) => datagram[at.index(len)] ^= 1 << bit,
            Self::Fill(at, count, byte) => {
                let start = at.index(len);
                datagram[start..len.min(start + count)].fill(*byte);
            }
            Self::Cut(at) => datagram.truncate(at.index(len)),
            Self::Extend(byte) => datagram.push(*byte),
        }
    }
}

/// Whether a handshake message is still as its sender made it, in all that is authenticated: neither mac1, if it is
/// made anew, nor mac2, nor the sender's own index.
fn untouched(datagram: &[u8], original: &[u8], signed: bool) -> bool {
    let end = original.len() - if signed { 32 } else { 16 };
    let index = if signed { 4..8 } else { 0..0 };
    datagram.len() == original.len() && (0..end).all(|at| index.contains(&at) || datagram[at] == original[at])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An initiation that was tampered with is refused by both, and does not keep the true one from being taken.
    #[test]
    fn both_refuse_a_damaged_initiation(harms in prop::collection::vec(Harm::any(), 1..4), signed: bool, by_us: bool) {
        // Two responders with one key, one of each kind.
        MockClock::set_time(Duration::from_secs(10));
        let (mut ours, mut theirs) = (Ours::new(THEIRS, OURS), Theirs::new(THEIRS, OURS, None, u64::MAX));
        let original = match by_us {
            true => Ours::new(OURS, THEIRS).initiate(),
            false => Theirs::new(OURS, THEIRS, None, u64::MAX).initiate(),
        };
        let mut bad = original.clone();
        harms.iter().for_each(|harm| harm.apply(&mut bad));
        if signed {
            sign(&mut bad, ours.identity.public());
        }
        if bad.is_empty() || untouched(&bad, &original, signed) {
            return Ok(());
        }
        prop_assert_eq!(ours.receive(&bad), Out::Refused);
        prop_assert_eq!(theirs.receive(&bad), Out::Refused);
        MockClock::advance(Duration::from_millis(50));
        prop_assert_eq!(original[0], INITIATION);
        prop_assert_eq!(ours.receive(&original).answer()[0], RESPONSE);
        prop_assert_eq!(theirs.receive(&original).answer()[0], RESPONSE);
    }

    /// The same of a response, in each direction.
    #[test]
    fn both_refuse_a_damaged_response(harms in prop::collection::vec(Harm::any(), 1..4), signed: bool) {
        for shake_by_us in [true, false] {
            let (mut ours, mut theirs) = pair();
            let original = match shake_by_us {
                true => theirs.receive(&ours.initiate()).answer(),
                false => ours.receive(&theirs.initiate()).answer(),
            };
            let mut bad = original.clone();
            harms.iter().for_each(|harm| harm.apply(&mut bad));
            if signed {
                let to = if shake_by_us { OURS } else { THEIRS };
                sign(&mut bad, &PrivateKey::from_bytes(to).public_key());
            }
            if bad.is_empty() || untouched(&bad, &original, signed) {
                continue;
            }
            let mut receive = |datagram: &[u8]| match shake_by_us {
                true => ours.receive(datagram),
                false => theirs.receive(datagram),
            };
            prop_assert_eq!(receive(&bad), Out::Refused);
            prop_assert_eq!(receive(&original).answer().len(), KEEPALIVE_LEN);
        }
    }

    /// And of a cookie reply.
    #[test]
    fn both_refuse_a_damaged_cookie_reply(harms in prop::collection::vec(Harm::any(), 1..4)) {
        for to_us in [true, false] {
            MockClock::set_time(Duration::from_secs(10));
            let (mut ours, mut theirs) = (Ours::new(OURS, THEIRS), Theirs::new(THEIRS, OURS, None, 0));
            ours.under_load = true;
            let original = match to_us {
                true => theirs.receive(&ours.initiate()).answer(),
                false => ours.receive(&theirs.initiate()).answer(),
            };
            let mut bad = original.clone();
            harms.iter().for_each(|harm| harm.apply(&mut bad));
            // The index is not authenticated, and looking it up is the device's part.
            if bad.is_empty() || (bad.len() == 64 && bad[..4] == original[..4] && bad[8..] == original[8..]) {
                continue;
            }
            let mut receive = |datagram: &[u8]| match to_us {
                true => ours.receive(datagram),
                false => theirs.receive(datagram),
            };
            prop_assert_eq!(receive(&bad), Out::Refused);
            prop_assert_eq!(receive(&original), Out::Taken);
        }
    }

    /// No datagram, however it came to be, stops us or is taken.
    #[test]
    fn any_datagram_is_survived(bytes in prop::collection::vec(any::<u8>(), 1..200), kind in 0u8..6) {
        let (mut ours, mut theirs) = pair();
        shake_ours(&mut ours, &mut theirs);
        let mut bytes = bytes;
        bytes.resize(bytes.len().max(4), 0);
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        prop_assert_eq!(ours.receive(&bytes), Out::Refused);
        talk(&mut ours, &mut theirs);
    }
}
