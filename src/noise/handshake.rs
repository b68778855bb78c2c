//! The handshake: Noise IKpsk2, sections 5.4.2 and 5.4.3.
//!
//! A [`Handshake`] belongs to one peer. The initiator calls [`create_initiation`](Handshake::create_initiation), then
//! [`consume_response`](Handshake::consume_response). For the responder an initiation names its sender only once it is
//! decrypted, so it first calls [`OpenedInitiation::open`], then [`consume_initiation`](Handshake::consume_initiation)
//! of that peer and [`create_response`](Handshake::create_response). Both end with
//! [`begin_session`](Handshake::begin_session). None of these leaves a secret on the stack; their state is on the heap.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::{
    aead::{AeadKey, TAG_LEN},
    kdf::{self, Hash},
    message::{INITIATION_LEN, RESPONSE_LEN, TYPE_INITIATION, TYPE_RESPONSE, u32_at},
    session::{Keys, Session},
    tai64n::{self, Tai64N},
};
use crate::{
    key::{KEY_LEN, PresharedKey, PrivateKey, PublicKey, Secret, wiped},
    random::Random,
    time::Instant,
};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// The minimum time between two initiations of a peer (`INITIATIONS_PER_SECOND`, 50, of the kernel).
const MIN_INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Our own static key pair.
#[derive(Clone)]
pub struct Identity {
    private: PrivateKey,
    public: PublicKey,
}

impl Identity {
    /// Derives the public key, which costs one multiplication.
    #[must_use]
    pub fn new(private: PrivateKey) -> Self {
        Self { public: private.public_key(), private }
    }

    /// Returns the private key.
    #[must_use]
    pub const fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// Returns the public key.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// The chaining key and the hash of the transcript so far.
struct Symmetric {
    chain: Secret,
    hash: Hash,
}

impl Symmetric {
    /// Returns the state before the first message to `responder`.
    fn new(responder: &PublicKey) -> Self {
        static START: LazyLock<(Hash, Hash)> = LazyLock::new(|| {
            let chain = kdf::hash(&[CONSTRUCTION]);
            (chain, kdf::hash(&[&chain, IDENTIFIER]))
        });
        let mut state = Self { chain: Secret::new(START.0), hash: START.1 };
        state.mix_hash(responder.as_bytes());
        state
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = kdf::hash(&[&self.hash, data]);
    }

    fn mix_chain(&mut self, data: &[u8]) {
        [self.chain] = kdf::kdf(&self.chain, data);
    }

    fn mix_ephemeral(&mut self, public: &PublicKey) {
        self.mix_hash(public.as_bytes());
        self.mix_chain(public.as_bytes());
    }

    fn mix_secret(&mut self, secret: &Secret) -> Secret {
        let [chain, key] = kdf::kdf(&self.chain, secret.as_ref());
        self.chain = chain;
        key
    }

    fn mix_preshared(&mut self, preshared: &PresharedKey) -> Secret {
        let [chain, tau, key] = kdf::kdf(&self.chain, preshared.as_bytes());
        self.chain = chain;
        self.mix_hash(tau.as_ref());
        key
    }

    /// Encrypts `text` into `out`, which is 16 bytes longer.
    fn seal(&mut self, key: &Secret, text: &[u8], out: &mut [u8]) {
        out[..text.len()].copy_from_slice(text);
        AeadKey::new(key).seal(0, &self.hash, out);
        self.mix_hash(out);
    }

