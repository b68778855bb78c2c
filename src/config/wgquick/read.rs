//! Reads the text of a `.conf` file into a [`Conf`].

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{Conf, InterfaceSettings, Table};
use crate::{
    config::{AllowedIpUpdate, MAX_PEERS, PeerUpdate, Update, host::is_name, text},
    error::{Error, Result},
    key::{PresharedKey, PrivateKey, PublicKey, wiped_moves},
    reserve,
};

impl Conf {
    /// Reads the bytes of a file: UTF-8, or UTF-16 of either byte order, with or without a byte order mark. Comments of
    /// a file that is not UTF-16 may contain any bytes.
    ///
    /// ```
    /// let error = wg_embed::Conf::from_bytes(b"[Interface]\nListenPort = many\n").unwrap_err();
    /// assert!(error.to_string().starts_with("line 2"));
    /// ```
    ///
    /// # Errors
    /// As [`from_str`](Self::from_str); `Invalid`, with the line, for bytes that are not text.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        decode(bytes)?.parse()
    }
}

impl FromStr for Conf {
    type Err = Error;

    /// Reads the text of a file. A text without `[Interface]` is refused, as it is probably not a configuration.
    ///
    /// # Errors
    /// `Invalid`, naming line, section, key and reason, but not the value; also for more than [`MAX_PEERS`] peers.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader::default();
        let mut last = 0;
        for (number, line) in (1..).zip(text.split('\n')) {
            reader.line(number, line).map_err(|e| e.at(format_args!("line {number}")))?;
            last = number;
        }
        reader.finish().map_err(|e| e.at(format_args!("line {last}")))
    }
}

/// Returns the text of a file. Its first character is ASCII (usually `[`), which identifies UTF-16 without a mark.
pub(super) fn decode(bytes: &[u8]) -> Result<Zeroizing<String>> {
    let (bytes, unit): (_, fn([u8; 2]) -> u16) = match bytes {
        [0xff, 0xfe, rest @ ..] => (rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => (rest, u16::from_be_bytes),
        [_, 0, ..] => (bytes, u16::from_le_bytes),
        [0, _, ..] => (bytes, u16::from_be_bytes),
        _ => return decode_bytes(bytes),
    };
    let (units, odd) = bytes.as_chunks::<2>();
    // Room for three bytes a unit, so that the text does not grow and leave keys behind.
    let mut text = Zeroizing::new(reserve::text(units.len() * 3)?);
    for c in char::decode_utf16(units.iter().map(|&pair| unit(pair))) {
        match c {
            Ok(c) => text.push(c),
            Err(_) => return Err(not_text("not proper UTF-16", &text)),
        }
    }
    if odd.is_empty() { Ok(text) } else { Err(not_text("the file ends inside a UTF-16 character", &text)) }
}

/// Returns the text without comments, whose bytes are not interpreted.
fn decode_bytes(bytes: &[u8]) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(reserve::text(bytes.len() + 1)?);
    for line in bytes.split(|&byte| byte == b'\n') {
        let code = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        match str::from_utf8(code) {
            Ok(code) => text.push_str(code),
            Err(_) => return Err(not_text("neither UTF-8 nor UTF-16", &text)),
        }
        text.push('\n');
    }
    text.pop();
    Ok(text)
}

/// Returns an error for the bytes behind `text`, which are not text for this reason.
fn not_text(reason: &'static str, text: &str) -> Error {
    let line = text.split('\n').count();
    Error::invalid(reason).at(format_args!("line {line}"))
}

/// Returns a text without white space, which wg(8) removes from its lines before it parses them.
pub(super) fn without_spaces(text: &str) -> Result<Zeroizing<String>> {
    let mut stripped = Zeroizing::new(reserve::text(text.len())?);
    stripped.extend(text.chars().filter(|&c| !is_space(c)));
    Ok(stripped)
}

