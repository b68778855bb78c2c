//! Host names.

use std::{fmt, io};

/// The maximum bytes of a name in a message, including the root: RFC 1035, 2.3.4.
const MAX_NAME: usize = 255;
/// The maximum bytes of a label.
const MAX_LABEL: usize = 63;

/// A name in lower case, in the format of a message: labels with their lengths, up to the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Box<[u8]>);

impl Name {
    /// Reads a host name: labels of letters, digits, `-` and `_`, of at most 63 bytes each and 253 in total, with or
    /// without a trailing dot. It is always fully qualified: there is no search list.
    ///
    /// # Errors
    /// `InvalidInput`, also for a last label of digits only: that is a mistyped address, which should not be sent to a
    /// server.
    pub(super) fn parse(text: &str) -> io::Result<Self> {
        let host = text.strip_suffix('.').unwrap_or(text);
        let mut name = Vec::with_capacity(host.len() + 2);
        let mut numeric = false;
        for label in host.split('.') {
            let valid = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            if !label.as_bytes().iter().all(valid) {
                return Err(invalid("a name of a host has letters, digits, '-' and '_' only"));
            }
            let len = match u8::try_from(label.len()) {
                Ok(len @ 1..) if usize::from(len) <= MAX_LABEL => len,
                _ => return Err(invalid("a label of a name has 1 to 63 bytes")),
            };
            name.push(len);
            name.extend_from_slice(label.as_bytes());
            numeric = label.bytes().all(|b| b.is_ascii_digit());
        }
        if numeric {
            return Err(invalid("neither an address nor a name"));
        }
        name.push(0);
        if name.len() > MAX_NAME {
            return Err(invalid("a name has at most 253 bytes"));
        }
        Ok(Self::lower(name))
    }

    /// Returns the name with the `labels` of a message; `None` if one is invalid or the name is too long.
    pub(super) fn from_labels<'a, E>(labels: impl Iterator<Item = Result<&'a [u8], E>>) -> Option<Self> {
        let mut name = Vec::with_capacity(32);
        for label in labels {
            let label = label.ok()?;
            name.push(u8::try_from(label.len()).ok()?);
            name.extend_from_slice(label);
            if name.len() >= MAX_NAME {
                return None;
            }
        }
        name.push(0);
        Some(Self::lower(name))
    }

    /// Converts to lower case. Lengths of labels are at most 63, and so never capital letters.
    fn lower(mut name: Vec<u8>) -> Self {
        name.make_ascii_lowercase();
        Self(name.into())
    }

    /// Returns the name in the format of a message.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the name with the case of its letters set by the `random` bits. The response must repeat it: a forger
    /// has to guess that many more bits.
    pub(super) fn in_random_case(&self, random: &[u8]) -> Vec<u8> {
        let bits = random.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        let flip = |(&b, up): (&u8, bool)| if up { b.to_ascii_uppercase() } else { b };
        let mut name: Vec<u8> = self.0.iter().zip(bits).map(flip).collect();
        name.extend_from_slice(self.0.get(name.len()..).unwrap_or_default());
        name
    }

    /// Returns whether it is `localhost` or a name below it, which is never sent to a server: RFC 6761, 6.3.
    pub(super) fn is_localhost(&self) -> bool {
        self.0.ends_with(b"\x09localhost\0")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_small_letters_behind_lengths() {
        for text in ["Www.Example.COM", "www.example.com."] {
            assert_eq!(Name::parse(text).unwrap().as_bytes(), b"\x03www\x07example\x03com\0");
        }
        assert_eq!(Name::parse("_a-1").unwrap().as_bytes(), b"\x04_a-1\0");
    }

    #[test]
    fn names_have_limits() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(longest.len(), 253);
        assert_eq!(Name::parse(&longest).unwrap().as_bytes().len(), 255);
        let bad = [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a\0b",
            "a/b",
            "ä.example",
            "300.1.1.1",
            "1.2.3",
            "7",
            "fe80::1%eth0",
            &format!("{longest}b"),
            &format!("{label}a.example"),
        ];
        for text in bad {
            assert_eq!(Name::parse(text).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn labels_of_a_message_have_the_same_limits() {
        let name = |label: &'static [u8], n| Name::from_labels(std::iter::repeat_n(Ok::<_, ()>(label), n));
        assert_eq!(name(b"AbC", 2).unwrap().as_bytes(), b"\x03abc\x03abc\0");
        assert_eq!(name(b"a", 127).unwrap().as_bytes().len(), 255);
        assert!(name(b"a", 128).is_none());
        assert!(Name::from_labels([Ok(&b"a"[..]), Err(())].into_iter()).is_none());
    }

    #[test]
    fn the_case_follows_the_random_bits() {
        let name = Name::parse("ab.c1").unwrap();
        assert_eq!(name.in_random_case(&[0xff]), b"\x02AB\x02C1\0");
        assert_eq!(name.in_random_case(&[0b10]), b"\x02Ab\x02c1\0");
        assert_eq!(name.in_random_case(&[]), name.as_bytes());
    }

    #[test]
    fn localhost_and_what_is_below_it_are_local() {
        for (text, local) in
            [("localhost", true), ("a.LocalHost.", true), ("notlocalhost", false), ("localhost.a", false)]
        {
            assert_eq!(Name::parse(text).unwrap().is_localhost(), local, "{text}");
        }
    }
}
