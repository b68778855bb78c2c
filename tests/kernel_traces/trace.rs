//! A `.trace` file, read: see `tests/vectors/traces/README.md` for what its lines mean.

use std::{collections::HashMap, time::Duration};

/// One recording.
#[derive(Clone)]
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) lines: Vec<Line>,
    /// Until when the recorder listened, if that is later than the last line.
    pub(crate) until: Duration,
}

/// One event.
#[derive(Clone)]
pub(crate) struct Line {
    /// Its place in the file, from 1.
    pub(crate) number: usize,
    /// Since the interface came up.
    pub(crate) at: Duration,
    /// What follows `kernel`.
    pub(crate) text: String,
    pub(crate) what: What,
}

/// The event, as far as its text does not say it all.
#[derive(Clone)]
pub(crate) enum What {
    Config(Notes),
    Link { up: bool },
    TunSend(usize),
    Rx(Datagram),
    Tx,
    TunRecv,
}

/// A datagram that the peer sends.
#[derive(Clone)]
pub(crate) struct Datagram {
    pub(crate) kind: String,
    pub(crate) size: usize,
    pub(crate) notes: Notes,
    /// Its text without what is not part of its bytes.
    pub(crate) bytes_text: String,
}

/// The `name=value` words of a line; words without `=` have an empty value.
#[derive(Clone)]
pub(crate) struct Notes(HashMap<String, String>);

impl Notes {
    fn parse<'a>(words: impl Iterator<Item = &'a str>, known: &[&str]) -> Result<Self, String> {
        let mut notes = HashMap::new();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if !known.contains(&name) || notes.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(format!("unexpected `{word}`"));
            }
        }
        Ok(Self(notes))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A number that may be missing.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<u64>, String> {
        self.text(name).map(|t| t.parse().map_err(|_| format!("`{name}={t}` is no number"))).transpose()
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64, String> {
        self.optional(name)?.ok_or_else(|| format!("`{name}=` is missing"))
    }
}

impl Trace {
    /// # Errors
    /// If a line is not as the README has it.
    pub(crate) fn parse(name: &str, text: &str, until: Duration) -> Result<Self, String> {
        let mut lines: Vec<Line> = Vec::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#')) {
            let line = Line::parse(number, line).map_err(|why| format!("{name}.trace:{number}: {why}: {line}"))?;
            if lines.last().is_some_and(|last| last.at > line.at) {
                return Err(format!("{name}.trace:{number}: earlier than the line before"));
            }
            lines.push(line);
        }
        let last = lines.last().ok_or_else(|| format!("{name}.trace: no events"))?.at;
        Ok(Self { name: name.to_owned(), until: until.max(last), lines })
    }

    /// Where a line is, for messages.
    pub(crate) fn place(&self, line: &Line) -> String {
        format!("{}.trace:{}", self.name, line.number)
    }
}

impl Line {
    fn parse(number: usize, line: &str) -> Result<Self, String> {
        let rest = line.strip_prefix("at ").ok_or("no `at`")?;
        let (at, text) = rest.split_once(" kernel ").ok_or("no `kernel`")?;
        let (seconds, millis) = at.split_once('.').filter(|(_, ms)| ms.len() == 3).ok_or("no time in milliseconds")?;
        let whole = |digits: &str| digits.parse::<u64>().map_err(|_| format!("`{digits}` is no number"));
        let at = Duration::from_millis(whole(seconds)? * 1000 + whole(millis)?);
        Ok(Self { number, at, text: text.to_owned(), what: What::parse(text)? })
    }

    /// Whether a timer may have caused it: packets wait for an event, keepalives and initiations need none.
    pub(crate) fn may_be_timed(&self) -> bool {
        self.text.starts_with("tx initiation") || self.is_keepalive()
    }

    /// Whether the node sent an empty packet.
    pub(crate) fn is_keepalive(&self) -> bool {
        self.text.starts_with("tx data") && self.text.contains(" keepalive")
    }

    /// Whether it is a datagram, of either direction.
    pub(crate) fn is_datagram(&self) -> bool {
        matches!(self.what, What::Rx(_) | What::Tx)
    }
}

impl What {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split(' ');
        let what = words.next().unwrap_or_default();
        let size = |word: Option<&str>| -> Result<usize, String> {
            word.and_then(|w| w.parse().ok()).ok_or_else(|| "no size".to_owned())
        };
        Ok(match what {
            "config" => Self::Config(Notes::parse(words, &["peer-keepalive", "endpoint", "psk", "private-key"])?),
            "link" => match words.next() {
                Some(way @ ("up" | "down")) => Self::Link { up: way == "up" },
                _ => return Err("up or down?".into()),
            },
            "tun-send" => Self::TunSend(size(words.next())?),
            "rx" => {
                let kind = words.next().unwrap_or_default().to_owned();
                let size = size(words.next())?;
                let known = ["number", "for", "session", "psk", "counter", "inner", "keepalive", "bad", "copy", "port"];
                let of_the_bytes = |w: &&str| *w != "copy" && !w.starts_with("port=");
                Self::Rx(Datagram {
                    kind,
                    size,
                    notes: Notes::parse(words, &known)?,
                    bytes_text: text.split(' ').filter(of_the_bytes).collect::<Vec<_>>().join(" "),
                })
            }
            // What the node sends is made into text and compared with this.
            "tx" => Self::Tx,
            "tun-recv" => Self::TunRecv,
            _ => return Err(format!("unknown event `{what}`")),
        })
    }
}
