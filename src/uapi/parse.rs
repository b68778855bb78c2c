//! Reads the lines of a `set` into an [`Update`].
//!
//! Nothing is applied while lines are read, so that a bad line changes nothing. The [`Update`] represents the immediate
//! effects of lines in wireguard-go like this:
//!
//! | lines | become |
//! |---|---|
//! | a key twice in the same section | the last one counts; allowed IPs accumulate |
//! | the same `public_key` twice | two changes to one peer, in order |
//! | `update_only` anywhere in a section | [`PeerUpdate::update_only`]: without effect if the peer is unknown |
//! | `remove` | [`PeerUpdate::remove`]: earlier lines count (and may take prefixes of others), later ones do not |
//! | `allowed_ip` before `replace_allowed_ips` | added, possibly taken from another peer, and removed again |
//!
//! There is one intentional difference: wireguard-go first creates an `update_only` peer, so prefixes before that line
//! are taken from their owner and lost. Here they are kept.

use crate::{
    config::{AllowedIpUpdate, MAX_PEERS, PeerEndpoint, PeerUpdate, Update, text},
    error::{Error, ErrorKind, Result},
    key::{PresharedKey, PrivateKey, PublicKey, wiped_moves},
    reserve,
};

/// The longest line, in bytes without its line feed: the limit of wireguard-go's `bufio.Scanner`.
pub const MAX_LINE: usize = 64 * 1024 - 1;

/// The limits of one request.
///
/// A new version may add fields: write `..Limits::default()` behind those that are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of `public_key` lines; [`MAX_PEERS`] by default. More are `Invalid`, like too many peers of a
    /// device.
    pub peers: usize,
    /// The maximum number of bytes, including line feeds; by default 64 MiB, which is 1 KiB for each of [`MAX_PEERS`]
    /// peers (a peer with every key and ten allowed IPs needs about 700). More is `TooLarge`.
    pub bytes: usize,
    /// Whether an endpoint may be a host name: for a device that [resolves
    /// them](crate::device::Device::resolves_names). Not by default, as wireguard-go and the kernel support only
    /// addresses.
    pub host_names: bool,
}

impl Limits {
    /// Returns the limits for a request about `peers` peers: as many lines, and 1 KiB for each, or the default if that
    /// is more.
    #[must_use]
    pub const fn for_peers(peers: usize) -> Self {
        let most = if peers > MAX_PEERS { peers } else { MAX_PEERS };
        Self { peers, bytes: most.saturating_mul(1024), host_names: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::for_peers(MAX_PEERS)
    }
}

/// Reads a `set` line by line; the text itself is not stored.
///
/// Errors name the line (the one behind `set=1` is line 1), the key and the reason, but never a value.
///
/// ```
/// use wg_embed::{ErrorKind, uapi::{Limits, Parser}};
///
/// let mut parser = Parser::new(Limits::default());
/// parser.line(b"fwmark=51820")?;
/// let error = parser.line(b"listen_port=65536").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Invalid);
/// assert!(error.to_string().starts_with("line 2: listen_port"), "{error}");
/// # Ok::<(), wg_embed::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Parser {
    limits: Limits,
    lines: usize,
    bytes: usize,
    update: Update,
    section: Option<Section>,
    failed: bool,
}

/// The peer that the lines concern, until the next `public_key`.
#[derive(Debug)]
struct Section {
    peer: PeerUpdate,
    /// The number of allowed-IP changes that already cancel out, after `replace_allowed_ips`.
    settled: usize,
}

