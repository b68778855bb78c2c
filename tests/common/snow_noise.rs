//! Noise by another implementation (snow), which can also be told to use keys of low order.
#![allow(unreachable_pub, reason = "each test crate uses a part of it")]

use snow::{
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};

/// A handshake of WireGuard's kind, without keys yet.
pub fn noise<'a>() -> snow::Builder<'a> {
    let params = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
    let builder = snow::Builder::with_resolver(params, Box::new(WithLowOrder));
    builder.prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com").unwrap().psk(2, &[0; 32]).unwrap()
}

/// The time stamp in an initiation to the owner of `private`: seconds and nanoseconds.
pub fn timestamp(initiation: &[u8], private: &[u8; 32]) -> (u64, u32) {
    let mut responder = noise().local_private_key(private).unwrap().build_responder().unwrap();
    let mut payload = [0; 12];
    assert_eq!(responder.read_message(&initiation[8..116], &mut payload).unwrap(), 12);
    let (secs, nanos) = payload.split_at(8);
    (u64::from_be_bytes(secs.try_into().unwrap()), u32::from_be_bytes(nanos.try_into().unwrap()))
}

/// Stands for a low-order key: as a public key it is the all-zero point, and as a private key it means "none", with
/// that point for its public key.
pub const LOW_ORDER: [u8; 32] = [0; 32];

/// snow's own primitives, but for the private key `LOW_ORDER`.
struct WithLowOrder;

impl CryptoResolver for WithLowOrder {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(LowOrderDh { inner: DefaultResolver.resolve_dh(choice)? }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct LowOrderDh {
    inner: Box<dyn Dh>,
}

impl LowOrderDh {
    fn is_low_order(&self) -> bool {
        self.inner.privkey() == LOW_ORDER
    }
}

impl Dh for LowOrderDh {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn pub_len(&self) -> usize {
        self.inner.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.inner.priv_len()
    }

    fn set(&mut self, privkey: &[u8]) {
        self.inner.set(privkey);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.inner.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        if self.is_low_order() { &LOW_ORDER } else { self.inner.pubkey() }
    }

    fn privkey(&self) -> &[u8] {
        self.inner.privkey()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        if self.is_low_order() {
            out[..32].fill(0);
            return Ok(());
        }
        self.inner.dh(pubkey, out)
    }
}