/// Returns whether a text is this word, ignoring case.
#[inline(never)]
pub(super) fn is(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

/// Returns whether a character is white space in the C locale.
pub(super) const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Returns whether a character may end a line when text is read, split or printed. Within a value it could start
/// another line.
fn breaks_lines(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A line of a file, without its comment and the white space around each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Empty, or only a comment.
    Empty,
    /// A text that begins with `[`.
    Header(&'a str),
    /// `key = value`; either may be empty.
    Pair {
        /// The text before the first `=`.
        key: &'a str,
        /// The text behind it.
        value: &'a str,
    },
    /// Anything else.
    Other(&'a str),
}

impl<'a> Line<'a> {
    /// Parses a line, without its line feed.
    #[must_use]
    pub fn of(line: &'a str) -> Self {
        let line = line.split('#').next().unwrap_or_default().trim_matches(is_space);
        match line.split_once('=') {
            _ if line.is_empty() => Self::Empty,
            _ if line.starts_with('[') => Self::Header(line),
            Some((key, value)) => Self::Pair { key: key.trim_matches(is_space), value: value.trim_matches(is_space) },
            None => Self::Other(line),
        }
    }
}

#[derive(Default)]
pub(super) struct Reader {
    pub(super) conf: Conf,
    pub(super) seen_interface: bool,
    pub(super) section: Section,
}

#[derive(Default)]
pub(super) enum Section {
    #[default]
    None,
    Interface,
    Peer(Box<Peer>),
}

/// A `[Peer]` section that is being read.
pub(super) struct Peer {
    /// The line of its `[Peer]`.
    pub(super) line: usize,
    public_key: Option<PublicKey>,
    /// The changes; their key is filled in at the end.
    change: PeerUpdate,
}

impl Reader {
    pub(super) fn line(&mut self, number: usize, line: &str) -> Result<()> {
        let (key, value) = match Line::of(line) {
            Line::Empty => return Ok(()),
            Line::Header(header) => return self.begin(number, header),
            Line::Pair { key, value } => (key, value),
            Line::Other(_) => return Err(Error::invalid("neither a section nor key = value")),
        };
        let section = match self.section {
            Section::None => return Err(Error::invalid("comes before the first section")),
            Section::Interface => "[Interface]",
            Section::Peer(_) => "[Peer]",
        };
        self.pair(key, value).map_err(|e| {
            e.at(format_args!("{section} {}", without_spaces(key).as_deref().map_or(UNKNOWN_KEY, |key| shown(key))))
        })
    }

    pub(super) fn begin(&mut self, number: usize, header: &str) -> Result<()> {
        self.end_section()?;
        let header = without_spaces(header)?;
        if is(&header, "[Interface]") {
            if self.seen_interface {
                return Err(Error::invalid("a second [Interface]"));
            }
            (self.seen_interface, self.section) = (true, Section::Interface);
        } else if is(&header, "[Peer]") {
            reserve::check()?;
            if self.conf.update.peers.len() == MAX_PEERS {
                return Err(Error::invalid(format!("more than {MAX_PEERS} peers")));
            }
            self.section = Section::Peer(Box::new(Peer {
                line: number,
                public_key: None,
                change: PeerUpdate::new(PublicKey::from_bytes([0; 32])),
            }));
        } else {
            return Err(Error::invalid("the sections are [Interface] and [Peer]"));
        }
        Ok(())
    }

    pub(super) fn end_section(&mut self) -> Result<()> {
        let Section::Peer(mut peer) = std::mem::take(&mut self.section) else {
            return Ok(());
        };
        let public_key = peer.public_key.ok_or_else(|| Error::invalid("missing"));
        let public_key = public_key.map_err(|e| e.at(format_args!("[Peer] of line {}: PublicKey", peer.line)))?;
        peer.change.public_key = public_key;
        reserve::push(&mut self.conf.update.peers, peer.change)
    }

    fn pair(&mut self, key: &str, value: &str) -> Result<()> {
        if value.is_empty() {
            return Err(Error::invalid("has no value"));
        }
        let [mut key, mut name] = [without_spaces(key)?, Zeroizing::new(reserve::copy(key)?)];
        key.make_ascii_lowercase();
        name.make_ascii_lowercase();
        let stripped = without_spaces(value)?;
        match &mut self.section {
            Section::Peer(peer) => peer.pair(&key, &stripped),
            _ if tunnel_pair(&mut self.conf.update, &key, &stripped)? => Ok(()),
            // wg-quick keeps white space inside.
            _ => system_pair(&mut self.conf.interface, &name, value),
        }
    }

    fn finish(mut self) -> Result<Conf> {
        self.end_section()?;
        if !self.seen_interface {
            return Err(Error::invalid("the file ends without an [Interface]"));
        }
        self.conf.complete();
        Ok(self.conf)
    }
}

/// Reads a key of `[Interface]` for wg(8); returns false for any other key.
fn tunnel_pair(update: &mut Update, key: &str, value: &str) -> Result<bool> {
    match key {
        "privatekey" => wiped_moves(|| {
            // Zeros mean "no key", which clamping would hide.
            let bytes = PresharedKey::from_base64(value)?;
            let key = (!bytes.is_zero()).then(|| PrivateKey::from_bytes(*bytes.as_bytes()));
            update.private_key = Some(key);
            Ok::<_, Error>(())
        })?,
        "listenport" => update.listen_port = Some(text::decimal(value)?),
        "fwmark" => update.fwmark = Some(mark(value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads a key of `[Interface]` for wg-quick.
fn system_pair(interface: &mut InterfaceSettings, key: &str, value: &str) -> Result<()> {
    if value.contains(breaks_lines) {
        return Err(Error::invalid("has a control character other than a tab"));
    }
    match key {
        "address" => {
            for item in words(value)? {
                reserve::push(&mut interface.addresses, prefix_or_address(item)?)?;
            }
        }
        "dns" => {
            for item in words(value)? {
                match item.parse() {
                    Ok(ip) => reserve::push(&mut interface.dns, ip)?,
                    Err(_) if is_name(item) => reserve::push(&mut interface.dns_search, reserve::copy(item)?)?,
                    Err(_) => return Err(Error::invalid("neither an IP address nor a search domain")),
                }
            }
        }
        "mtu" => {
            let mtu = text::decimal(value).ok().filter(|mtu| *mtu >= 576);
            interface.mtu = Some(mtu.ok_or_else(|| Error::invalid("not a number from 576 to 65535"))?);
        }
        "table" => interface.table = table(value)?,
        "preup" => reserve::push(&mut interface.pre_up, reserve::copy(value)?.into())?,
        "postup" => reserve::push(&mut interface.post_up, reserve::copy(value)?.into())?,
        "predown" => reserve::push(&mut interface.pre_down, reserve::copy(value)?.into())?,
        "postdown" => reserve::push(&mut interface.post_down, reserve::copy(value)?.into())?,
        "saveconfig" => {
            interface.save_config = match value {
                _ if is(value, "true") => true,
                _ if is(value, "false") => false,
                _ => return Err(Error::invalid("neither true nor false")),
            };
        }
        "includedapplications" => {
            applications(value, &mut interface.included_applications, &interface.excluded_applications)?;
        }
        "excludedapplications" => {
            applications(value, &mut interface.excluded_applications, &interface.included_applications)?;
        }
        _ => return Err(Error::invalid("no such key")),
    }
    Ok(())
}

/// Adds names of apps to one of two lists; a file may have only one of them.
fn applications(value: &str, list: &mut Vec<String>, other: &[String]) -> Result<()> {
    if !other.is_empty() {
        return Err(Error::invalid("apps are either included or excluded"));
    }
    for name in items(value) {
        reserve::push(list, reserve::copy(name?)?)?;
    }
    Ok(())
}

impl Peer {
    fn pair(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "publickey" => self.public_key = Some(PublicKey::from_base64(value)?),
            "presharedkey" => wiped_moves(|| {
                self.change.preshared_key = Some(Box::new(PresharedKey::from_base64(value)?));
                Ok::<_, Error>(())
            })?,
            "allowedips" => {
                for item in items(value) {
                    let prefix = prefix_or_address(item?)?.trunc();
                    reserve::push(&mut self.change.allowed_ips, AllowedIpUpdate { prefix, remove: false })?;
                }
            }
            "endpoint" => self.change.endpoint = Some(value.parse()?),
            "persistentkeepalive" => {
                let off = is(value, "off");
                self.change.persistent_keepalive = Some(if off { 0 } else { text::decimal(value)? });
            }
            _ => return Err(Error::invalid("no such key")),
        }
        Ok(())
    }
}

/// Reads a mark as wg(8) does: `off`, decimal, or hexadecimal with the prefix `0x`.
fn mark(value: &str) -> Result<u32> {
    if is(value, "off") {
        return Ok(0);
    }
    match value.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).map_err(|_| Error::invalid("not a hexadecimal number of 32 bits"))
        }
        _ => text::decimal(value),
    }
}

fn table(value: &str) -> Result<Table> {
    Ok(match value {
        _ if is(value, "auto") => Table::Auto,
        _ if is(value, "off") => Table::Off,
        _ if is(value, "main") => Table::Main,
        _ => Table::Number(text::decimal(value).map_err(|_| Error::invalid("not off, auto, main or a number"))?),
    })
}

/// Returns the trimmed items of a list that is separated by commas.
pub(super) fn items(value: &str) -> impl Iterator<Item = Result<&str>> {
    value.split(',').map(|item| match item.trim_matches(is_space) {
        "" => Err(Error::invalid("two commas in a row, or one at an end")),
        item => Ok(item),
    })
}

/// Returns the items of a list that is separated by commas or spaces.
pub(super) fn words(value: &str) -> Result<impl Iterator<Item = &str>> {
    items(value).try_for_each(|item| item.map(drop))?;
    Ok(value.split(|c| c == ',' || is_space(c)).filter(|word| !word.is_empty()))
}

pub(super) fn prefix_or_address(item: &str) -> Result<IpNet> {
    match item.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => text::prefix(item),
    }
}

/// A replacement for a key that an error must not contain.
const UNKNOWN_KEY: &str = "(unknown key)";

/// Returns a key for an error message: a secret on a line of its own ends in `=` and would be taken for a key.
fn shown(key: &str) -> &str {
    let short = key.len() <= 32 && key.bytes().all(|b| b.is_ascii_alphabetic());
    if short { key } else { UNKNOWN_KEY }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\nDNS = 1.1.1.1\n";

    #[test]
    fn encodings_and_marks() {
        let expected: Conf = FILE.parse().unwrap();
        let le = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let be = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
        let marked = format!("\u{feff}{}", FILE.replace('\n', "\r\n"));
        for bytes in [marked.clone().into_bytes(), le(&marked), be(&marked), le(FILE), be(FILE)] {
            assert_eq!(Conf::from_bytes(&bytes).unwrap(), expected);
        }
        for (bad, line) in [
            (b"[\xff".as_slice(), 1),
            (b"[\0I\0x", 1),
            (b"\xff\xfe\x00\xd8", 1),
            (b"[\0\n\0\n\0\x00\xd8", 3),
            (b"[Interface]\n# \xe9\nPostUp = \xe9", 3),
            (b"# \xe9", 1),
            (b"# \xe9\n\n", 3),
            (b"[Interface]\n[Peer]\n\n", 4),
        ] {
            let error = Conf::from_bytes(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line}: ")), "{error}");
        }
        let latin1 = [b"# caf\xe9\n".as_slice(), &FILE.as_bytes()[..FILE.len() - 1], b" # \xe9\xff\0\n"].concat();
        assert_eq!(Conf::from_bytes(&latin1).unwrap(), expected);
    }

    #[test]
    fn a_file_replaces_everything() {
        let conf: Conf = "[interface]".parse().unwrap();
        let expected = Update {
            private_key: Some(None),
            listen_port: Some(0),
            fwmark: Some(0),
            replace_peers: true,
            peers: Vec::new(),
        };
        assert_eq!((conf.update, conf.interface), (expected, InterfaceSettings::default()));
    }

    #[test]
    fn a_value_of_wg_quick_stays_one_line() {
        for key in ["Address", "DNS", "MTU", "Table", "PreUp", "PostDown", "SaveConfig", "IncludedApplications"] {
            for c in "\0\u{1}\u{8}\u{b}\u{c}\r\u{1b}\u{1c}\u{1e}\u{7f}\u{85}\u{9f}\u{2028}\u{2029}".chars() {
                let error = format!("[Interface]\n{key} = a{c}PostUp=b\n").parse::<Conf>().unwrap_err().to_string();
                let expected = format!("line 2: [Interface] {key}: has a control character other than a tab");
                assert_eq!(error, expected, "{c:?}");
            }
        }
        let conf: Conf = "[Interface]\r\nAddress = ::1\t::2\r\nPostUp =\techo\ta b\u{a0}\u{c} \r\n".parse().unwrap();
        assert_eq!((conf.interface.addresses.len(), conf.interface.post_up[0].as_str()), (2, "echo\ta b\u{a0}"));
    }

    #[test]
    fn errors_hold_no_secret() {
        let secret = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk";
        for line in [
            format!("PrivateKey = {secret}"),
            format!("{secret}="),
            format!("{secret}=x"),
            secret.to_owned(),
            format!("PrivateKey {secret}=x"),
            format!("[{secret}]"),
            format!("DNS = {secret}="),
        ] {
            let error = format!("[Interface]\n{line}").parse::<Conf>().unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && !error.contains("yAnz"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Conf::from_bytes(&bytes);
        }

        #[test]
        fn nearly_right_text_is_read_or_refused(lines in proptest::collection::vec(
            "(\\[Interface\\]|\\[Peer\\]|(Endpoint|AllowedIPs|DNS|Table|FwMark|MTU|Address) ?= ?[0-9a-fx.:/,%\\[\\] -]{0,20})", 0..9)) {
            let _ = lines.join("\n").parse::<Conf>();
        }
    }
}