impl Parser {
    /// Creates a parser.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Parses one line, without its line feed; one carriage return at its end is dropped.
    ///
    /// The caller must handle the empty line, which ends a request.
    ///
    /// # Errors
    /// `Protocol` if there is no `=`; `Io` for a line beyond [`MAX_LINE`]; `TooLarge` beyond [`Limits::bytes`];
    /// `Invalid` for an unknown key, an invalid value, or more than [`Limits::peers`] peers; `Resources` without memory
    /// for it. All lines are then dropped, and every further call fails.
    pub fn line(&mut self, line: &[u8]) -> Result<()> {
        self.lines += 1;
        let outcome = if self.failed { Err(refused_before()) } else { self.take(line) };
        outcome.map_err(|e| {
            self.failed = true;
            (self.update, self.section) = (Update::default(), None);
            e.at(format_args!("line {}", self.lines))
        })
    }

    /// Returns the complete change set.
    ///
    /// # Errors
    /// `Invalid` if a line was refused; `Resources` without memory.
    pub fn finish(mut self) -> Result<Update> {
        if self.failed {
            return Err(refused_before());
        }
        self.close_section()?;
        Ok(self.update)
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        if line.len() > MAX_LINE {
            return Err(Error::new(ErrorKind::Io, format!("longer than {MAX_LINE} bytes")));
        }
        self.bytes += line.len() + 1;
        if self.bytes > self.limits.bytes {
            let context = format!("the request is longer than {} bytes", self.limits.bytes);
            return Err(Error::new(ErrorKind::TooLarge, context));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let equals = line.iter().position(|&b| b == b'=');
        let equals = equals.ok_or_else(|| Error::new(ErrorKind::Protocol, "not of the form key=value"))?;
        let (key, value) = (&line[..equals], &line[equals + 1..]);
        let value = str::from_utf8(value).map_err(|_| Error::invalid("the value is not UTF-8"));
        value.and_then(|value| self.pair(key, value)).map_err(|e| e.at(shown(key)))
    }

    fn pair(&mut self, key: &[u8], value: &str) -> Result<()> {
        if key == b"public_key" {
            let public_key = PublicKey::from_hex(value)?;
            reserve::check()?;
            self.close_section()?;
            if self.update.peers.len() == self.limits.peers {
                return Err(Error::invalid(format!("more than {} peers", self.limits.peers)));
            }
            self.section = Some(Section { peer: PeerUpdate::new(public_key), settled: 0 });
            return Ok(());
        }
        match &mut self.section {
            None => interface_pair(&mut self.update, key, value),
            Some(section) => section.pair(key, value, self.limits.host_names),
        }
    }

    fn close_section(&mut self) -> Result<()> {
        self.section.take().map_or(Ok(()), |section| reserve::push(&mut self.update.peers, section.peer))
    }
}

/// Reads a line before the first `public_key`.
fn interface_pair(update: &mut Update, key: &[u8], value: &str) -> Result<()> {
    match key {
        b"private_key" => {
            wiped_moves(|| {
                // Zeros mean "no key", which clamping would hide.
                let bytes = PresharedKey::from_hex(value)?;
                let key = (!bytes.is_zero()).then(|| PrivateKey::from_bytes(*bytes.as_bytes()));
                update.private_key = Some(key);
                Ok::<_, Error>(())
            })?;
        }
        b"listen_port" => update.listen_port = Some(text::decimal(value)?),
        b"fwmark" => update.fwmark = Some(text::decimal(value)?),
        b"replace_peers" => {
            only_true(value)?;
            update.replace_peers = true;
        }
        _ => return Err(Error::invalid("no such key before the first public_key")),
    }
    Ok(())
}

impl Section {
    /// Reads a line behind a `public_key`. Every value is checked, even if it turns out not to count.
    fn pair(&mut self, key: &[u8], value: &str, host_names: bool) -> Result<()> {
        let counts = !self.peer.remove;
        match key {
            b"update_only" => {
                only_true(value)?;
                self.peer.update_only |= counts;
            }
            b"remove" => {
                only_true(value)?;
                self.peer.remove = true;
            }
            b"preshared_key" => wiped_moves(|| {
                keep(counts, &mut self.peer.preshared_key, Box::new(PresharedKey::from_hex(value)?));
                Ok::<_, Error>(())
            })?,
            b"endpoint" => keep(counts, &mut self.peer.endpoint, PeerEndpoint::parse(value, host_names)?),
            b"persistent_keepalive_interval" => {
                keep(counts, &mut self.peer.persistent_keepalive, text::decimal(value)?);
            }
            b"replace_allowed_ips" => {
                only_true(value)?;
                if counts {
                    self.replace_allowed_ips()?;
                }
            }
            b"allowed_ip" => {
                let bare = value.strip_prefix('-');
                let prefix = text::prefix(bare.unwrap_or(value))?.trunc();
                let remove = bare.is_some();
                if counts {
                    reserve::push(&mut self.peer.allowed_ips, AllowedIpUpdate { prefix, remove })?;
                }
            }
            b"protocol_version" if value == "1" => {}
            b"protocol_version" => return Err(Error::invalid("only version 1 is known")),
            _ => return Err(Error::invalid("no such key behind a public_key")),
        }
        Ok(())
    }

