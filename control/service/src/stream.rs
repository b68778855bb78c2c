//! Requests that arrive in pieces, one after the other.

use std::io::{self, ErrorKind::Interrupted, Read, Write};

use wg_embed::error::{Error, ErrorKind, Result};
use wg_embed_wireproto::{
    Decoder, Event, Field, Problem,
    readings::{EOT, ETX, TRAILER},
};
use zeroize::Zeroizing;

use crate::{answer::of_codec, bytes::WipedBytes, options::Options, session::Session};

/// The memory that is kept between requests, in bytes.
const KEPT: usize = 64 << 10;

/// The size of one read, in bytes.
const CHUNK: usize = 16 << 10;

/// Finds the end of a request. The whole request is buffered, because its checksum is verified only at the end, and no
/// command may be executed before that. Memory is allocated for received bytes, never for announced ones.
#[derive(Debug)]
pub struct Framer {
    options: Options,
    /// Parses the part before the groups.
    head: Decoder,
    message: WipedBytes,
    /// The length of the whole request in bytes, once it is known.
    size: Option<usize>,
    failed: Option<wg_embed_wireproto::Error>,
}

impl Framer {
    /// Creates a framer that expects the first request.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let head = Decoder::new(options.reading());
        Self { options, head, message: WipedBytes::default(), size: None, failed: None }
    }

    /// Consumes bytes from `input` up to the end of a request. Returns that request once it is complete, with its
    /// groups unchecked; then call [`next`](Self::next). Returns `None` when `input` is empty.
    ///
    /// # Errors
    /// The part before the groups or the end is invalid, or there is no memory: the start of the next request is
    /// unknown. Later calls fail with the same error.
    pub fn read(&mut self, input: &mut &[u8]) -> std::result::Result<Option<&[u8]>, wg_embed_wireproto::Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.take(input).inspect_err(|error| self.failed = Some(*error))?;
        Ok((self.size == Some(self.message.len())).then_some(&*self.message))
    }

    /// Removes the complete request.
    pub fn next(&mut self) {
        self.message.clear(KEPT);
        self.head = Decoder::new(self.options.reading());
        self.size = None;
    }

    /// Returns whether no request has begun.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.message.is_empty()
    }

    fn take(&mut self, input: &mut &[u8]) -> std::result::Result<(), wg_embed_wireproto::Error> {
        while self.size.is_none() {
            let Some((first, rest)) = input.split_at_checked(1) else { return Ok(()) };
            self.push(first)?;
            *input = rest;
            if let Some(Event::Start(head)) = self.head.read(&mut &*first)? {
                // The whole length is below the limit: that was checked.
                self.size = Some(self.message.len() + head.size as usize + TRAILER);
            }
        }
        let missing = self.size.unwrap_or(0).saturating_sub(self.message.len());
        let (piece, rest) = input.split_at(missing.min(input.len()));
        self.push(piece)?;
        *input = rest;
        if piece.len() == missing {
            self.check_end()?;
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> std::result::Result<(), wg_embed_wireproto::Error> {
        let offset = self.message.len() as u64;
        let no_memory = |_| wg_embed_wireproto::Error { problem: Problem::NoMemory, field: Field::Record, offset };
        self.message.push(bytes).map_err(no_memory)
    }

    fn check_end(&self) -> std::result::Result<(), wg_embed_wireproto::Error> {
        let at = self.message.len().saturating_sub(TRAILER);
        let end = self.message.get(at..).unwrap_or_default();
        for ((found, expected), (place, field)) in
            end.iter().zip([ETX, EOT]).zip([(at, Field::BodyEnd), (at + 1, Field::MessageEnd)])
        {
            if *found != expected {
                let problem = Problem::Unexpected { found: *found };
                return Err(wg_embed_wireproto::Error { problem, field, offset: place as u64 });
            }
        }
        Ok(())
    }
}

/// Serves a stream until its end. `work` answers a request: [`Session::call`], on the session that it is passed.
///
/// An invalid request is answered, and the next one is read, unless its start is unknown. In that case the answer is
/// the last one.
///
/// # Errors
/// `Protocol` or `TooLarge` if the start of the next request is unknown; otherwise errors of the stream, including
/// timeouts. A request that was not read completely is not executed.
pub fn serve(
    stream: &mut (impl Read + Write),
    session: &Session,
    work: impl Fn(&Session, &[u8]) -> Zeroizing<Vec<u8>>,
) -> Result<()> {
    let lost = |error| Error::io("the WireProto connection was lost", error);
    let mut framer = Framer::new(*session.options());
    let mut chunk = Zeroizing::new(Vec::new());
    chunk.try_reserve_exact(CHUNK)?;
    chunk.resize(CHUNK, 0);
    loop {
        let count = read(stream, &mut chunk).map_err(lost)?;
        let mut input = chunk.get(..count).unwrap_or_default();
        if input.is_empty() {
            return if framer.is_between() {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Protocol, "the connection ended inside a request"))
            };
        }
        loop {
            match framer.read(&mut input) {
                Ok(None) => break,
                Ok(Some(request)) => {
                    let response = work(session, request);
                    send(stream, &response).map_err(lost)?;
                    framer.next();
                }
                Err(error) => {
                    send(stream, &session.refuse(&error)).map_err(lost)?;
                    return Err(of_codec(&error));
                }
            }
        }
    }
}

fn send(stream: &mut impl Write, response: &[u8]) -> io::Result<()> {
    stream.write_all(response)?;
    stream.flush()
}

/// Reads once, and again after a signal.
fn read(stream: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(into) {
            Err(error) if error.kind() == Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_for_what_has_arrived() {
        let mut framer = Framer::new(Options::default());
        // Close to 16 MiB are announced.
        let head = [1, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0, 0xff, 0xff, 0];
        assert!(framer.read(&mut &head[..]).unwrap().is_none());
        assert!(framer.size.unwrap() > 16_000_000);
        let mut largest = 0;
        for count in 1..=1000 {
            assert!(framer.read(&mut &[0; 100][..]).unwrap().is_none());
            largest = largest.max(framer.message.capacity());
            assert!(framer.message.capacity() <= 2 * (count * 100 + head.len()) + 256);
        }
        framer.next();
        assert!(framer.message.capacity() <= KEPT && framer.is_between() && largest > KEPT);
    }
}
