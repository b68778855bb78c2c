//! ChaCha20-Poly1305 (RFC 8439) with WireGuard's nonces, on a key that is wiped when it is dropped.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Bytes of an authentication tag.
pub(super) const TAG_LEN: usize = 16;

/// An AEAD key. ring's own form of it is 544 bytes long and not wiped when dropped; making that for each message costs
/// 2 to 5 ns, and keeps a session small and the key in one place.
pub(super) struct AeadKey(Zeroizing<[u8; 32]>);

/// A nonce is 32 zero bits and the counter in little endian (section 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl AeadKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*key))
    }

    #[expect(clippy::expect_used, reason = "the length is fixed by the type")]
    fn expand(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, self.0.as_ref()).expect("a key of 32 bytes"))
    }

    /// Encrypts all but the last [`TAG_LEN`] bytes of `body` in place and writes the tag there.
    #[expect(clippy::expect_used, reason = "fails only for a text of 256 GiB")]
    pub(super) fn seal(&self, counter: u64, aad: &[u8], body: &mut [u8]) {
        let (text, tag_room) = body.split_at_mut(body.len() - TAG_LEN);
        let tag = self
            .expand()
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), text)
            .expect("the text is a packet");
        tag_room.copy_from_slice(tag.as_ref());
    }

    /// Decrypts `body` in place and returns the length of the text; `None` if it is not authentic, or has no tag.
    #[must_use]
    pub(super) fn open(&self, counter: u64, aad: &[u8], body: &mut [u8]) -> Option<usize> {
        self.expand().open_in_place(nonce(counter), Aad::from(aad), body).ok().map(|text| text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
