//! The hash, MAC and key derivation functions of section 5.4, over BLAKE2s (RFC 7693).

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{KeyInit, Mac, consts::U16},
};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

/// A BLAKE2s-256 hash, or a chaining key.
pub(super) type Hash = [u8; 32];

/// `Hash(parts[0] || parts[1] || ...)`.
pub(super) fn hash(parts: &[&[u8]]) -> Hash {
    let mut h = Blake2s256::new();
    for part in parts {
        h.update(part);
    }
    h.finalize().into()
}

/// `Mac(key, parts...)`: keyed BLAKE2s with 16 bytes of output.
#[expect(clippy::expect_used, reason = "BLAKE2s takes keys of up to 32 bytes, and the keys here are 16 and 32")]
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut m = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("keys are at most 32 bytes");
    for part in parts {
        Mac::update(&mut m, part);
    }
    m.finalize().into_bytes().into()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn hmac(key: &Hash, parts: &[&[u8]]) -> Zeroizing<Hash> {
    let mut m = <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    for part in parts {
        Mac::update(&mut m, part);
    }
    Zeroizing::new(m.finalize().into_bytes().into())
}

/// `Kdf_N(key, input)`: the first `N` outputs of HKDF with an empty info string.
pub(super) fn kdf<const N: usize>(key: &Hash, input: &[u8]) -> [Zeroizing<Hash>; N] {
    let secret = hmac(key, &[input]);
    let mut previous = Zeroizing::new([0; 32]);
    let mut number = 0;
    std::array::from_fn(|_| {
        let chained: &[u8] = if number == 0 { &[] } else { previous.as_ref() };
        number += 1;
        let out = hmac(&secret, &[chained, &[number]]);
        previous.copy_from_slice(out.as_ref());
        out
    })
}
