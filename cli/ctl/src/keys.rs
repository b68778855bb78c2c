//! `genkey`, `pubkey` and `genpsk`, as in wg(8).

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::Path,
};

use wg_embed::key::{PresharedKey, PrivateKey};
use zeroize::Zeroizing;

use crate::{
    failure::{Failure, Result},
    output::{complain, print_raw},
};

/// The length of a key in base64.
const KEY_LEN: usize = 44;

pub(crate) fn generate_private() -> Result<()> {
    write_secret(&PrivateKey::generate()?.to_base64())
}

pub(crate) fn generate_preshared() -> Result<()> {
    write_secret(&PresharedKey::generate()?.to_base64())
}

pub(crate) fn public() -> Result<()> {
    if io::stdin().is_terminal() {
        complain("Type or paste a private key, and press Enter:");
    }
    let text = read_key(io::stdin().lock(), true).map_err(|reason| Failure::new(reason.text()))?;
    let key = text.and_then(|text| PrivateKey::from_base64(&text).ok()).ok_or_else(|| Failure::new(NOT_A_KEY))?;
    print_raw(format!("{}\n", key.public_key()).as_bytes())
}

const NOT_A_KEY: &str = "Key is not the correct length or format";

fn write_secret(key: &str) -> Result<()> {
    if is_open_to_others() {
        complain("Warning: writing to world accessible file.\nConsider setting the umask to 077 and trying again.");
    }
    let mut line = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
    line.extend_from_slice(key.as_bytes());
    line.push(b'\n');
    print_raw(&line)
}

/// Returns whether the output is a file that other users may read or write.
fn is_open_to_others() -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = File::open("/dev/stdout").and_then(|file| file.metadata());
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o007 != 0)
    }
    #[cfg(not(unix))]
    false
}

/// The reason why a text is not a key.
#[derive(Debug)]
pub(crate) enum Unreadable {
    TooShort,
    Trailing,
    Io(io::Error),
}

impl Unreadable {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::TooShort => NOT_A_KEY.into(),
            Self::Trailing => "Trailing characters found after key".into(),
            Self::Io(error) => format!("cannot read the key: {error}"),
        }
    }
}

/// Reads 44 characters, and only white space behind them; `None` for an empty input. At a terminal the line ends the
/// key.
pub(crate) fn read_key(
    mut from: impl Read,
    may_be_terminal: bool,
) -> std::result::Result<Option<Zeroizing<String>>, Unreadable> {
    // One byte at a time, so that no buffer keeps the key.
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LEN));
    let mut byte = Zeroizing::new([0]);
    loop {
        match from.read(&mut byte[..]) {
            Ok(0) => break,
            Ok(_) if bytes.len() < KEY_LEN => bytes.push(byte[0]),
            Ok(_) if byte[0] == b'\n' && may_be_terminal && io::stdin().is_terminal() => break,
            Ok(_) if byte[0].is_ascii_whitespace() || matches!(byte[0], 0 | 0x0b) => {}
            Ok(_) => return Err(Unreadable::Trailing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unreadable::Io(error)),
        }
    }
    match str::from_utf8(&bytes) {
        Ok("") => Ok(None),
        Ok(text) if text.len() == KEY_LEN => Ok(Some(Zeroizing::new(text.to_owned()))),
        _ => Err(Unreadable::TooShort),
    }
}

/// Reads a file with a preshared key, or with the bytes of a private one; an empty file is all zeros, which means no
/// key.
pub(crate) fn from_file(path: &Path) -> Result<PresharedKey> {
    let file = File::open(path).map_err(|error| Failure::io(format_args!("cannot open {}", path.display()), &error))?;
    let bad = |reason: &str| Failure::new(format!("{}: {reason}", path.display()));
    let Some(text) = read_key(file, false).map_err(|reason| bad(&reason.text()))? else {
        return Ok(PresharedKey::default());
    };
    PresharedKey::from_base64(&text).map_err(|_| bad(NOT_A_KEY))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_44_characters_and_white_space() {
        let key = "IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8=";
        for text in [key.to_owned(), format!("{key}\n"), format!("{key} \t\r\n\n")] {
            assert_eq!(read_key(text.as_bytes(), false).unwrap().unwrap().as_str(), key);
        }
        assert!(read_key(&b""[..], false).unwrap().is_none());
        assert!(matches!(read_key(format!("{key}x").as_bytes(), false), Err(Unreadable::Trailing)));
        assert!(matches!(read_key(&b"abc\n"[..], false), Err(Unreadable::TooShort)));
    }
}
