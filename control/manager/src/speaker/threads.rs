//! The two threads of a stream. Neither waits for the other: a side that does not read is still read from.

use super::{End, OpenError, shared::Shared};
use crate::{
    messages::{Envelope, Side},
    stream::{FrameDecoder, HeaderDecoder, Kind, Version, Versions, weigh},
};
use prost::Message;
use std::io::{self, ErrorKind, Read, Write};

/// The size of one read.
const CHUNK: usize = 16 << 10;

/// Ends the stream when a thread ends, also by a panic.
struct Guard<'a, S: Side>(&'a Shared<S>);

impl<S: Side> Drop for Guard<'_, S> {
    fn drop(&mut self) {
        self.0.end(End::Broken);
    }
}

/// Writes the header, then each frame.
pub(super) fn write<S: Side>(shared: &Shared<S>, mut writer: impl Write, header: &[u8]) {
    let guard = Guard(shared);
    let end = match send(shared, &mut writer, header) {
        Ok(end) => end,
        Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            shared.seal(End::PeerClosed);
            End::PeerClosed
        }
        Err(e) => e.into(),
    };
    // First, so that the other side sees the end no later than this one.
    drop(writer);
    shared.end(end);
    drop(guard);
}

fn send<S: Side>(shared: &Shared<S>, writer: &mut impl Write, header: &[u8]) -> io::Result<End> {
    writer.write_all(header)?;
    writer.flush()?;
    shared.greeted();
    while let Some(frame) = shared.next_frame() {
        writer.write_all(&frame.bytes)?;
        writer.flush()?;
        if frame.is_last {
            return Ok(End::Finished);
        }
    }
    Ok(End::Closed)
}

/// Reads the header, then each frame.
pub(super) fn read<S: Side>(shared: &Shared<S>, mut reader: impl Read, versions: &Versions) {
    let guard = Guard(shared);
    let greeting = greet::<S>(&mut reader, versions);
    let is_refused = matches!(greeting, Err(OpenError::Header(_)));
    let is_open = greeting.is_ok();
    shared.greet(greeting);
    if is_refused {
        // This side's header is still written, so that the other side can report the mismatch.
        std::mem::forget(guard);
        return;
    }
    let end = if is_open { receive(shared, &mut reader) } else { End::PeerClosed };
    drop(reader);
    // A side that has closed its direction may still read this header.
    shared.wait_for_header();
    shared.end(end);
    drop(guard);
}

fn greet<S: Side>(reader: &mut impl Read, versions: &Versions) -> Result<Version, OpenError> {
    let mut decoder = HeaderDecoder::new();
    loop {
        let mut byte = [0];
        match reader.read(&mut byte) {
            Ok(0) => return Err(OpenError::Ended(End::PeerClosed)),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(OpenError::Ended(e.into())),
        }
        if let Some(header) = decoder.push(byte[0]).map_err(OpenError::Header)? {
            return header.negotiate(S::ROLE, versions).map_err(OpenError::Header);
        }
    }
}

fn receive<S: Side>(shared: &Shared<S>, reader: &mut impl Read) -> End {
    let mut decoder = FrameDecoder::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut bytes = match reader.read(&mut buffer) {
            Ok(0) if decoder.is_inside() => return End::Truncated,
            Ok(0) => return End::PeerClosed,
            Ok(len) => buffer.get(..len).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return End::PeerClosed,
            Err(e) => return e.into(),
        };
        while !bytes.is_empty() {
            let outcome = match decoder.push(&mut bytes) {
                Ok(None) => break,
                Ok(Some(message)) => accept(shared, &message),
                Err(e) => Err(End::Frame(e)),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }
}

/// Decodes a message and delivers it.
fn accept<S: Side>(shared: &Shared<S>, message: &[u8]) -> Result<(), End> {
    let weight = weigh(message, S::Received::SHAPE).ok_or(End::Malformed)?;
    let (rpc, body) = S::Received::decode(message).map_err(|_| End::Malformed)?.split();
    shared.deliver(Kind::of(rpc.as_ref()), body, weight)
}
