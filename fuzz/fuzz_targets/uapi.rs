//! The text protocol: a connection in any pieces gets the replies that a plain reading of the whole text gives, and
//! what is accepted is, written again, read as the same changes.
//!
//! The input is a byte for the size of pieces, a byte for options, and what a client sends.
#![no_main]

use std::{
    io::{self, Read, Write},
    sync::Mutex,
};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    Error, ErrorKind, Result, Update,
    config::snapshot::{InterfaceSnapshot, Snapshot},
    uapi::{Backend, Limits, Options, Parser, parse_set, serve, set_text},
};

const STATE: &str = "listen_port=7\n";

/// Keeps what was applied; refuses port 1.
#[derive(Default)]
struct Recorder(Mutex<Vec<Update>>);

impl Backend for Recorder {
    fn apply(&self, update: Update) -> Result<()> {
        if update.listen_port == Some(1) {
            return Err(Error::new(ErrorKind::AddrInUse, "port 1 is taken"));
        }
        self.0.lock().unwrap().push(update);
        Ok(())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let mut interface = InterfaceSnapshot::default();
        interface.listen_port = 7;
        Snapshot::new(interface, std::iter::empty())
    }
}

struct Client<'a> {
    sends: &'a [u8],
    piece: usize,
    receives: Vec<u8>,
}

impl Read for Client<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.sends.len().min(self.piece).min(into.len());
        let (piece, rest) = self.sends.split_at(len);
        into[..len].copy_from_slice(piece);
        self.sends = rest;
        Ok(len)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.receives.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the replies to a whole text, and whether the connection ends well.
fn replies(text: &[u8], backend: &Recorder, limits: Limits) -> (String, bool) {
    let mut replies = String::new();
    // A last line without its end begins no operation, and is a line of one all the same.
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    while let Some(operation) = lines.next() {
        let mut rest = lines.by_ref().map(|line| line.strip_suffix(b"\n").unwrap_or(line));
        let is_blank = |line: &[u8]| line.is_empty() || line == b"\r";
        match operation {
            b"get=1\n" => match rest.next() {
                None => return (replies, true),
                Some(b"") => replies += &format!("{STATE}errno=0\n\n"),
                Some(line) => {
                    if !is_blank(line) {
                        rest.find(|line| is_blank(line));
                    }
                    replies += &format!("errno={}\n\n", ErrorKind::Invalid.errno());
                }
            },
            b"set=1\n" => {
                let mut parser = Parser::new(limits);
                // The first error counts.
                let mut outcome = Ok(());
                for line in rest.take_while(|line| !is_blank(line)) {
                    outcome = outcome.and_then(|()| parser.line(line));
                }
                let outcome = outcome.and_then(|()| parser.finish()).and_then(|update| backend.apply(update));
                replies += &format!("errno={}\n\n", outcome.map_or_else(|error| -error.kind().errno(), |()| 0));
            }
            _ => return (replies, false),
        }
    }
    (replies, true)
}

/// An update is, written and read again, the same.
fn check_text(update: &Update, limits: Limits) {
    let text = set_text(update).unwrap();
    assert_eq!(parse_set(&text, limits).unwrap(), *update);
    assert!(text.lines().all(|line| line.contains('=')));
}

fuzz_target!(|input: &[u8]| {
    let [piece, flags, text @ ..] = input else { return };
    let limits = Limits { host_names: flags & 1 == 1, bytes: if flags & 2 == 2 { 200 } else { 1 << 20 }, peers: 8 };
    let (backend, expected) = (Recorder::default(), Recorder::default());
    let mut client = Client { sends: text, piece: usize::from(*piece).max(1), receives: Vec::new() };
    let options = Options { limits, ..Options::default() };
    let ends_well = serve(&mut client, &backend, &options).is_ok();
    let replies = replies(text, &expected, limits);
    assert_eq!((String::from_utf8(client.receives).unwrap(), ends_well), replies);
    let applied = backend.0.into_inner().unwrap();
    assert_eq!(applied, expected.0.into_inner().unwrap());
    // Without the limit on bytes: written text may be longer than what was read.
    let limits = Limits { bytes: 1 << 20, ..limits };
    for update in &applied {
        assert!(update.peers.len() <= limits.peers);
        check_text(update, limits);
    }
    // The same text as one configuration, without an operation.
    if let Ok(update) = str::from_utf8(text).map_or_else(|_| Err(()), |text| parse_set(text, limits).map_err(drop)) {
        check_text(&update, limits);
    }
});
