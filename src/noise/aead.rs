//! ChaCha20-Poly1305 (RFC 8439) with WireGuard's nonces and a key that is wiped when dropped.

use chacha20::{R20, hchacha};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::key::Secret;

/// Bytes of an authentication tag.
pub(super) const TAG_LEN: usize = 16;

/// Bytes of the nonce of a cookie reply.
pub(super) const XNONCE_LEN: usize = 24;

/// An AEAD key. ring's own form of it has 544 bytes and is not wiped when dropped; deriving it for each message costs 2
/// to 5 ns, and keeps sessions small and the key in one place.
pub(super) struct AeadKey(Secret);

/// Returns the nonce: 32 zero bits and the counter in little endian (section 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl AeadKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Secret::new(*key))
    }

    /// Returns the key and the counter that are equivalent to `key` and a nonce of 24 bytes, which makes this
    /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha).
    pub(super) fn extended(key: &[u8; 32], nonce: &[u8; XNONCE_LEN]) -> (Self, u64) {
        let (mut salt, mut counter) = ([0; 16], [0; 8]);
        salt.copy_from_slice(&nonce[..16]);
        counter.copy_from_slice(&nonce[16..]);
        (Self::new(&hchacha::<R20>(key.into(), &salt.into()).into()), u64::from_le_bytes(counter))
    }

    #[expect(clippy::expect_used, reason = "the length is fixed by the type")]
    fn expand(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, self.0.as_ref()).expect("a key of 32 bytes"))
    }

    /// Encrypts all but the last [`TAG_LEN`] bytes of `body` in place and writes the tag there.
    ///
    /// Not inlined: ring's form of the key is in this frame, and wiping the stack covers only frames below the caller.
    #[inline(never)]
    #[expect(clippy::expect_used, reason = "fails only for a text of 256 GiB")]
    pub(super) fn seal(&self, counter: u64, aad: &[u8], body: &mut [u8]) {
        let (text, tag_room) = body.split_at_mut(body.len() - TAG_LEN);
        let tag = self
            .expand()
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), text)
            .expect("the text is a packet");
        tag_room.copy_from_slice(tag.as_ref());
    }

    /// Decrypts `body` in place and returns the length of the text; `None` if it is not authentic, or has no tag. Not
    /// inlined, as above.
    #[must_use]
    #[inline(never)]
    pub(super) fn open(&self, counter: u64, aad: &[u8], body: &mut [u8]) -> Option<usize> {
        self.expand().open_in_place(nonce(counter), Aad::from(aad), body).ok().map(|text| text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::array;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let key = AeadKey::new(&[7; 32]);
        let mut body = *b"some text and room for a tag....";
        let text = body[..16].to_vec();
        key.seal(9, b"aad", &mut body);
        assert_ne!(body[..16], text[..]);
        for (counter, aad, flip) in [(8, &b"aad"[..], false), (9, b"aae", false), (9, b"aad", true)] {
            let mut copy = body;
            copy[3] ^= u8::from(flip);
            assert_eq!(key.open(counter, aad, &mut copy), None);
        }
        assert_eq!(key.open(9, b"aad", &mut body), Some(16));
        assert_eq!(body[..16], text[..]);
        assert_eq!(key.open(9, b"", &mut [0; 15]), None);
    }
    /// The example of draft-irtf-cfrg-xchacha-03, A.3.1. The tag is over the ciphertext, too.
    #[test]
    fn a_long_nonce_is_mixed_into_the_key_as_in_xchacha() {
        let (key, nonce) = (array::from_fn(|i| 0x80 + i as u8), array::from_fn(|i| 0x40 + i as u8));
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let mut body = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it."
            .to_vec();
        body.extend([0; TAG_LEN]);
        let (key, counter) = AeadKey::extended(&key, &nonce);
        key.seal(counter, &aad, &mut body);
        let tag: [u8; TAG_LEN] = *body.last_chunk().unwrap();
        assert_eq!(u128::from_be_bytes(tag), 0xc087_5924_c1c7_9879_47de_afd8_780a_cf49);
    }
}
