//! Serves one connection, over any reader and writer.
//!
//! A connection carries any number of `get` and `set`, one after another or pipelined. The backend is called between
//! reads and writes, never during one, so a stalled client blocks only its own connection. Memory is one line
//! ([`MAX_LINE`]), one chunk of a reply, and the [`Update`](crate::config::Update) being read, which [`Limits`] bounds.

use std::io::{self, Read, Write};

use zeroize::{Zeroize, Zeroizing};

use super::{
    Backend,
    format::{self, ZoneExists},
    parse::{Limits, MAX_LINE, Parser, is_blank},
};
use crate::{
    error::{Error, ErrorKind, Result},
    key::wiped,
    reserve::zeroed,
};

/// Options of a connection.
///
/// A new version may add fields: write `..Options::default()` behind those that are set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The limits of one `set`.
    pub limits: Limits,
    /// Which IPv6 zones may be printed, see [`format::write_snapshot`]; all if `None`.
    pub zones: Option<ZoneExists>,
}

/// Serves one connection until its client closes it.
///
/// - `set=1`, lines, and an empty line or the end of the stream: the lines are applied as a whole or not at all. The
///   reply is `errno=0`, or the **negated** errno, which wg(8) expects here. After a bad line the rest of the request
///   is read and dropped before the reply.
/// - `get=1` and an empty line: the reply is the state and `errno=0`. If another line follows, it is a **positive**
///   `EINVAL`, which wg(8) expects here.
/// - Any other first line, also one without its line feed: the connection ends without a reply.
///
/// The caller closes the connection and sets its timeouts.
///
/// # Errors
/// `Protocol` if the client did not begin with an operation; otherwise errors of the stream, including timeouts. A
/// partially read `set` is then not applied.
pub fn serve(stream: &mut (impl Read + Write), backend: &dyn Backend, options: &Options) -> Result<()> {
    let lost = |e| Error::io("the UAPI connection was lost", e);
    let mut lines = LineReader::new().map_err(lost)?;
    loop {
        let operation = match lines.next(stream).map_err(lost)? {
            Line::Whole(b"get=1") => get,
            Line::Whole(b"set=1") => set,
            Line::End => return Ok(()),
            _ => return Err(Error::new(ErrorKind::Protocol, "neither get=1 nor set=1")),
        };
        let open = wiped(|| operation(stream, &mut lines, backend, options)).map_err(lost)?;
        lines.wipe();
        if !open {
            return Ok(());
        }
    }
}

/// Serves a `get`. Returns whether the connection continues.
fn get<S: Read + Write>(
    stream: &mut S,
    lines: &mut LineReader,
    backend: &dyn Backend,
    options: &Options,
) -> io::Result<bool> {
    let refused = match lines.next(stream)? {
        Line::End => return Ok(false),
        Line::Whole(b"") => false,
        Line::Whole(b"\r") => true,
        _ => {
            while lines.next(stream)?.is_inside() {}
            true
        }
    };
    let mut errno = 0;
    if refused {
        errno = ErrorKind::Invalid.errno();
        tracing::warn!("UAPI get refused: get=1 is followed by something other than an empty line");
    } else {
        match format::write_snapshot(backend.snapshot(), options.zones, stream) {
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                errno = ErrorKind::Resources.errno();
                tracing::warn!("UAPI get refused: not enough memory");
            }
            written => written?,
        }
    }
    answer(stream, errno)
}

/// Reads and applies a `set`. Returns whether the connection continues.
fn set<S: Read + Write>(
    stream: &mut S,
    lines: &mut LineReader,
    backend: &dyn Backend,
    options: &Options,
) -> io::Result<bool> {
    let mut parser = Ok(Parser::new(options.limits));
    loop {
        let line = lines.next(stream)?;
        if !line.is_inside() {
            break;
        }
        // After an error only the end of the request is searched for.
        if let Ok(reading) = &mut parser
            && let Err(error) = reading.line(line.bytes())
        {
            parser = Err(error);
        }
    }
    let outcome = parser.and_then(Parser::finish).and_then(|update| backend.apply(update));
    let errno = outcome.map_or_else(
        |error| {
            tracing::warn!("UAPI set refused: {error}");
            -error.kind().errno()
        },
        |()| 0,
    );
    answer(stream, errno)
}

fn answer(stream: &mut impl Write, errno: i32) -> io::Result<bool> {
    stream.write_all(format!("errno={errno}\n\n").as_bytes())?;
    stream.flush()?;
    Ok(true)
}

