//! The secrets of two tunnels, and what follows from them in a handshake: sections 5.4.2 and 5.4.3.

use std::collections::BTreeMap;

use blake2::{Blake2s256, Digest};
use wg_embed::key::{PrivateKey, PublicKey, Secret};

pub(crate) type Key = [u8; 32];

/// Ephemeral keys of one side that are looked for: more than one only on a machine where packets are lost.
const EPHEMERALS: u64 = 3;

/// What to search for: bytes by name.
pub(crate) struct Secrets(pub(crate) BTreeMap<String, Vec<u8>>);

impl Secrets {
    /// All that two tunnels with these keys have, and may have had on the way.
    pub(crate) fn of_handshakes(a: &Key, b: &Key, psk: &Key) -> Self {
        let mut all = BTreeMap::new();
        let mut add = |name: &str, bytes: &[u8]| drop(all.insert(name.to_owned(), bytes.to_vec()));
        for (name, key) in [("private a", a), ("private b", b), ("preshared", psk)] {
            add(name, key);
            add(&format!("{name} in hex"), hex(key).as_bytes());
        }
        let (ours, theirs) = (PrivateKey::from_bytes(*a), PrivateKey::from_bytes(*b));
        add("static", &dh(&ours, &theirs)[..]);
        for i in 0..EPHEMERALS {
            for j in 0..EPHEMERALS {
                let keys = [PrivateKey::from_bytes(ephemeral("a", i)), PrivateKey::from_bytes(ephemeral("b", j))];
                let names = [("ephemeral a", i), ("ephemeral b", j)].map(|(name, n)| format!("{name} {n}"));
                names.iter().zip(&keys).for_each(|(name, key)| add(name, key.as_bytes()));
                handshake([&ours, &keys[0]], [&theirs, &keys[1]], psk, |name, secret| {
                    add(&format!("{name} {i} {j}"), secret);
                });
            }
        }
        Self(all)
    }
}

fn handshake(a: [&PrivateKey; 2], b: [&PrivateKey; 2], psk: &Key, mut add: impl FnMut(&str, &Key)) {
    let [[a, e], [b, f]] = [a, b];
    let mut chain = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
    [chain] = kdf(&chain, e.public_key().as_bytes());
    for (name, secret) in [("es", dh(e, b)), ("ss", dh(a, b))] {
        if name != "ss" {
            add(name, &secret);
        }
        let key;
        [chain, key] = kdf(&chain, &secret[..]);
        add(&format!("chain {name}"), &chain);
        add(&format!("key {name}"), &key);
    }
    [chain] = kdf(&chain, f.public_key().as_bytes());
    for (name, secret) in [("ee", dh(e, f)), ("se", dh(a, f))] {
        add(name, &secret);
        [chain] = kdf(&chain, &secret[..]);
        add(&format!("chain {name}"), &chain);
    }
    let [chain, tau, key] = kdf(&chain, psk);
    let sessions: [Key; 2] = kdf(&chain, &[]);
    for (name, secret) in [("chain psk", chain), ("tau", tau), ("key psk", key)] {
        add(name, &secret);
    }
    add("session to b", &sessions[0]);
    add("session to a", &sessions[1]);
}

fn dh(private: &PrivateKey, other: &PrivateKey) -> Secret {
    private.diffie_hellman(&PublicKey::from_bytes(*other.public_key().as_bytes())).unwrap()
}

fn hash(parts: &[&[u8]]) -> Key {
    parts.iter().fold(Blake2s256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

fn hmac(key: &Key, text: &[&[u8]]) -> Key {
    let pad = |with: u8| {
        let mut pad = [with; 64];
        pad.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        pad
    };
    let inner = hash(&[&[&pad(0x36)[..]], text].concat());
    hash(&[&pad(0x5c), &inner])
}

fn kdf<const N: usize>(key: &Key, input: &[u8]) -> [Key; N] {
    let secret = hmac(key, &[input]);
    let mut last = Vec::new();
    std::array::from_fn(|i| {
        let next = hmac(&secret, &[&last, &[i as u8 + 1]]);
        last = next.to_vec();
        next
    })
}

/// Bytes that look random, and are always the same for one name.
pub(crate) fn random(name: &[u8]) -> Key {
    hash(&[b"key copies", name])
}

/// What the tunnel `name` takes as its ephemeral key number `n`.
pub(crate) fn ephemeral(name: &str, n: u64) -> Key {
    random(format!("{name} ephemeral {n}").as_bytes())
}

pub(crate) fn hex(key: &Key) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