    /// Decrypts `N` bytes of text.
    fn open<const N: usize>(&mut self, key: &Secret, sealed: &[u8]) -> Option<[u8; N]> {
        let mut buffer = Secret::<{ KEY_LEN + TAG_LEN }>::default();
        let buffer = buffer.get_mut(..N + TAG_LEN).filter(|b| b.len() == sealed.len())?;
        buffer.copy_from_slice(sealed);
        AeadKey::new(key).open(0, &self.hash, buffer)?;
        self.mix_hash(sealed);
        buffer[..N].try_into().ok()
    }
}

fn public_key_at(message: &[u8], at: usize) -> Option<PublicKey> {
    message.get(at..at + KEY_LEN)?.try_into().ok().map(PublicKey::from_bytes)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    InitiationSent,
    InitiationReceived,
    ResponseSent,
    ResponseReceived,
}

/// A handshake in progress.
struct Pending {
    stage: Stage,
    symmetric: Symmetric,
    /// Our ephemeral key; `None` while a received initiation has not been answered.
    ephemeral: Option<PrivateKey>,
    remote_ephemeral: Option<PublicKey>,
    /// Our index, once we have sent a message of this handshake.
    local_index: Option<u32>,
    remote_index: u32,
}

/// A received initiation whose sender has been decrypted, but not yet authenticated.
pub struct OpenedInitiation {
    /// The key of the claimed sender.
    pub remote: PublicKey,
    pending: Box<Pending>,
}

impl OpenedInitiation {
    /// Decrypts the sender's static key with ours (one multiplication). Returns `None` if it is not for us, or damaged.
    #[must_use]
    pub fn open(message: &[u8; INITIATION_LEN], identity: &Identity) -> Option<Self> {
        wiped(|| {
            let ephemeral = public_key_at(message, 8)?;
            let mut symmetric = Symmetric::new(&identity.public);
            symmetric.mix_ephemeral(&ephemeral);
            let key = symmetric.mix_secret(&identity.private.diffie_hellman(&ephemeral)?);
            let remote = PublicKey::from_bytes(symmetric.open(&key, &message[40..88])?);
            let pending = Pending {
                stage: Stage::InitiationReceived,
                symmetric,
                ephemeral: None,
                remote_ephemeral: Some(ephemeral),
                local_index: None,
                remote_index: u32_at(message, 4),
            };
            Some(Self { remote, pending: Box::new(pending) })
        })
    }
}

/// One peer's handshake state, about 200 bytes while no handshake is in progress.
pub struct Handshake {
    remote: PublicKey,
    preshared: PresharedKey,
    /// The shared secret of both static keys: computed when first needed, and again when our own key changes. The inner
    /// `None` means that the peer's key is of low order.
    static_static: Option<Option<Secret>>,
    last_sent: Tai64N,
    last_received: Tai64N,
    last_initiation: Option<Instant>,
    pending: Option<Box<Pending>>,
}

impl Handshake {
    /// Additional bytes of memory during a handshake.
    pub const PENDING_MEMORY: usize = size_of::<Pending>();

    /// Creates the state without a handshake.
    #[must_use]
    pub fn new(remote: PublicKey) -> Self {
        Self {
            remote,
            preshared: PresharedKey::default(),
            static_static: None,
            last_sent: Tai64N::default(),
            last_received: Tai64N::default(),
            last_initiation: None,
            pending: None,
        }
    }

    /// Returns the peer's static key.
    #[must_use]
    pub const fn remote(&self) -> &PublicKey {
        &self.remote
    }

    /// Returns the preshared key; all zeros if there is none.
    #[must_use]
    pub const fn preshared(&self) -> &PresharedKey {
        &self.preshared
    }

    /// Sets the preshared key, which is used from the next response on, ours or theirs.
    pub fn set_preshared(&mut self, key: PresharedKey) {
        self.preshared = key;
    }

    /// Forgets the handshake in progress and values computed with our old static key. The state for replay protection
    /// is kept.
    pub fn identity_changed(&mut self) {
        self.static_static = None;
        self.clear();
    }

    /// Forgets the handshake in progress.
    pub fn clear(&mut self) {
        self.pending = None;
    }

    /// Returns whether a handshake is in progress.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Returns our index in the handshake in progress, if we have sent a message of it: the other side replies to this
    /// index, with a response or a cookie reply.
    #[must_use]
    pub fn local_index(&self) -> Option<u32> {
        self.pending.as_ref()?.local_index
    }

    fn static_static(&mut self, identity: &Identity) -> Option<Secret> {
        let remote = self.remote;
        self.static_static.get_or_insert_with(|| identity.private.diffie_hellman(&remote)).clone()
    }

