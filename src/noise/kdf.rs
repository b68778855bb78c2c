//! The hash, MAC and key derivation functions of section 5.4, over BLAKE2s (RFC 7693).

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{KeyInit, Mac, consts::U16},
};

use crate::key::Secret;

/// A BLAKE2s-256 hash, or a chaining key.
pub(super) type Hash = [u8; 32];

/// Returns `Hash(parts[0] || parts[1] || ...)`.
pub(super) fn hash(parts: &[&[u8]]) -> Hash {
    let mut h = Blake2s256::new();
    for part in parts {
        h.update(part);
    }
    h.finalize().into()
}

/// Returns `Mac(key, parts...)`: keyed BLAKE2s with 16 bytes of output.
#[expect(clippy::expect_used, reason = "BLAKE2s takes keys of up to 32 bytes, and the keys here are 16 and 32")]
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut m = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("keys are at most 32 bytes");
    for part in parts {
        Mac::update(&mut m, part);
    }
    m.finalize().into_bytes().into()
}

/// Returns HMAC-BLAKE2s (RFC 2104). Implemented here because the `hmac` crate leaves the padded key in memory.
fn hmac(key: &Hash, parts: [&[u8]; 2]) -> Secret {
    const BLOCK_LEN: usize = 64;
    let mut pad = Secret::<BLOCK_LEN>::default();
    pad[..key.len()].copy_from_slice(key);
    pad.iter_mut().for_each(|b| *b ^= 0x36);
    let inner = Secret::new(hash(&[pad.as_ref(), parts[0], parts[1]]));
    pad.iter_mut().for_each(|b| *b ^= 0x36 ^ 0x5c);
    Secret::new(hash(&[pad.as_ref(), inner.as_ref()]))
}

/// Returns `Kdf_N(key, input)`: the first `N` outputs of HKDF with an empty info string.
pub(super) fn kdf<const N: usize>(key: &Hash, input: &[u8]) -> [Secret; N] {
    let secret = hmac(key, [input, &[]]);
    let mut previous = Secret::<32>::default();
    let mut number = 0;
    std::array::from_fn(|_| {
        let chained: &[u8] = if number == 0 { &[] } else { previous.as_ref() };
        number += 1;
        let out = hmac(&secret, [chained, &[number]]);
        previous.copy_from_slice(out.as_ref());
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python: `t0 = hmac.new(key, b"input", hashlib.blake2s)`, `t1 = hmac.new(t0, b"\1", ...)`, and so on.
    #[test]
    fn outputs_are_those_of_hkdf() {
        let key = std::array::from_fn(|i| i as u8);
        let outputs = kdf::<3>(&key, b"input").map(|out| base16ct::lower::encode_string(out.as_ref()));
        assert_eq!(
            outputs,
            [
                "87b7f70b24183c6db5dc4f6d9f4c47cdb203321aa2a0bef714896adb3107a040",
                "538a02e1eb2e31b7e4d4b82476d1fe2acf50085d3fb584537279195f5d1f5824",
                "9ad858025593be88de0f9442a589cfe84a88dc19e4753d93684d1c5efc4837f9",
            ]
        );
        assert_eq!(kdf::<1>(&key, b"input")[..], kdf::<3>(&key, b"input")[..1], "fewer outputs are the first ones");
    }
}
