//! The 32-byte keys: parsing, printing, comparing, wiping.
//!
//! Text is read and written without branches or table look-ups that depend on the key (`base16ct`, `base64ct`).
//! Secret types are wiped on drop and never printed by `Debug`.

mod secret;
mod stack;
mod x25519;

use std::{fmt, io};

use crate::{
    error::{Error, Result},
    random::{Random, SystemRandom},
};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use secret::Secret;
pub use stack::wiped;
pub(crate) use stack::{wipe_below, wiped_moves};

/// The length of every key, in bytes.
pub const KEY_LEN: usize = 32;

fn no_key(error: io::Error) -> Error {
    Error::io("cannot generate a key", error)
}

/// Reads 64 hex digits of either case.
fn from_hex(text: &str) -> Result<Secret> {
    let mut out = Secret::default();
    match base16ct::mixed::decode(text, &mut out[..]) {
        Ok(bytes) if bytes.len() == KEY_LEN => Ok(out),
        _ => Err(Error::invalid("a key in hex is 64 hex digits")),
    }
}

/// Reads 44 characters of padded base64, only in the canonical form.
fn from_base64(text: &str) -> Result<Secret> {
    use base64ct::{Base64, Encoding};
    let mut out = Secret::default();
    // The decoder needs room for whole groups of three bytes.
    let mut buf = Secret::<{ KEY_LEN + 1 }>::default();
    match Base64::decode(text, &mut buf[..]) {
        Ok(bytes) if bytes.len() == KEY_LEN && text.len() == 44 => out.copy_from_slice(bytes),
        _ => return Err(Error::invalid("a key in base64 is 44 characters that end in '='")),
    }
    Ok(out)
}

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        impl $name {
            /// Reads 64 hex digits of either case, the format of the UAPI.
            ///
            /// ```
            #[doc = concat!("# use wg_embed::", stringify!($name), " as Key;")]
            /// let key = Key::from_hex(&"48".repeat(32))?;
            /// assert_eq!(*key.to_hex(), "48".repeat(32));
            /// # Ok::<(), wg_embed::Error>(())
            /// ```
            ///
            /// # Errors
            /// `Invalid` for any other text.
            pub fn from_hex(text: &str) -> Result<Self> {
                from_hex(text).map(|b| Self::from_bytes(*b))
            }

            /// Reads 44 characters of base64, the format of `.conf` files.
            ///
            /// ```
            #[doc = concat!("# use wg_embed::", stringify!($name), " as Key;")]
            /// let key = Key::from_base64("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=")?;
            /// assert_eq!(Key::from_base64(&key.to_base64())?, key);
            /// # Ok::<(), wg_embed::Error>(())
            /// ```
            ///
            /// # Errors
            /// `Invalid` for any other text, including unpadded or non-canonical base64.
            pub fn from_base64(text: &str) -> Result<Self> {
                from_base64(text).map(|b| Self::from_bytes(*b))
            }

            /// Appends 64 lower-case hex digits.
            pub fn push_hex(&self, out: &mut String) {
                let mut digits = Secret::<{ 2 * KEY_LEN }>::default();
                if let Ok(text) = base16ct::lower::encode_str(&self.0[..], &mut digits[..]) {
                    out.push_str(text);
                }
            }

            /// Returns 64 lower-case hex digits, wiped when dropped.
            #[must_use]
            pub fn to_hex(&self) -> Zeroizing<String> {
                let mut out = Zeroizing::new(String::with_capacity(2 * KEY_LEN));
                self.push_hex(&mut out);
                out
            }

            /// Returns 44 characters of base64, wiped when dropped.
            #[must_use]
            pub fn to_base64(&self) -> Zeroizing<String> {
                use base64ct::{Base64, Encoding};
                Zeroizing::new(Base64::encode_string(&self.0[..]))
            }

            /// Returns the bytes of the key.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }

            /// Returns whether all bytes are zero, in constant time.
            #[must_use]
            pub fn is_zero(&self) -> bool {
                self.0.ct_eq(&[0; KEY_LEN]).into()
            }
        }
    };
}

/// An X25519 private key, clamped as in RFC 7748, section 5.
///
/// ```
/// let key = wg_embed::PrivateKey::generate()?;
/// assert_eq!(format!("{key:?}"), "PrivateKey(redacted)");
/// # Ok::<(), wg_embed::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, ZeroizeOnDrop)]
pub struct PrivateKey(Secret);

/// An X25519 public key. It identifies a peer and is not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

/// The optional symmetric key that two peers share. All zeros means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, ZeroizeOnDrop)]
pub struct PresharedKey(Secret);

key_type!(PrivateKey);
key_type!(PublicKey);
key_type!(PresharedKey);

