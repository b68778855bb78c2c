//! What the tests share: streams to a speaker, and recorded conversations.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)] // Each test uses some of it.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};
use wg_embed_manager::{
    messages::Side,
    speaker::{OpenError, Options, Speaker, Transport},
};

/// Longer than anything takes, on however slow a machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// For a handshake that takes as long as it takes.
pub fn patient() -> Options {
    Options { handshake_timeout: Some(PATIENCE), ..Options::default() }
}

/// The other end of a stream, as bytes.
pub struct Raw {
    pub reader: Box<dyn Read + Send>,
    pub writer: Option<Box<dyn Write + Send>>,
    shutdown: Option<UnixStream>,
}

impl Raw {
    pub fn write(&mut self, bytes: &[u8]) {
        self.writer.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// A line, with its end.
    pub fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.read(1));
        }
        line
    }

    /// The bytes of the next message.
    pub fn frame(&mut self) -> Vec<u8> {
        let len = u32::from_be_bytes(self.read(4).try_into().unwrap());
        self.read(len as usize)
    }

    /// Ends what this end writes.
    pub fn finish(&mut self) {
        self.writer = None;
        if let Some(socket) = &self.shutdown {
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    /// Everything up to the end. A socket ends with a reset if not all was read that was written to it.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Err(e) if e.kind() != ErrorKind::ConnectionReset => panic!("{e}"),
            _ => rest,
        }
    }
}

/// What a stream is made of.
#[derive(Clone, Copy, Debug)]
pub enum Wire {
    Pipes,
    /// One socket, whose descriptor is passed twice.
    Socket,
}

/// Both ends of a stream.
pub fn wire(kind: Wire) -> (Transport, Raw) {
    match kind {
        Wire::Pipes => {
            let (their_read, our_write) = rustix::pipe::pipe().unwrap();
            let (our_read, their_write) = rustix::pipe::pipe().unwrap();
            let transport = Transport::from_descriptors(our_read, our_write).unwrap();
            let (reader, writer) = (File::from(their_read), File::from(their_write));
            (transport, Raw { reader: Box::new(reader), writer: Some(Box::new(writer)), shutdown: None })
        }
        Wire::Socket => {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let copy = OwnedFd::from(ours.try_clone().unwrap());
            let transport = Transport::from_descriptors(ours.into(), copy).unwrap();
            let (reader, writer) = (theirs.try_clone().unwrap(), theirs.try_clone().unwrap());
            (transport, Raw { reader: Box::new(reader), writer: Some(Box::new(writer)), shutdown: Some(theirs) })
        }
    }
}

/// The transports of both ends of two pipes.
pub fn pair() -> (Transport, Transport) {
    let (first_read, first_write) = rustix::pipe::pipe().unwrap();
    let (second_read, second_write) = rustix::pipe::pipe().unwrap();
    let [first, second] = [(first_read, second_write), (second_read, first_write)];
    (Transport::from_descriptors(first.0, first.1).unwrap(), Transport::from_descriptors(second.0, second.1).unwrap())
}

/// A speaker whose handshake is done with a peer that says `header`.
pub fn open<S: Side>(kind: Wire, options: Options, header: &str) -> (Result<Speaker<S>, OpenError>, Raw) {
    let (transport, mut raw) = wire(kind);
    raw.write(header.as_bytes());
    (Speaker::open(transport, options), raw)
}

/// As [`open`], with the header that belongs there, after both headers.
pub fn opened<S: Side>(kind: Wire) -> (Speaker<S>, Raw) {
    let header = format!("codervpn {} 1.3\n", S::ROLE.peer().name());
    let (speaker, mut raw) = open::<S>(kind, patient(), &header);
    let speaker = speaker.unwrap();
    assert_eq!(raw.line(), format!("codervpn {} 1.3\n", S::ROLE.name()).as_bytes());
    (speaker, raw)
}

/// A line of a recorded conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// M, T, C or S.
    pub by: char,
    /// `None`: that side closes.
    pub bytes: Option<Vec<u8>>,
}

/// The names of all conversations.
pub const CONVERSATIONS: [&str; 6] =
    ["full", "settings-refused", "start-fails", "start-no-token", "start-no-url", "stop-first"];

/// Reads a recorded conversation.
pub fn transcript(name: &str) -> Vec<Line> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(format!("{name}.txt"));
    let lines: Vec<_> = std::fs::read_to_string(path).unwrap().lines().filter_map(line).collect();
    assert!(lines.len() >= 6);
    lines
}

fn line(line: &str) -> Option<Line> {
    let (by, text) = line.split_once("> ").filter(|(by, _)| by.len() == 1)?;
    let bytes = (text != "EOF")
        .then(|| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect());
    Some(Line { by: by.chars().next()?, bytes })
}

/// The bytes of a message for a frame's bytes.
pub fn message(frame: &[u8]) -> &[u8] {
    &frame[4..]
}
