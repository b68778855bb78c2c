//! X25519 (RFC 7748): in assembly if the processor supports it, otherwise in portable Rust.
//!
//! Both run in constant time, and clamp the private key themselves. `docs/adr/0006-cryptography.md` compares
//! alternatives.

use super::{KEY_LEN, Secret};

/// Returns the public key of a private key.
pub(super) fn public_key(private: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    if assembly::runs_here() { assembly::public_key(private) } else { portable::public_key(private) }
}

/// Returns the shared secret; `None` if it is all zeros, which a low-order public key causes.
pub(super) fn shared_secret(private: &[u8; KEY_LEN], public: &[u8; KEY_LEN]) -> Option<Secret> {
    if assembly::runs_here() {
        assembly::shared_secret(private, public)
    } else {
        portable::shared_secret(private, public)
    }
}

/// The routines of s2n-bignum, from graviola.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64",
    target_endian = "little"
))]
mod assembly {
    use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};

    use super::{KEY_LEN, Secret};

    pub(super) const BUILT: bool = true;

    /// Returns whether the processor has every feature that graviola requires, even those X25519 does not use: it
    /// panics if one is missing.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn runs_here() -> bool {
        use std::arch::is_x86_feature_detected as has;
        // The routines use BMI2, which graviola does not test for.
        has!("adx") && has!("bmi2") && has!("bmi1") && has!("avx") && has!("avx2") && has!("aes") && has!("pclmulqdq")
    }

    /// Returns whether the processor has every feature that graviola requires, even those X25519 does not use: it
    /// panics if one is missing.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn runs_here() -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        has!("neon") && has!("aes") && has!("pmull") && has!("sha2")
    }

    pub(super) fn public_key(private: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
        StaticPrivateKey::from_array(private).public_key().as_bytes()
    }

    pub(super) fn shared_secret(private: &[u8; KEY_LEN], public: &[u8; KEY_LEN]) -> Option<Secret> {
        // It fails only for an all-zero secret, and wipes its own copies of the key and of the secret.
        let secret = StaticPrivateKey::from_array(private).diffie_hellman(&PublicKey::from_array(public)).ok()?;
        Some(Secret::new(secret.0))
    }
}

/// For targets that graviola does not support: see `Cargo.toml`.
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64",
    target_endian = "little"
)))]
mod assembly {
    pub(super) use super::portable::{public_key, shared_secret};

    pub(super) const BUILT: bool = false;

    pub(super) const fn runs_here() -> bool {
        false
    }
}

mod portable {
    use x25519_dalek::{PublicKey, StaticSecret, X25519_BASEPOINT_BYTES};

    use super::{KEY_LEN, Secret, assembly};

    pub(super) fn public_key(private: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
        let private = StaticSecret::from(*private);
        if assembly::BUILT {
            // Without a table the few processors that lack the assembly take 39 µs instead of 11, but it would be 38 KB
            // in all libraries.
            private.diffie_hellman(&PublicKey::from(X25519_BASEPOINT_BYTES)).to_bytes()
        } else {
            PublicKey::from(&private).to_bytes()
        }
    }

    pub(super) fn shared_secret(private: &[u8; KEY_LEN], public: &[u8; KEY_LEN]) -> Option<Secret> {
        let secret = StaticSecret::from(*private).diffie_hellman(&PublicKey::from(*public));
        secret.was_contributory().then(|| Secret::new(secret.to_bytes()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Once,
    };

    use proptest::prelude::*;

    use super::*;

    type Key = [u8; KEY_LEN];

    struct Implementation {
        public_key: fn(&Key) -> Key,
        shared_secret: fn(&Key, &Key) -> Option<Secret>,
    }

    const PORTABLE: Implementation =
        Implementation { public_key: portable::public_key, shared_secret: portable::shared_secret };
    const ASSEMBLY: Implementation =
        Implementation { public_key: assembly::public_key, shared_secret: assembly::shared_secret };

    /// What can be called on this machine. The harness keeps to itself what a passing test prints, hence `write_all`.
    fn implementations() -> Vec<Implementation> {
        if assembly::runs_here() {
            return vec![PORTABLE, ASSEMBLY];
        }
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            io::stderr().write_all(b"X25519 in assembly skipped: this processor cannot run it\n").unwrap();
        });
        vec![PORTABLE]
    }

