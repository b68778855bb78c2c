//! Finds every problem of a `.conf` file, with its place.
//!
//! [`Conf::from_bytes`] ends at the first error, which is enough for a program that uses the file. For its author, this
//! module reports all errors at once.

use std::ops::Range;

use zeroize::Zeroizing;

use super::{
    Conf,
    read::{Line, Reader, Section, decode, items, prefix_or_address, without_spaces, words},
};
use crate::{
    config::host::is_name,
    error::{Error, Result},
    reserve,
};

/// The keys of `[Interface]`, as they are usually written.
pub const INTERFACE_KEYS: [&str; 14] = [
    "PrivateKey",
    "ListenPort",
    "FwMark",
    "Address",
    "DNS",
    "MTU",
    "Table",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "SaveConfig",
    "IncludedApplications",
    "ExcludedApplications",
];

/// The keys of `[Peer]`, as they are usually written.
pub const PEER_KEYS: [&str; 5] = ["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];

/// One problem of a file.
#[derive(Debug)]
pub struct Problem {
    /// The line number, from 1.
    pub line: usize,
    /// The range of invalid bytes in that line; empty if something is missing.
    pub span: Range<usize>,
    /// The section, the key and the reason, without the value.
    pub error: Error,
}

/// A file that was read to its end.
#[derive(Debug)]
pub struct Checked {
    /// The contents of the file, without lines that have a problem. Peers without a public key are missing.
    pub conf: Conf,
    /// The line of the header of each peer in `conf`.
    pub peer_lines: Vec<usize>,
    /// The problems in the order of their lines, except that missing keys are reported at the end of their section.
    pub problems: Vec<Problem>,
    /// The text, including comments. Lines are separated by `
    /// `.
    pub text: Zeroizing<String>,
}

/// Reads a file as [`Conf::from_bytes`] does, but continues after problems.
///
/// ```
/// let checked = wg_embed::config::wgquick::check(b"[Interface]\nMTU = 1\n[Peer]\nAllowedIPs = 10.0.0.0/33\n")?;
/// assert_eq!(checked.problems.len(), 3); // the MTU, the prefix, and the public key that is missing
/// # Ok::<(), wg_embed::Error>(())
/// ```
///
/// # Errors
/// `Invalid` for malformed UTF-16, `Resources` without memory.
pub fn check(bytes: &[u8]) -> Result<Checked> {
    let mut check = Check::default();
    let text = check.text(bytes)?;
    for (number, line) in (1..).zip(text.split('\n')) {
        if !check.problems.iter().any(|problem| problem.line == number) {
            check.line(number, line);
        }
    }
    check.finish(text)
}

#[derive(Default)]
struct Check {
    reader: Reader,
    /// Whether the section has an invalid public key.
    bad_key: bool,
    /// Whether lines outside of sections were already reported.
    outside: bool,
    peer_lines: Vec<usize>,
    problems: Vec<Problem>,
}

impl Check {
    /// Returns the text with comments, without a byte order mark. Lines that are not text become problems.
    fn text(&mut self, bytes: &[u8]) -> Result<Zeroizing<String>> {
        if bytes.starts_with(&[0xff, 0xfe])
            || bytes.starts_with(&[0xfe, 0xff])
            || bytes[..bytes.len().min(2)].contains(&0)
        {
            let text = decode(bytes)?;
            return match text.strip_prefix('\u{feff}') {
                Some(rest) => Ok(Zeroizing::new(reserve::copy(rest)?)),
                None => Ok(text),
            };
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut text = Zeroizing::new(reserve::text(bytes.len() * 3)?);
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            if number > 1 {
                text.push('\n');
            }
            let start = text.len();
            for chunk in line.utf8_chunks() {
                text.push_str(chunk.valid());
                let is_comment = text[start..].contains('#');
                if !chunk.invalid().is_empty() {
                    let at = text.len() - start;
                    text.push('\u{fffd}');
                    if !is_comment && self.problems.last().is_none_or(|problem| problem.line != number) {
                        let span = at..at + '\u{fffd}'.len_utf8();
                        self.problems.push(Problem {
                            line: number,
                            span,
                            error: Error::invalid("neither UTF-8 nor UTF-16"),
                        });
                    }
                }
            }
        }
        Ok(text)
    }

    fn line(&mut self, number: usize, text: &str) {
        let line = Line::of(text);
        let is_outside = matches!(self.reader.section, Section::None) && line != Line::Empty;
        if matches!(line, Line::Header(_)) {
            self.end_section();
        } else if is_outside && std::mem::replace(&mut self.outside, true) {
            return;
        }
        let Err(error) = self.reader.line(number, text) else {
            return;
        };
        match line {
            Line::Header(header) => self.go_on_behind(number, header),
            Line::Pair { key, .. } if is(key, "PublicKey") => self.bad_key = true,
            _ => {}
        }
        let part = self.wrong_part(line);
        self.problems.push(Problem { line: number, span: span(text, part), error });
    }

    /// Ends a section and checks for missing keys.
    fn end_section(&mut self) {
        let line = match &self.reader.section {
            Section::Peer(peer) => Some(peer.line),
            _ => None,
        };
        match (self.reader.end_section(), line) {
            (Ok(()), Some(line)) => self.peer_lines.push(line),
            (Err(error), Some(line)) if !self.bad_key => self.problems.push(Problem { line, span: 0..0, error }),
            _ => {}
        }
        self.bad_key = false;
    }

    /// Treats an invalid header as the one that was probably intended, so that the lines behind it are checked.
    fn go_on_behind(&mut self, number: usize, header: &str) {
        let initial = header.chars().find(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase());
        match initial {
            Some('p') => drop(self.reader.begin(number, "[Peer]")),
            Some('i') => (self.reader.section, self.reader.seen_interface) = (Section::Interface, true),
            _ => self.outside = true,
        }
    }

    /// Returns the part of a line that an error concerns.
    fn wrong_part<'a>(&self, line: Line<'a>) -> &'a str {
        let (key, value) = match line {
            Line::Empty => return "",
            Line::Header(text) | Line::Other(text) => return text,
            Line::Pair { key, value } => (key, value),
        };
        let keys: &[&str] = match self.reader.section {
            Section::None => &[],
            Section::Interface => &INTERFACE_KEYS,
            Section::Peer(_) => &PEER_KEYS,
        };
        let Some(known) = keys.iter().find(|known| is(key, known)) else {
            return key;
        };
        let is_right: fn(&str) -> bool = match *known {
            _ if value.is_empty() => return key,
            "Address" => |item| prefix_or_address(item).is_ok(),
            "AllowedIPs" => |item| without_spaces(item).is_ok_and(|item| prefix_or_address(&item).is_ok()),
            "DNS" => |item| item.parse::<std::net::IpAddr>().is_ok() || is_name(item),
            _ => return value,
        };
        // If an item is missing, the whole list is marked.
        if items(value).any(|item| item.is_err()) {
            return value;
        }
        let wrong = match words(value) {
            Ok(mut words) if *known != "AllowedIPs" => words.find(|item| !is_right(item)),
            _ => items(value).flatten().find(|item| !is_right(item)),
        };
        wrong.unwrap_or(value)
    }

    fn finish(mut self, text: Zeroizing<String>) -> Result<Checked> {
        self.end_section();
        if !self.reader.seen_interface {
            let error = Error::invalid("the file ends without an [Interface]");
            self.problems.push(Problem { line: text.trim_end().split('\n').count(), span: 0..0, error });
        }
        let Self { mut reader, peer_lines, mut problems, .. } = self;
        reader.conf.complete();
        problems.sort_by_key(|problem| problem.line);
        Ok(Checked { conf: reader.conf, peer_lines, problems, text })
    }
}