/// A result of [`LineReader::next`].
enum Line<'a> {
    /// A line that ended in a line feed, which is removed.
    Whole(&'a [u8]),
    /// The text between the last line feed and the end of the stream; not empty.
    Rest(&'a [u8]),
    /// More than [`MAX_LINE`] bytes without a line feed, of which this is as much as the buffer holds. The following
    /// result continues the same line.
    TooLong(&'a [u8]),
    /// The stream has ended.
    End,
}

impl Line<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(line) | Self::Rest(line) | Self::TooLong(line) => line,
            Self::End => b"",
        }
    }

    /// Returns whether the request continues.
    fn is_inside(&self) -> bool {
        !is_blank(self.bytes())
    }
}

/// Splits a stream into lines, in a buffer of fixed size.
///
/// Data behind a line are kept for the next call, so that a client may send several operations at once.
struct LineReader {
    buffer: Zeroizing<Vec<u8>>,
    /// The bytes that were read and not yet returned are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Whether the rest of a too long line is being skipped.
    skipping: bool,
}

impl LineReader {
    fn new() -> io::Result<Self> {
        // The longest line, its line feed, and one byte more to detect longer lines.
        let buffer = Zeroizing::new(zeroed(MAX_LINE + 1)?.into_vec());
        Ok(Self { buffer, start: 0, end: 0, skipping: false })
    }

    fn next(&mut self, stream: &mut impl Read) -> io::Result<Line<'_>> {
        // The number of unread bytes that are known to contain no line feed.
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(at) = unread[searched..].iter().position(|&b| b == b'\n') {
                let line = self.start..self.start + searched + at;
                self.start = line.end + 1;
                if !std::mem::take(&mut self.skipping) {
                    return Ok(Line::Whole(&self.buffer[line]));
                }
                searched = 0;
                continue;
            }
            searched = unread.len();
            if self.skipping {
                (self.start, self.end, searched) = (0, 0, 0);
            } else if searched == self.buffer.len() {
                (self.start, self.end, self.skipping) = (0, 0, true);
                return Ok(Line::TooLong(&self.buffer));
            } else if self.end == self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, searched);
            }
            match read(stream, &mut self.buffer[self.end..])? {
                0 if searched == 0 => return Ok(Line::End),
                0 => {
                    let rest = self.start..self.end;
                    (self.start, self.end) = (0, 0);
                    return Ok(Line::Rest(&self.buffer[rest]));
                }
                n => self.end += n,
            }
        }
    }

    /// Wipes data that were already returned: they may contain keys, and the connection may stay open for long.
    fn wipe(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.buffer[self.end..].zeroize();
    }
}

