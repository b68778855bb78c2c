//! The file of a tunnel: `.conf`, or `.conf.dpapi`, which Windows has encrypted for one account.

use std::{fs::File, io::Read, path::Path};

use wg_embed::{
    config::wgquick::Conf,
    error::{Error, ErrorKind, Result},
    key::wiped,
};
use zeroize::Zeroizing;

/// The largest file, in bytes.
const MAX: u64 = 64 << 20;

/// Decrypts the contents of a `.conf.dpapi` file: the arguments are the name of the tunnel and the encrypted bytes.
pub type Decrypt = fn(&str, &[u8]) -> Result<Zeroizing<Vec<u8>>>;

/// Reads a file. One whose name ends with `.dpapi` is decrypted first.
///
/// # Errors
/// `Invalid` for a name that [`name_of`] refuses, or contents that `Conf` refuses; `TooLarge` beyond 64 MiB; errors of
/// the system and of `decrypt`. The text contains no value of the file.
pub fn read(path: &Path, decrypt: Decrypt) -> Result<Conf> {
    let name = name_of(path)?;
    let at = |error: Error| error.at(format_args!("{}", path.display()));
    wiped(|| {
        let bytes = read_bounded(path).map_err(at)?;
        if is_encrypted(path) { Conf::from_bytes(&decrypt(&name, &bytes)?) } else { Conf::from_bytes(&bytes) }
            .map_err(at)
    })
}

/// Returns the name of the tunnel that a file is for: the file's name without `.conf` or `.conf.dpapi`.
///
/// # Errors
/// `Invalid` if the file is named otherwise, or the name has more than 32 characters, characters other than
/// `a-z A-Z 0-9 _ = + . -`, or is one that Windows has for a device.
pub fn name_of(path: &Path) -> Result<String> {
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = without_suffix(file, ".dpapi").unwrap_or(file);
    match without_suffix(name, ".conf") {
        None => Err(Error::invalid(format!("{}: the name of the file does not end with .conf", path.display()))),
        Some(name) if is_name(name) => Ok(name.to_owned()),
        Some(name) => Err(Error::invalid(format!("{name:?} cannot be the name of a tunnel"))),
    }
}

fn is_encrypted(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("dpapi"))
}

fn without_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (rest, end) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(rest)
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_=+.-".contains(&byte);
    (1..=32).contains(&name.len()) && name.bytes().all(allowed) && !is_device(name)
}

/// Returns whether Windows opens a device for a file of this name, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let numbered = |prefix| {
        stem.strip_prefix(prefix).is_some_and(|number: &str| number.len() == 1 && number.as_bytes()[0].is_ascii_digit())
    };
    ["CON", "PRN", "AUX", "NUL", ""].contains(&stem.as_str()) || numbered("COM") || numbered("LPT")
}

/// Reads a whole file into memory that is wiped, without copies that are not.
fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let io = |error| Error::io("cannot read the file", error);
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let too_large = || Error::new(ErrorKind::TooLarge, format!("the file has more than {MAX} bytes"));
    if len > MAX {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    // One more than it has, so that the end of the file is read into what is there.
    bytes.try_reserve_exact(len as usize + 1)?;
    file.take(len + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > len { Err(Error::invalid("the file was changed while it was read")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Option<String> {
        name_of(Path::new(path)).ok()
    }

    #[test]
    fn a_tunnel_is_named_as_its_file() {
        assert_eq!(name("some/wg0.conf").as_deref(), Some("wg0"));
        assert_eq!(name("a.b.CONF").as_deref(), Some("a.b"));
        assert_eq!(name("office.conf.dpapi").as_deref(), Some("office"));
        for refused in
            ["wg0", "wg0.dpapi", ".conf", "a b.conf", "nul.conf", "CoM1.x.conf", "ä.conf", "", "x/.conf.dpapi"]
        {
            assert_eq!(name(refused), None, "{refused}");
        }
        assert_eq!(name(&format!("{}.conf", "x".repeat(32))), Some("x".repeat(32)));
        assert_eq!(name(&format!("{}.conf", "x".repeat(33))), None);
    }

    #[test]
    fn an_encrypted_file_is_decrypted_with_the_name() {
        fn decrypt(name: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
            assert_eq!(name, "one");
            Ok(Zeroizing::new(bytes.iter().map(|byte| byte ^ 1).collect()))
        }
        fn refuse(_: &str, _: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
            Err(Error::invalid("not decrypted"))
        }
        let text = "[Interface]\nMTU = 1300\n";
        let folder = std::env::temp_dir().join(format!("wg-embed-conf-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (plain, encrypted) = (folder.join("one.conf"), folder.join("one.conf.dpapi"));
        std::fs::write(&plain, text).unwrap();
        std::fs::write(&encrypted, text.bytes().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap();
        assert_eq!(read(&plain, refuse).unwrap().interface.mtu, Some(1300));
        assert_eq!(read(&encrypted, decrypt).unwrap().interface.mtu, Some(1300));
        assert_eq!(read(&encrypted, refuse).unwrap_err().to_string(), "not decrypted");
        assert_eq!(read(&folder.join("two.conf"), refuse).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&plain, "[Interface]\nPrivateKey = secret\n").unwrap();
        let error = read(&plain, refuse).unwrap_err().to_string();
        assert!(error.contains("one.conf") && !error.contains("secret"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