/// Returns whether a key has this name, ignoring its case and white space.
fn is(key: &str, name: &str) -> bool {
    without_spaces(key).is_ok_and(|key| key.eq_ignore_ascii_case(name))
}

/// Returns the range of a part of a line, as returned by [`Line::of`]; empty if it is not part of the line.
#[must_use]
pub fn span(line: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().wrapping_sub(line.as_ptr().addr());
    if start <= line.len() { start..start + part.len() } else { 0..0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    /// Line, the text that is marked, and the message of each problem.
    fn problems(text: &str) -> Vec<(usize, String, String)> {
        let checked = check(text.as_bytes()).unwrap();
        let line = |number: usize| checked.text.split('\n').nth(number - 1).unwrap();
        let shown = |p: &Problem| (p.line, line(p.line)[p.span.clone()].to_owned(), p.error.to_string());
        checked.problems.iter().map(shown).collect()
    }

    fn row(line: usize, marked: &str, message: &str) -> (usize, String, String) {
        (line, marked.to_owned(), message.to_owned())
    }

    #[test]
    fn every_problem_is_reported_at_its_place() {
        let text = format!(
            "Stray = 1\nAlso = 2\n[Interface] # x\n Address = 10.0.0.1/24, 10.0.0.2/33 ::1\nMTU=5\nAdress = ::1\n\
             [Peer]\nEndpoint = a:1\n[Peer]\nPublicKey = {KEY}\nAllowedIPs = 10.0.0.0/8,1.2.3/8,::/0\nEndpoint =\n\
             [Peers]\nPublicKey = zzz\nfoo\n[Interface]\nDNS = 1.1.1.1,, x\n"
        );
        assert_eq!(
            problems(&text),
            [
                row(1, "Stray", "comes before the first section"),
                row(4, "10.0.0.2/33", "[Interface] Address: the prefix length is larger than the address"),
                row(5, "5", "[Interface] MTU: not a number from 576 to 65535"),
                row(6, "Adress", "[Interface] Adress: no such key"),
                row(7, "", "[Peer] of line 7: PublicKey: missing"),
                row(11, "1.2.3/8", "[Peer] AllowedIPs: not an IP address"),
                row(12, "Endpoint", "[Peer] Endpoint: has no value"),
                row(13, "[Peers]", "the sections are [Interface] and [Peer]"),
                row(14, "zzz", "[Peer] PublicKey: a key in base64 is 44 characters that end in '='"),
                row(15, "foo", "neither a section nor key = value"),
                row(16, "[Interface]", "a second [Interface]"),
                row(17, "1.1.1.1,, x", "[Interface] DNS: two commas in a row, or one at an end"),
            ]
        );
    }

    #[test]
    fn a_file_without_problems_is_what_the_reader_reads() {
        let text = format!("\u{feff}[Interface]\n\n# a\n[Peer]\nPublicKey={KEY}\n[ peer ]\nPublicKey={KEY}");
        let checked = check(text.as_bytes()).unwrap();
        assert!(checked.problems.is_empty());
        assert_eq!(checked.conf, text.parse().unwrap());
        assert_eq!(checked.peer_lines, [4, 6]);
    }

    #[test]
    fn bytes_that_are_no_text_count_outside_of_comments_only() {
        let checked = check(b"[Interface] # \xff\nMTU = \xff1\n").unwrap();
        let places: Vec<_> = checked.problems.iter().map(|p| (p.line, p.span.clone())).collect();
        assert_eq!(places, [(2, 6..9)]);
        let marked = check(b"\xef\xbb\xbf[Interface\xff]\n").unwrap();
        assert_eq!(&marked.text[marked.problems[0].span.clone()], "\u{fffd}", "a byte order mark does not count");
        assert_eq!(problems("# nothing\n")[0], row(1, "", "the file ends without an [Interface]"));
        assert!(check(b"[\0x\0\0").is_err());
    }

    #[test]
    fn the_keys_are_those_that_the_reader_knows() {
        for (section, keys) in [("[Interface]", &INTERFACE_KEYS[..]), ("[Peer]", &PEER_KEYS)] {
            for key in keys {
                let text = format!("{section}\n{key} = \u{b}");
                let error = text.parse::<Conf>().unwrap_err().to_string();
                assert!(!error.contains("no such key"), "{key}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_finds_problems_exactly_if_the_reader_does(lines in proptest::collection::vec(
            "(\\[Interface\\]|\\[Peer\\]|x|(PublicKey|Endpoint|AllowedIPs|DNS|MTU|Address) ?= ?[0-9a-f.:/, -]{0,20})",
            0..9)) {
            let text = lines.join("\n");
            let checked = check(text.as_bytes()).unwrap();
            prop_assert_eq!(checked.problems.is_empty(), text.parse::<Conf>().is_ok());
            prop_assert_eq!(checked.peer_lines.len(), checked.conf.update.peers.len());
        }

        #[test]
        fn any_bytes_are_checked(bytes: Vec<u8>) {
            if let Ok(checked) = check(&bytes) {
                prop_assert_eq!(checked.problems.is_empty(), Conf::from_bytes(&bytes).is_ok());
            }
        }
    }
}