    fn key(hex: &str) -> Key {
        let mut bytes = [0; KEY_LEN];
        base16ct::lower::decode(hex, &mut bytes).unwrap();
        bytes
    }

    /// RFC 7748, section 5.2: a scalar, a u-coordinate, and their product.
    const PRODUCTS: [[&str; 3]; 2] = [
        [
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ],
        [
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ],
    ];

    #[test]
    fn products_are_those_of_the_rfc() {
        for implementation in implementations() {
            for [scalar, point, product] in PRODUCTS {
                assert_eq!(*(implementation.shared_secret)(&key(scalar), &key(point)).unwrap(), key(product));
            }
        }
    }

    /// RFC 7748, section 5.2: each product is the next scalar, and each scalar the next u-coordinate.
    #[test]
    fn a_thousand_products_of_products_are_those_of_the_rfc() {
        for implementation in implementations() {
            let mut scalar = [0; KEY_LEN];
            scalar[0] = 9;
            let mut point = scalar;
            for round in 1..=1000 {
                (scalar, point) = (*(implementation.shared_secret)(&scalar, &point).unwrap(), scalar);
                if round == 1 {
                    assert_eq!(scalar, key("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
                }
            }
            assert_eq!(scalar, key("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));
        }
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn alice_and_bob_agree_as_in_the_rfc() {
        let alice = key("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = key("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        for implementation in implementations() {
            let (a, b) = ((implementation.public_key)(&alice), (implementation.public_key)(&bob));
            assert_eq!(a, key("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
            assert_eq!(b, key("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
            for (private, public) in [(alice, b), (bob, a)] {
                let secret = (implementation.shared_secret)(&private, &public).unwrap();
                assert_eq!(*secret, key("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"));
            }
        }
    }

    /// 2^255 - 19 + `n`, in little endian.
    fn prime_plus(n: u8) -> Key {
        let mut bytes = [0xff; KEY_LEN];
        (bytes[0], bytes[31]) = (0xed + n, 0x7f);
        bytes
    }

    fn with_bit_255(mut point: Key) -> Key {
        point[31] |= 0x80;
        point
    }

    /// The u-coordinates of points of low order, in every spelling: 0 (order 2), 1 (4), two numbers (8), and on the
    /// curve's twist -1 (4).
    fn low_order() -> Vec<Key> {
        let mut one = [0; KEY_LEN];
        one[0] = 1;
        let mut minus_one = prime_plus(0);
        minus_one[0] -= 1;
        let points = [
            [0; KEY_LEN],
            one,
            key("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            key("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
            minus_one,
            // 0 and 1 once more.
            prime_plus(0),
            prime_plus(1),
        ];
        points.into_iter().flat_map(|point| [point, with_bit_255(point)]).collect()
    }

    proptest! {
        #[test]
        fn points_of_low_order_give_no_secret(private: Key) {
            for implementation in implementations() {
                for point in low_order() {
                    prop_assert_eq!((implementation.shared_secret)(&private, &point), None);
                }
            }
        }

        #[test]
        fn implementations_agree(private: Key, public: Key) {
            for implementation in implementations() {
                prop_assert_eq!((implementation.public_key)(&private), (PORTABLE.public_key)(&private));
                prop_assert_eq!(
                    (implementation.shared_secret)(&private, &public),
                    (PORTABLE.shared_secret)(&private, &public)
                );
            }
        }

        #[test]
        fn numbers_are_taken_modulo_the_prime(private: Key, n in 2u8..19) {
            let mut small = [0; KEY_LEN];
            small[0] = n;
            for implementation in implementations() {
                let secret = (implementation.shared_secret)(&private, &small);
                prop_assert!(secret.is_some());
                for same in [prime_plus(n), with_bit_255(small), with_bit_255(prime_plus(n))] {
                    prop_assert_eq!(&(implementation.shared_secret)(&private, &same), &secret);
                }
            }
        }
    }
}