/// Reads once, and again if interrupted by a signal.
fn read(stream: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(into) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{
        Update,
        snapshot::{InterfaceSnapshot, Snapshot},
    };
    use proptest::prelude::*;
    use std::{collections::VecDeque, sync::Mutex};

    const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    /// Keeps what was applied last; refuses port 1.
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
            Snapshot {
                interface: InterfaceSnapshot { listen_port: 7, ..Default::default() },
                peers: Box::new(std::iter::empty()),
            }
        }
    }

    /// A client whose writes arrive one by one; an error stands for a time-out.
    #[derive(Default)]
    struct Client {
        sends: VecDeque<io::Result<Vec<u8>>>,
        receives: Vec<u8>,
    }

    impl Read for Client {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some(chunk) = self.sends.pop_front() else {
                return Ok(0);
            };
            let mut chunk = chunk?;
            let n = chunk.len().min(into.len());
            into[..n].copy_from_slice(&chunk[..n]);
            if n < chunk.len() {
                self.sends.push_front(Ok(chunk.split_off(n)));
            }
            Ok(n)
        }
    }

    impl Write for Client {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.receives.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Sends the pieces and returns the answer, what was applied, and how the connection ended.
    fn exchange(pieces: &[&[u8]]) -> (String, Vec<Update>, Result<()>) {
        let backend = Recorder::default();
        let sends = pieces.iter().filter(|p| !p.is_empty()).map(|p| Ok(p.to_vec())).collect();
        let mut client = Client { sends, ..Client::default() };
        let end = serve(&mut client, &backend, &Options::default());
        let applied = backend.0.into_inner().unwrap();
        (String::from_utf8(client.receives).unwrap(), applied, end)
    }

    fn answer_to(text: &str) -> String {
        exchange(&[text.as_bytes()]).0
    }

    #[test]
    fn operations_follow_one_another_in_one_write() {
        let (answer, applied, end) = exchange(&[b"set=1\nfwmark=1\n\nget=1\n\nset=1\nfwmark=2\r\n\r\nget=1\n\n"]);
        assert_eq!(answer, "errno=0\n\nlisten_port=7\nerrno=0\n\nerrno=0\n\nlisten_port=7\nerrno=0\n\n");
        assert_eq!(applied.iter().map(|u| u.fwmark).collect::<Vec<_>>(), [Some(1), Some(2)]);
        end.unwrap();
    }

    #[test]
    fn the_end_of_the_stream_ends_a_set() {
        for text in ["set=1\nfwmark=3\n", "set=1\nfwmark=3", "set=1\nfwmark=3\r"] {
            let (answer, applied, end) = exchange(&[text.as_bytes()]);
            assert_eq!((answer.as_str(), applied[0].fwmark), ("errno=0\n\n", Some(3)));
            end.unwrap();
        }
        assert_eq!(answer_to("set=1\n"), "errno=0\n\n");
    }

    #[test]
    fn a_bad_line_changes_nothing_and_what_follows_is_heard() {
        let (answer, applied, _) = exchange(&[b"set=1\nfwmark=3\nbogus=1\nfwmark=4\n\nset=1\nfwmark=5\n\n"]);
        let einval = ErrorKind::Invalid.errno();
        assert_eq!(answer, format!("errno=-{einval}\n\nerrno=0\n\n"));
        assert_eq!(applied.len(), 1);
    }

    #[test]
    fn errnos_are_negative_for_set_and_positive_for_get() {
        let errno = |kind: ErrorKind| kind.errno();
        assert_eq!(answer_to("set=1\nlisten_port=1\n\n"), format!("errno=-{}\n\n", errno(ErrorKind::AddrInUse)));
        assert_eq!(answer_to("set=1\nfoo\n\n"), format!("errno=-{}\n\n", errno(ErrorKind::Protocol)));
        for bad in ["get=1\nx", "get=1\nx\n\n", "get=1\n\r\n", "get=1\nset=1\nfwmark=1\n\n"] {
            assert_eq!(answer_to(bad), format!("errno={}\n\n", errno(ErrorKind::Invalid)), "{bad:?}");
        }
    }

    #[test]
    fn anything_else_ends_the_connection_without_a_byte() {
        for text in ["hello\n", "\n", "get=2\n\n", "set=1\r\n\n", "get=1", "set=1", " set=1\n", "get=1\n"] {
            assert_eq!(answer_to(text), "", "{text:?}");
        }
        assert_eq!(exchange(&[b"hello\n"]).2.unwrap_err().kind(), ErrorKind::Protocol);
        exchange(&[]).2.unwrap();
    }

    #[test]
    fn the_longest_line_is_read_and_a_longer_one_is_eio() {
        let request = |zeros: usize| format!("set=1\nfwmark={}9\n\nget=1\n\n", "0".repeat(zeros));
        let fits = MAX_LINE - "fwmark=9".len();
        assert_eq!(answer_to(&request(fits)), "errno=0\n\nlisten_port=7\nerrno=0\n\n");
        for zeros in [fits + 1, fits + 2, 70 * 1024, 400_000] {
            let eio = ErrorKind::Io.errno();
            let expected = format!("errno=-{eio}\n\nlisten_port=7\nerrno=0\n\n");
            assert_eq!(answer_to(&request(zeros)), expected, "{zeros}");
        }
    }

    #[test]
    fn a_lost_connection_applies_nothing() {
        let backend = Recorder::default();
        let mut client = Client::default();
        client.sends.push_back(Ok(b"set=1\nfwmark=1\n".to_vec()));
        client.sends.push_back(Err(io::ErrorKind::Interrupted.into()));
        client.sends.push_back(Ok(b"fwmark=2\n".to_vec()));
        client.sends.push_back(Err(io::ErrorKind::TimedOut.into()));
        let error = serve(&mut client, &backend, &Options::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(backend.0.into_inner().unwrap().is_empty());
        assert!(client.receives.is_empty());
    }

    #[test]
    fn nothing_secret_stays_in_the_buffer_between_operations() {
        let mut lines = LineReader::new().unwrap();
        let mut input = format!("private_key={KEY}\nget=1\n");
        let mut input = Box::new(io::Cursor::new(std::mem::take(&mut input).into_bytes()));
        assert!(lines.next(&mut input).unwrap().is_inside());
        lines.wipe();
        assert!(!lines.buffer.windows(KEY.len()).any(|w| w == KEY.as_bytes()));
        assert!(matches!(lines.next(&mut input).unwrap(), Line::Whole(b"get=1")));
    }

    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"set=1\n".to_vec()),
            Just(b"get=1\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"fwmark=1\n".to_vec()),
            Just(format!("public_key={KEY}\n").into_bytes()),
            Just(vec![b'x'; 66_000]),
            any::<Vec<u8>>(),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn how_bytes_are_cut_changes_nothing(request in requests(), cuts in proptest::collection::vec(1_usize..5000, 1..9)) {
            let whole = exchange(&[&request]);
            let mut pieces = Vec::new();
            let (mut rest, mut cuts) = (request.as_slice(), cuts.iter().cycle());
            while let (false, Some(&cut)) = (rest.is_empty(), cuts.next()) {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            let cut = exchange(&pieces);
            prop_assert_eq!((whole.0, whole.1, whole.2.is_ok()), (cut.0, cut.1, cut.2.is_ok()));
        }
    }
}