    /// Creates an initiation; a handshake in progress is forgotten. The MACs must still be stamped. Returns `None` if
    /// the peer's key is of low order.
    #[must_use]
    pub fn create_initiation(
        &mut self,
        identity: &Identity,
        local_index: u32,
        wall: Duration,
        random: &dyn Random,
    ) -> Option<[u8; INITIATION_LEN]> {
        wiped(|| {
            self.pending = None;
            let static_static = self.static_static(identity)?;
            let mut message = [0; INITIATION_LEN];
            message[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
            message[4..8].copy_from_slice(&local_index.to_le_bytes());

            let ephemeral = PrivateKey::generate_with(random);
            let public = ephemeral.public_key();
            message[8..40].copy_from_slice(public.as_bytes());
            let mut symmetric = Symmetric::new(&self.remote);
            symmetric.mix_ephemeral(&public);

            let key = symmetric.mix_secret(&ephemeral.diffie_hellman(&self.remote)?);
            symmetric.seal(&key, identity.public.as_bytes(), &mut message[40..88]);

            let key = symmetric.mix_secret(&static_static);
            self.last_sent = Tai64N::after(self.last_sent, wall);
            symmetric.seal(&key, &self.last_sent.0, &mut message[88..116]);

            self.pending = Some(Box::new(Pending {
                stage: Stage::InitiationSent,
                symmetric,
                ephemeral: Some(ephemeral),
                remote_ephemeral: None,
                local_index: Some(local_index),
                remote_index: 0,
            }));
            Some(message)
        })
    }

    /// Accepts an initiation that claims to be from this peer. Returns false, and changes nothing, if it is not
    /// authentic, is a replay, or arrives within 20 ms of the last accepted one.
    #[must_use]
    pub fn consume_initiation(
        &mut self,
        opened: OpenedInitiation,
        message: &[u8; INITIATION_LEN],
        identity: &Identity,
        now: Instant,
    ) -> bool {
        wiped(|| {
            let OpenedInitiation { mut pending, .. } = opened;
            let symmetric = &mut pending.symmetric;
            let Some(static_static) = self.static_static(identity) else {
                return false;
            };
            let key = symmetric.mix_secret(&static_static);
            let Some(sent) = symmetric.open::<{ tai64n::LEN }>(&key, &message[88..116]).map(Tai64N) else {
                return false;
            };
            let flood = self.last_initiation.is_some_and(|last| now.since(last) < MIN_INITIATION_INTERVAL);
            if sent <= self.last_received || flood {
                return false;
            }
            self.last_received = sent;
            self.last_initiation = Some(now);
            // An initiation of our own in progress is abandoned with its index, as in the kernel.
            self.pending = Some(pending);
            true
        })
    }

    /// Creates the response to the last consumed initiation. The MACs must still be stamped. Returns `None` if there is
    /// none to respond to, or one of the peer's keys is of low order; that handshake is then forgotten.
    #[must_use]
    pub fn create_response(&mut self, local_index: u32, random: &dyn Random) -> Option<[u8; RESPONSE_LEN]> {
        wiped(|| {
            let mut pending = self.pending.take_if(|p| p.stage == Stage::InitiationReceived)?;
            let mut message = [0; RESPONSE_LEN];
            message[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
            message[4..8].copy_from_slice(&local_index.to_le_bytes());
            message[8..12].copy_from_slice(&pending.remote_index.to_le_bytes());

            let ephemeral = PrivateKey::generate_with(random);
            let public = ephemeral.public_key();
            message[12..44].copy_from_slice(public.as_bytes());
            let symmetric = &mut pending.symmetric;
            symmetric.mix_ephemeral(&public);
            symmetric.mix_chain(ephemeral.diffie_hellman(&pending.remote_ephemeral?)?.as_ref());
            symmetric.mix_chain(ephemeral.diffie_hellman(&self.remote)?.as_ref());
            let key = symmetric.mix_preshared(&self.preshared);
            symmetric.seal(&key, &[], &mut message[44..60]);

            pending.local_index = Some(local_index);
            pending.stage = Stage::ResponseSent;
            self.pending = Some(pending);
            Some(message)
        })
    }

    /// Accepts the response to our initiation. Returns false, and changes nothing, if it is not authentic.
    #[must_use]
    pub fn consume_response(&mut self, message: &[u8; RESPONSE_LEN], identity: &Identity) -> bool {
        wiped(|| {
            let Some(pending) = self.pending.as_mut() else {
                return false;
            };
            if pending.stage != Stage::InitiationSent || pending.local_index != Some(u32_at(message, 8)) {
                return false;
            }
            let mut symmetric = Symmetric { chain: pending.symmetric.chain.clone(), hash: pending.symmetric.hash };
            let opened = (|| {
                let theirs = public_key_at(message, 12)?;
                symmetric.mix_ephemeral(&theirs);
                symmetric.mix_chain(pending.ephemeral.as_ref()?.diffie_hellman(&theirs)?.as_ref());
                symmetric.mix_chain(identity.private.diffie_hellman(&theirs)?.as_ref());
                let key = symmetric.mix_preshared(&self.preshared);
                symmetric.open::<0>(&key, &message[44..60])
            })();
            if opened.is_none() {
                return false;
            }
            pending.symmetric = symmetric;
            pending.ephemeral = None;
            pending.remote_index = u32_at(message, 4);
            pending.stage = Stage::ResponseReceived;
            true
        })
    }

    /// Ends a handshake whose second message was sent or accepted, and forgets it. Returns the session.
    #[must_use]
    pub fn begin_session(&mut self, now: Instant) -> Option<Arc<Session>> {
        wiped(|| {
            let initiator = match self.pending.as_ref()?.stage {
                Stage::ResponseReceived => true,
                Stage::ResponseSent => false,
                Stage::InitiationSent | Stage::InitiationReceived => return None,
            };
            let pending = self.pending.take()?;
            let [first, second] = kdf::kdf(&pending.symmetric.chain, &[]);
            let (sending, receiving) = if initiator { (&first, &second) } else { (&second, &first) };
            Some(Arc::new(Session::new(
                &Keys {
                    local_index: pending.local_index?,
                    remote_index: pending.remote_index,
                    initiator,
                    sending,
                    receiving,
                },
                now,
            )))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::random::SystemRandom;

    const WALL: Duration = Duration::from_secs(1_700_000_000);

    struct End {
        identity: Identity,
        handshake: Handshake,
    }

    fn pair() -> (End, End) {
        let (a, b) = (
            Identity::new(PrivateKey::generate_with(&SystemRandom)),
            Identity::new(PrivateKey::generate_with(&SystemRandom)),
        );
        let (to_b, to_a) = (Handshake::new(b.public), Handshake::new(a.public));
        (End { identity: a, handshake: to_b }, End { identity: b, handshake: to_a })
    }

    fn receive(to: &mut End, m: &[u8; INITIATION_LEN], now: Instant) -> bool {
        let opened = OpenedInitiation::open(m, &to.identity).unwrap();
        to.handshake.consume_initiation(opened, m, &to.identity, now)
    }

    fn shake(a: &mut End, b: &mut End) -> Option<(Arc<Session>, Arc<Session>)> {
        let now = Instant::from_nanos(1);
        let m1 = a.handshake.create_initiation(&a.identity, 11, WALL, &SystemRandom)?;
        receive(b, &m1, now).then_some(())?;
        let m2 = b.handshake.create_response(22, &SystemRandom)?;
        a.handshake.consume_response(&m2, &a.identity).then_some(())?;
        Some((a.handshake.begin_session(now)?, b.handshake.begin_session(now)?))
    }

    #[test]
    fn both_ends_derive_the_same_session() {
        let (mut a, mut b) = pair();
        let psk = PresharedKey::generate_with(&SystemRandom);
        a.handshake.set_preshared(psk.clone());
        b.handshake.set_preshared(psk);
        let (sa, sb) = shake(&mut a, &mut b).unwrap();
        let mut m = [9; 16 + 16 + 16];
        sa.seal(5, &mut m);
        assert_eq!(m[4..8], 22u32.to_le_bytes());
        assert_eq!(sb.open(5, &mut m[16..]), Some(16));
        assert!(sa.is_initiator() && !sb.is_initiator());
    }

    #[test]
    fn different_preshared_keys_fail() {
        let (mut a, mut b) = pair();
        a.handshake.set_preshared(PresharedKey::generate_with(&SystemRandom));
        assert!(shake(&mut a, &mut b).is_none());
    }

    #[test]
    fn a_replayed_or_hurried_initiation_is_refused() {
        let (mut a, mut b) = pair();
        let m1 = a.handshake.create_initiation(&a.identity, 1, WALL, &SystemRandom).unwrap();
        let m2 = a.handshake.create_initiation(&a.identity, 2, WALL, &SystemRandom).unwrap();
        let start = Instant::from_nanos(1_000_000_000);
        assert!(receive(&mut b, &m1, start));
        assert!(!receive(&mut b, &m1, start + Duration::from_secs(9)), "replayed");
        assert!(!receive(&mut b, &m2, start + Duration::from_nanos(19_999_999)), "too soon");
        assert!(receive(&mut b, &m2, start + MIN_INITIATION_INTERVAL));
        assert!(!receive(&mut b, &m1, start + Duration::from_secs(9)), "an older one");
    }

    #[test]
    fn a_response_answers_the_last_initiation_once() {
        let (mut a, mut b) = pair();
        let m1 = a.handshake.create_initiation(&a.identity, 1, WALL, &SystemRandom).unwrap();
        assert!(receive(&mut b, &m1, Instant::default()));
        let old = b.handshake.create_response(7, &SystemRandom).unwrap();
        assert!(b.handshake.create_response(7, &SystemRandom).is_none());
        let m1 = a.handshake.create_initiation(&a.identity, 2, WALL, &SystemRandom).unwrap();
        assert!(!a.handshake.consume_response(&old, &a.identity), "answers a forgotten initiation");
        assert!(receive(&mut b, &m1, Instant::from_nanos(1_000_000_000)));
        let mut m2 = b.handshake.create_response(8, &SystemRandom).unwrap();
        m2[50] ^= 1;
        assert!(!a.handshake.consume_response(&m2, &a.identity), "damaged");
        m2[50] ^= 1;
        assert!(a.handshake.consume_response(&m2, &a.identity), "a damaged one does no harm");
        assert!(!a.handshake.consume_response(&m2, &a.identity), "taken already");
    }

    #[test]
    fn low_order_keys_are_refused() {
        let (mut a, mut b) = pair();
        a.handshake = Handshake::new(PublicKey::from_bytes([0; 32]));
        assert!(a.handshake.create_initiation(&a.identity, 1, WALL, &SystemRandom).is_none());
        // An ephemeral key of low order: the sender can compute the rest, but the receiver must refuse it.
        let (a, _) = pair();
        let zero = PublicKey::from_bytes([0; 32]);
        let mut symmetric = Symmetric::new(&b.identity.public);
        symmetric.mix_ephemeral(&zero);
        let key = symmetric.mix_secret(&Secret::default());
        let mut m = [0; INITIATION_LEN];
        m[0] = 1;
        symmetric.seal(&key, a.identity.public.as_bytes(), &mut m[40..88]);
        assert!(OpenedInitiation::open(&m, &b.identity).is_none());
        b.handshake.clear();
    }

    #[test]
    fn changing_our_key_keeps_replay_protection() {
        let (mut a, mut b) = pair();
        let m1 = a.handshake.create_initiation(&a.identity, 1, WALL, &SystemRandom).unwrap();
        assert!(receive(&mut b, &m1, Instant::default()));
        b.handshake.identity_changed();
        assert!(b.handshake.create_response(1, &SystemRandom).is_none(), "what was under way is gone");
        assert!(!receive(&mut b, &m1, Instant::from_nanos(1_000_000_000)), "an old initiation stays old");
    }

    #[test]
    fn a_handshake_has_an_index_once_we_have_sent_a_message_of_it() {
        let (mut a, mut b) = pair();
        assert_eq!(b.handshake.local_index(), None);
        let ours = b.handshake.create_initiation(&b.identity, 3, WALL, &SystemRandom);
        assert!(ours.is_some());
        assert_eq!(b.handshake.local_index(), Some(3));
        let m1 = a.handshake.create_initiation(&a.identity, 1, WALL, &SystemRandom).unwrap();
        assert!(receive(&mut b, &m1, Instant::default()));
        assert_eq!(b.handshake.local_index(), None, "our initiation is given up");
        assert!(b.handshake.begin_session(Instant::default()).is_none());
        assert!(b.handshake.create_response(4, &SystemRandom).is_some());
        assert_eq!(b.handshake.local_index(), Some(4));
        let session = b.handshake.begin_session(Instant::default()).unwrap();
        assert_eq!((session.local_index(), b.handshake.local_index()), (4, None));
    }

    #[test]
    fn an_initiation_that_cannot_be_answered_is_forgotten() {
        let (mut a, mut b) = pair();
        let m1 = a.handshake.create_initiation(&a.identity, 1, WALL, &SystemRandom).unwrap();
        assert!(receive(&mut b, &m1, Instant::default()));
        // This cannot arrive from the network: the first message would not have been opened.
        let zero = PublicKey::from_bytes([0; 32]);
        b.handshake.pending.as_mut().unwrap().remote_ephemeral = Some(zero);
        assert!(b.handshake.create_response(2, &SystemRandom).is_none());
        assert!(b.handshake.pending.is_none());
        assert!(b.handshake.begin_session(Instant::default()).is_none());
    }

    #[test]
    fn memory_stays_small() {
        assert!(size_of::<Handshake>() <= 200, "{}", size_of::<Handshake>());
        assert!(size_of::<Session>() <= 1152, "{}", size_of::<Session>());
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let (mut a, mut b) = pair();
        let good = a.handshake.create_initiation(&a.identity, 1, WALL, &SystemRandom).unwrap();
        for at in 8..116 {
            let mut m = good;
            m[at] ^= 0x10;
            let taken = OpenedInitiation::open(&m, &b.identity)
                .filter(|o| o.remote == *a.identity.public())
                .is_some_and(|o| b.handshake.consume_initiation(o, &m, &b.identity, Instant::default()));
            assert!(!taken, "byte {at}");
        }
        assert!(receive(&mut b, &good, Instant::default()));
    }
}