    /// Removes at this line the prefixes that earlier lines of the section added.
    ///
    /// The earlier changes cannot just be dropped: they may have moved a prefix away from another peer. Entries that an
    /// earlier `replace_allowed_ips` has handled are skipped, so that the time is never quadratic.
    fn replace_allowed_ips(&mut self) -> Result<()> {
        self.peer.replace_allowed_ips = true;
        let changes = &mut self.peer.allowed_ips;
        changes.try_reserve(changes.len() - self.settled)?;
        for i in self.settled..changes.len() {
            let change = changes[i];
            if !change.remove {
                changes.push(AllowedIpUpdate { remove: true, ..change });
            }
        }
        self.settled = changes.len();
        Ok(())
    }
}

fn keep<T>(counts: bool, field: &mut Option<T>, value: T) {
    if counts {
        *field = Some(value);
    }
}

fn only_true(value: &str) -> Result<()> {
    if value == "true" { Ok(()) } else { Err(Error::invalid("the only value is true")) }
}

fn refused_before() -> Error {
    Error::invalid("an earlier line was refused")
}

/// Returns a key for an error message: a secret on a line of its own ends in `=` and would be taken for a key.
fn shown(key: &[u8]) -> &str {
    let short = key.len() <= 32 && key.iter().all(|&b| b.is_ascii_lowercase() || b == b'_');
    str::from_utf8(key).ok().filter(|_| short).unwrap_or("(unknown key)")
}

/// Returns whether a line, without its line feed, is the empty one that ends a request.
pub(super) fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"" | b"\r")
}

