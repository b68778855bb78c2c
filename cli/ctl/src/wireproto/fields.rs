//! Commands and their fields, parsed from arguments.

use std::path::Path;

use wg_embed::key::PresharedKey;
use zeroize::Zeroizing;

use crate::{
    conf::read,
    failure::{Failure, Result},
    keys,
};

/// The field that names a command, the first one.
pub(super) const COMMAND: &str = "cmd";

/// A command, with fields whose values may be keys.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) fields: Vec<(String, Zeroizing<Vec<u8>>)>,
}

/// The kind of a field's value.
#[derive(Clone, Copy)]
enum Kind {
    Flag,
    Number16,
    Number32,
    Key,
    /// Also fields that are unknown here: the daemon may be newer.
    Text,
}

impl Kind {
    fn of(field: &str) -> Self {
        match field {
            "secrets" | "replace_peers" | "update_only" | "remove" | "replace_allowed_ips" => Self::Flag,
            "listen_port" | "persistent_keepalive_interval" => Self::Number16,
            "fwmark" | "max" | "wait" => Self::Number32,
            "private_key" | "public_key" | "preshared_key" => Self::Key,
            _ => Self::Text,
        }
    }

    fn bytes(self, text: &str) -> Option<Vec<u8>> {
        Some(match self {
            Self::Flag => match text {
                "true" | "1" => vec![1],
                "false" | "0" => vec![0],
                _ => return None,
            },
            Self::Number16 => number(text)?.try_into().ok().map(u16::to_be_bytes)?.into(),
            Self::Number32 => number(text)?.to_be_bytes().into(),
            Self::Key => {
                PresharedKey::from_base64(text).or_else(|_| PresharedKey::from_hex(text)).ok()?.as_bytes().into()
            }
            Self::Text => text.into(),
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Number16 => "a number up to 65535",
            Self::Number32 => "a number of 32 bits",
            Self::Key => "a key in base64 or hexadecimal",
            Self::Text => "text",
        }
    }
}

/// Parses a decimal number, or a hexadecimal one behind `0x`.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    // `from_str_radix` alone would accept a sign.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

/// Parses arguments: those without `=` are commands, the others fields of the command before them.
pub(super) fn commands(words: &[String]) -> Result<Vec<Command>> {
    let mut commands: Vec<Command> = Vec::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            commands.push(Command { name: word.clone(), fields: Vec::new() });
            continue;
        };
        let Some(command) = commands.last_mut() else {
            return Err(Failure::usage(format!("{name}: the first word is a command")));
        };
        command.fields.push(field(name, value)?);
    }
    Ok(commands)
}

fn field(name: &str, value: &str) -> Result<(String, Zeroizing<Vec<u8>>)> {
    // The value is not part of a message, as it may be a key.
    let is_not = |what: &str| Failure::usage(format!("{name}: the value is not {what}"));
    if let Some(name) = name.strip_suffix(':') {
        let bytes = hex(value).ok_or_else(|| is_not("bytes in hexadecimal"))?;
        return Ok((name.to_owned(), bytes));
    }
    let kind = Kind::of(name);
    let value = match (value.strip_prefix('@').map(Path::new), kind) {
        (Some(file), Kind::Key) if file != Path::new("-") => Zeroizing::new(keys::from_file(file)?.as_bytes().into()),
        (Some(file), Kind::Text) => read(file)?,
        (Some(file), kind) => {
            let bytes = read(file)?;
            let text = str::from_utf8(&bytes).ok().map(str::trim);
            Zeroizing::new(text.and_then(|text| kind.bytes(text)).ok_or_else(|| is_not(kind.name()))?)
        }
        (None, kind) => Zeroizing::new(kind.bytes(value).ok_or_else(|| is_not(kind.name()))?),
    };
    Ok((name.to_owned(), value))
}

fn hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits = text.as_bytes().iter().map(digit).collect::<Option<Vec<_>>>().map(Zeroizing::new)?;
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(high << 4 | low),
        _ => None,
    });
    bytes.collect::<Option<Vec<_>>>().map(Zeroizing::new)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    fn read_words(words: &[&str]) -> Result<Vec<Command>> {
        commands(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn values_have_the_types_of_their_fields() {
        let key = format!("public_key={KEY}");
        let words = [
            "get",
            "format=json",
            "secrets=true",
            "set",
            "listen_port=51820",
            "fwmark=0xca6c",
            &key,
            "remove=0",
            "allowed_ip=-10.0.0.0/8",
            "id:=00fF",
            "x=",
        ];
        let commands = read_words(&words).unwrap();
        assert_eq!(commands.iter().map(|command| &*command.name).collect::<Vec<_>>(), ["get", "set"]);
        let fields: Vec<_> = commands.iter().flat_map(|c| &c.fields).map(|(name, v)| (&**name, v.as_slice())).collect();
        let key = PresharedKey::from_base64(KEY).unwrap();
        let expected: [(&str, &[u8]); 9] = [
            ("format", b"json"),
            ("secrets", &[1]),
            ("listen_port", &[0xca, 0x6c]),
            ("fwmark", &[0, 0, 0xca, 0x6c]),
            ("public_key", key.as_bytes()),
            ("remove", &[0]),
            ("allowed_ip", b"-10.0.0.0/8"),
            ("id", &[0, 0xff]),
            ("x", b""),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn values_come_from_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("@{}", path.display())
        };
        let (key, text) = (file("key", &format!("{KEY}\n")), file("text", "fwmark=1\n"));
        let [key, port, text] =
            [format!("private_key={key}"), format!("listen_port={}", file("port", "7\n")), format!("uapi={text}")];
        let commands = read_words(&["set", &key, &port, &text]).unwrap();
        let values: Vec<_> = commands[0].fields.iter().map(|(_, value)| value.to_vec()).collect();
        let expected = PresharedKey::from_base64(KEY).unwrap().as_bytes().to_vec();
        assert_eq!(values, [expected, vec![0, 7], b"fwmark=1\n".to_vec()]);
    }

    #[test]
    fn what_cannot_be_is_named_without_its_value() {
        for (words, complaint) in [
            (&["max=1"][..], "max: the first word"),
            (&["set", "listen_port=65536"], "listen_port: the value is not a number"),
            (&["set", "fwmark=+1"], "fwmark: the value is not a number of 32 bits"),
            (&["set", "private_key=SECRET"], "private_key: the value is not a key"),
            (&["get", "secrets=yes"], "secrets: the value is not true or false"),
            (&["get", "id:=abc"], "id:: the value is not bytes"),
            (&["get", "id:=zz"], "id:: the value is not bytes"),
        ] {
            let failure = read_words(words).unwrap_err();
            assert!(failure.text.contains(complaint) && !failure.text.contains("SECRET"), "{}", failure.text);
        }
        assert_eq!(read_words(&["set", "uapi=@/nowhere"]).unwrap_err().exit, crate::failure::Exit::NotFound);
    }
}
