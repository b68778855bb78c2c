//! Commands and their fields, parsed from records.

use std::time::Duration;

use wg_embed::{
    error::{Error, Result},
    key::{KEY_LEN, PublicKey},
};
use wg_embed_wireproto::{Pair, Pairs};

/// The names of the commands.
pub(crate) const NAMES: [&str; 6] = ["get", "set", "stats", "events", "peers", "version"];

/// The field that names the command, which is the first one of a record.
const COMMAND: &str = "cmd";

/// A field that every command accepts and ignores: the client finds it in the copy.
pub(crate) const ID: &str = "id";

/// A command.
#[derive(Debug)]
pub(crate) enum Command<'a> {
    /// Returns configuration and state.
    Get {
        json: bool,
        secrets: bool,
    },
    /// Changes the configuration. The pairs are those of the whole record.
    Set(Pairs<'a>),
    Stats,
    /// Returns the oldest events, at most `max`. Waits up to `wait` for the next one if no event is queued.
    Events {
        max: usize,
        wait: Duration,
    },
    /// Returns all peers, or one.
    Peers {
        key: Option<PublicKey>,
    },
    Version,
}

impl<'a> Command<'a> {
    /// Parses the command of a record.
    pub(crate) fn of(pairs: Pairs<'a>) -> Result<Self> {
        let first = pairs.iter().next().filter(|pair| pair.name == COMMAND);
        let name = first.ok_or_else(|| Error::invalid("the first field is not \"cmd\""))?.value;
        let mut fields = Fields(pairs);
        match name {
            b"get" => {
                fields.only(&["format", "secrets"])?;
                let json = match fields.get("format") {
                    None | Some(b"uapi") => false,
                    Some(b"json") => true,
                    Some(_) => return Err(Error::invalid("format: neither \"uapi\" nor \"json\"")),
                };
                let secrets = fields.get("secrets").map(|value| flag("secrets", value)).transpose()?;
                Ok(Self::Get { json, secrets: secrets.unwrap_or(false) })
            }
            b"set" => Ok(Self::Set(pairs)),
            b"stats" => fields.only(&[]).map(|()| Self::Stats),
            b"events" => {
                fields.only(&["max", "wait"])?;
                let number = |name| fields.get(name).map(|value| number::<4>(name, value).map(u32::from_be_bytes));
                let max = number("max").transpose()?.map_or(usize::MAX, |max| max as usize);
                let wait = Duration::from_millis(number("wait").transpose()?.unwrap_or(0).into());
                Ok(Self::Events { max, wait })
            }
            b"peers" => {
                fields.only(&["public_key"])?;
                let key = fields.get("public_key").map(|value| number::<KEY_LEN>("public_key", value));
                Ok(Self::Peers { key: key.transpose()?.map(PublicKey::from_bytes) })
            }
            b"version" => fields.only(&[]).map(|()| Self::Version),
            _ => Err(Error::new(wg_embed::ErrorKind::Unsupported, "cmd: there is no such command")),
        }
    }
}

/// The fields after the first one.
pub(crate) fn fields(pairs: Pairs<'_>) -> impl Iterator<Item = Pair<'_>> {
    pairs.iter().skip(1)
}

struct Fields<'a>(Pairs<'a>);

impl<'a> Fields<'a> {
    /// Fails unless each field is one of these or [`ID`], and none is repeated.
    fn only(&mut self, known: &[&str]) -> Result<()> {
        for name in fields(self.0).map(|pair| pair.name) {
            if name != ID && !known.contains(&name) {
                return Err(Error::invalid(format!("{}: there is no such field", shown(name))));
            }
        }
        for name in known.iter().chain([&ID]) {
            if fields(self.0).filter(|pair| pair.name == *name).nth(1).is_some() {
                return Err(Error::invalid(format!("{name}: twice")));
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&'a [u8]> {
        fields(self.0).find(|pair| pair.name == name).map(|pair| pair.value)
    }
}

/// Returns a name for a message; an unknown name might be a secret.
pub(crate) fn shown(name: &str) -> &str {
    let is_short = name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_short { name } else { "(unknown field)" }
}

/// Returns a value of exactly this length.
pub(crate) fn number<const N: usize>(name: &str, value: &[u8]) -> Result<[u8; N]> {
    value.try_into().map_err(|_| Error::invalid(format!("{name}: {} bytes, not {N}", value.len())))
}

/// Returns a value of one byte, 00 or 01.
pub(crate) fn flag(name: &str, value: &[u8]) -> Result<bool> {
    match value {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Error::invalid(format!("{name}: neither the byte 00 nor the byte 01"))),
    }
}