/// Reads a configuration text: the lines between `set=1` and the empty line.
///
/// Like its counterpart, wireguard-go's `IpcSet`, it does not accept a `set=1` line. Empty lines may follow at the end.
/// Text behind an empty line, which wireguard-go silently ignores, is refused.
///
/// # Errors
/// As [`Parser::line`]; `Protocol` for text behind an empty line.
pub fn parse_set(text: &str, limits: Limits) -> Result<Update> {
    let mut parser = Parser::new(limits);
    // Not `str::lines`: it would remove one of two carriage returns.
    let mut lines = text.split('\n').map(str::as_bytes);
    for line in lines.by_ref().take_while(|line| !is_blank(line)) {
        parser.line(line)?;
    }
    if !lines.all(is_blank) {
        return Err(Error::new(ErrorKind::Protocol, "there is text behind the empty line that ends a set"));
    }
    parser.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    const B: &str = "0202020202020202020202020202020202020202020202020202020202020202";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_hex(text).unwrap()
    }

    fn kind(text: &str) -> ErrorKind {
        parse_set(text, Limits::default()).unwrap_err().kind()
    }

    fn change(text: &str) -> AllowedIpUpdate {
        let bare = text.strip_prefix('-');
        AllowedIpUpdate { prefix: bare.unwrap_or(text).parse().unwrap(), remove: bare.is_some() }
    }

    /// The only peer of a request that names A and then has these lines.
    fn peer(lines: &str) -> PeerUpdate {
        let mut update = parse_set(&format!("public_key={A}\n{lines}\n"), Limits::default()).unwrap();
        assert_eq!(update.peers.len(), 1);
        update.peers.remove(0)
    }

    #[test]
    fn a_whole_request_is_read() {
        let own = "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a";
        let update = parse_set(
            &format!(
                "private_key={own}\nfwmark=7\nlisten_port=12912\r\nreplace_peers=true\n\
             public_key={A}\nupdate_only=true\npreshared_key={B}\nreplace_allowed_ips=true\n\
             allowed_ip=192.168.4.4/32\nallowed_ip=-10.9.9.9/8\nendpoint=[abcd:23::33%2]:51820\n\
             persistent_keepalive_interval=25\nprotocol_version=1\n\
             public_key={B}\nremove=true\n\n\n"
            ),
            Limits::default(),
        );
        let expected = Update {
            private_key: Some(Some(PrivateKey::from_hex(own).unwrap())),
            listen_port: Some(12912),
            fwmark: Some(7),
            replace_peers: true,
            peers: vec![
                PeerUpdate {
                    update_only: true,
                    preshared_key: Some(Box::new(PresharedKey::from_hex(B).unwrap())),
                    endpoint: Some("[abcd:23::33%2]:51820".parse().unwrap()),
                    persistent_keepalive: Some(25),
                    replace_allowed_ips: true,
                    allowed_ips: vec![change("192.168.4.4/32"), change("-10.0.0.0/8")],
                    ..PeerUpdate::new(key(A))
                },
                PeerUpdate { remove: true, ..PeerUpdate::new(key(B)) },
            ],
        };
        assert_eq!(update.unwrap(), expected);
    }

    #[test]
    fn nothing_is_a_request_too() {
        for text in ["", "\n", "\r\n\n"] {
            assert_eq!(parse_set(text, Limits::default()).unwrap(), Update::default());
        }
    }

    #[test]
    fn a_zero_private_key_clears_it() {
        let update = parse_set(&format!("private_key={}", "0".repeat(64)), Limits::default()).unwrap();
        assert_eq!(update.private_key, Some(None));
    }

    #[test]
    fn lines_behind_remove_are_checked_and_dropped() {
        let peer = peer("allowed_ip=10.0.0.0/8\nremove=true\nendpoint=1.2.3.4:5\nallowed_ip=::/0\nupdate_only=true");
        assert_eq!(
            peer,
            PeerUpdate { remove: true, allowed_ips: vec![change("10.0.0.0/8")], ..PeerUpdate::new(key(A)) }
        );
        assert_eq!(kind(&format!("public_key={A}\nremove=true\nendpoint=host:1")), ErrorKind::Invalid);
    }

    #[test]
    fn what_came_before_replace_allowed_ips_is_taken_away_again() {
        let lines = "allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=::/0\nreplace_allowed_ips=true\n\
                     replace_allowed_ips=true\nallowed_ip=1.0.0.0/8";
        let peer = peer(lines);
        let expected = ["10.0.0.0/8", "-10.0.0.0/8", "::/0", "-::/0", "1.0.0.0/8"].map(change);
        assert_eq!(peer.allowed_ips, expected);
        assert!(peer.replace_allowed_ips);
    }

    #[test]
    fn the_same_peer_twice_is_two_changes() {
        let update = parse_set(&format!("public_key={A}\nremove=true\npublic_key={A}\n"), Limits::default()).unwrap();
        assert_eq!(update.peers.iter().map(|p| p.remove).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn errors_name_line_key_and_reason_and_no_value() {
        let secret = "ab".repeat(31);
        for (text, message) in [
            (format!("private_key={secret}"), "line 1: private_key: a key in hex is 64 hex digits"),
            ("listen_port=1\nfwmark=0x10".into(), "line 2: fwmark: not a decimal number from 0 to 4294967295"),
            (format!("{secret}="), "line 1: (unknown key): no such key before the first public_key"),
            (secret.clone(), "line 1: not of the form key=value"),
            (
                format!("public_key={A}\nendpoint=host:1"),
                "line 2: endpoint: not a numeric address; IPv6 goes in square brackets",
            ),
            (format!("public_key={A}\nlisten_port=1"), "line 2: listen_port: no such key behind a public_key"),
        ] {
            let error = parse_set(&text, Limits::default()).unwrap_err().to_string();
            assert_eq!(error, message);
        }
    }

    #[test]
    fn text_behind_the_end_is_refused() {
        assert_eq!(kind("listen_port=1\n\nfwmark=1\n"), ErrorKind::Protocol);
        assert_eq!(kind("\nfwmark=1\n"), ErrorKind::Protocol);
        assert_eq!(kind("set=1\nfwmark=1\n"), ErrorKind::Invalid);
        assert_eq!(kind("fwmark=1\r\r\n"), ErrorKind::Invalid);
    }

    #[test]
    fn limits_have_their_errors() {
        let mut parser = Parser::new(Limits::default());
        assert_eq!(parser.line(&[b'='; MAX_LINE]).unwrap_err().kind(), ErrorKind::Invalid);
        let mut parser = Parser::new(Limits::default());
        assert_eq!(parser.line(&[b'='; MAX_LINE + 1]).unwrap_err().kind(), ErrorKind::Io);

        let mut parser = Parser::new(Limits { peers: 1, bytes: 1024, host_names: false });
        parser.line(format!("public_key={A}").as_bytes()).unwrap();
        assert_eq!(parser.line(format!("public_key={A}").as_bytes()).unwrap_err().kind(), ErrorKind::Invalid);

        let mut parser = Parser::new(Limits { peers: 1, bytes: 16, host_names: false });
        parser.line(b"fwmark=1").unwrap();
        assert_eq!(parser.line(b"fwmark=1").unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn a_host_name_is_for_who_can_resolve_it() {
        let read = |endpoint: &str, host_names| {
            let text = format!("public_key={A}\nendpoint={endpoint}\n");
            parse_set(&text, Limits { host_names, ..Limits::default() }).map(|mut u| u.peers.remove(0).endpoint)
        };
        let refused = read("host.example:1", false).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().starts_with("line 2: endpoint: not a numeric address"), "{refused}");
        assert_eq!(read("host.example:1", true).unwrap(), Some(PeerEndpoint::Host("host.example:1".parse().unwrap())));
        for host_names in [false, true] {
            assert_eq!(read("1.2.3.4:01", host_names).unwrap(), Some("1.2.3.4:1".parse().unwrap()));
            assert_eq!(read("1.2.3:1", host_names).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_refused_line_ends_the_parser() {
        let mut parser = Parser::new(Limits::default());
        parser.line(b"fwmark=1").unwrap();
        parser.line(b"bogus=1").unwrap_err();
        parser.line(b"fwmark=1").unwrap_err();
        assert!(parser.finish().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(lines: Vec<Vec<u8>>) {
            let mut parser = Parser::new(Limits::default());
            for line in &lines {
                let _ = parser.line(line);
            }
            let _ = parser.finish();
        }

        #[test]
        fn nearly_right_text_is_read_or_refused(lines in proptest::collection::vec(
            ("(private_key|listen_port|fwmark|replace_peers|public_key|endpoint|allowed_ip|remove|update_only)?",
             "=?", "(true|[0-9a-f]{64}|[0-9a-f.:/%-]{0,20}|\\PC{0,9})"), 0..9)) {
            let text: String = lines.iter().map(|(k, e, v)| format!("{k}{e}{v}\n")).collect();
            let _ = parse_set(&text, Limits::default());
        }
    }
}