impl PrivateKey {
    /// Creates a key from 32 bytes, which are clamped.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        let key = Self(Secret::new(bytes));
        bytes.zeroize();
        key
    }

    /// Generates a key with the operating system's random generator.
    ///
    /// ```
    /// # fn main() -> wg_embed::Result<()> {
    /// let (ours, theirs) = (wg_embed::PrivateKey::generate()?, wg_embed::PrivateKey::generate()?);
    /// assert_eq!(ours.diffie_hellman(&theirs.public_key()), theirs.diffie_hellman(&ours.public_key()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Io` if the generator fails.
    pub fn generate() -> Result<Self> {
        let mut bytes = Secret::default();
        SystemRandom.try_fill(&mut bytes[..]).map_err(no_key)?;
        Ok(Self::from_bytes(*bytes))
    }

    /// Generates a key with another source of randomness, for example a reproducible one in tests.
    #[must_use]
    pub fn generate_with(random: &dyn Random) -> Self {
        let mut bytes = Secret::default();
        random.fill(&mut bytes[..]);
        Self::from_bytes(*bytes)
    }

    /// Returns the public key of this private key.
    ///
    /// ```
    /// let key = wg_embed::PrivateKey::from_base64("IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8=")?;
    /// assert_eq!(key.public_key().to_string(), "QKBt8tYvSmhIa88zdoMKVeasQl0ZqlMyfV3r3FUFASQ=");
    /// # Ok::<(), wg_embed::Error>(())
    /// ```
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519::public_key(&self.0))
    }

    /// Computes X25519 (RFC 7748). Returns `None` if the result is all zeros, which a low-order public key causes.
    #[must_use]
    pub fn diffie_hellman(&self, public: &PublicKey) -> Option<Secret> {
        x25519::shared_secret(&self.0, &public.0)
    }
}

impl PublicKey {
    /// Creates a key from 32 bytes, unchanged.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }
}

impl PresharedKey {
    /// Creates a key from 32 bytes, unchanged.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(Secret::new(bytes))
    }

    /// Generates a key with the operating system's random generator.
    ///
    /// ```
    /// # fn main() -> wg_embed::Result<()> {
    /// let key = wg_embed::PresharedKey::generate()?;
    /// println!("PresharedKey = {}", *key.to_base64());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Io` if the generator fails.
    pub fn generate() -> Result<Self> {
        let mut key = Self::default();
        SystemRandom.try_fill(&mut key.0[..]).map_err(no_key)?;
        Ok(key)
    }

    /// Generates a key with another source of randomness, for example a reproducible one in tests.
    #[must_use]
    pub fn generate_with(random: &dyn Random) -> Self {
        let mut key = Self::default();
        random.fill(&mut key.0[..]);
        key
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PublicKey {
    /// Writes base64, as `wg(8)` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A key pair made by `wg genkey` and `wg pubkey`.
    #[test]
    fn public_keys_are_those_of_wg() {
        let private = PrivateKey::from_base64("IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8=").unwrap();
        assert_eq!(private.public_key().to_string(), "QKBt8tYvSmhIa88zdoMKVeasQl0ZqlMyfV3r3FUFASQ=");
    }

    #[test]
    fn keys_are_made_of_random_bytes() {
        struct Sevens;
        impl Random for Sevens {
            fn fill(&self, out: &mut [u8]) {
                out.fill(7);
            }
        }
        assert_eq!(PrivateKey::generate_with(&Sevens), PrivateKey::from_bytes([7; 32]));
        assert_eq!(PresharedKey::generate_with(&Sevens), PresharedKey::from_bytes([7; 32]));
        assert_ne!(PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        assert_ne!(PresharedKey::generate().unwrap(), PresharedKey::generate().unwrap());
    }

    #[test]
    fn both_ends_agree_on_a_secret() {
        let (a, b) = (PrivateKey::generate_with(&SystemRandom), PrivateKey::generate_with(&SystemRandom));
        assert_eq!(a.diffie_hellman(&b.public_key()), b.diffie_hellman(&a.public_key()));
    }

    #[test]
    fn private_keys_are_clamped() {
        let k = PrivateKey::from_bytes([0xff; 32]);
        assert_eq!(k.as_bytes()[0], 0xf8);
        assert_eq!(k.as_bytes()[31], 0x7f);
    }

    #[test]
    fn low_order_points_give_no_secret() {
        let k = PrivateKey::generate_with(&SystemRandom);
        assert!(k.diffie_hellman(&PublicKey::from_bytes([0; 32])).is_none());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(k.diffie_hellman(&PublicKey::from_bytes(one)).is_none());
        assert!(k.diffie_hellman(&k.public_key()).is_some());
    }

    #[test]
    fn debug_shows_no_secret() {
        let k = PrivateKey::generate_with(&SystemRandom);
        assert_eq!(format!("{k:?}"), "PrivateKey(redacted)");
        assert_eq!(format!("{:?}", PresharedKey::generate_with(&SystemRandom)), "PresharedKey(redacted)");
    }

    #[test]
    fn bad_text_is_refused() {
        let ok = PublicKey::from_bytes([7; 32]).to_base64().to_string();
        assert!(PublicKey::from_base64(&ok).is_ok());
        let (unpadded, short, not_canonical) = (&ok[..43], &ok[1..], "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwd=");
        for bad in ["", unpadded, short, not_canonical, &"!".repeat(44)] {
            assert!(PublicKey::from_base64(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &format!("+{}", "0".repeat(63))] {
            assert!(PublicKey::from_hex(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_back(bytes: [u8; 32]) {
            let k = PublicKey::from_bytes(bytes);
            prop_assert_eq!(PublicKey::from_hex(&k.to_hex()).unwrap(), k);
            prop_assert_eq!(PublicKey::from_hex(&k.to_hex().to_uppercase()).unwrap(), k);
            prop_assert_eq!(PublicKey::from_base64(&k.to_base64()).unwrap(), k);
        }

        #[test]
        fn any_text_is_a_key_or_an_error(text in "\\PC{0,70}") {
            let _ = PublicKey::from_hex(&text);
            let _ = PrivateKey::from_base64(&text);
        }
    }
}
