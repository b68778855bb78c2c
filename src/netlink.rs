//! rtnetlink: sockets for notifications, requests to the kernel, and the format of messages.
#![allow(unsafe_code)]

use crate::error::check;
use std::{
    fs, io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    time::{Duration, Instant},
};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Opens a non-blocking rtnetlink socket in the network namespace of the calling thread. It receives the messages of
/// these groups, one bit each.
pub(crate) fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes numbers.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_ROUTE) })?;
    // SAFETY: socket(2) opened this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a C struct of numbers, for which zeros are valid.
    let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    // SAFETY: the pointer and the length are those of one `sockaddr_nl`, which lives.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t) })?;
    Ok(socket)
}

/// A request that is being built.
#[derive(Clone)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// Creates a message of this type with the type's own header.
    pub(crate) fn new(kind: u16, flags: libc::c_int, header: &[u8]) -> Self {
        let mut text = vec![0; 4];
        text.extend(kind.to_ne_bytes());
        text.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        text.extend([0; 8]);
        text.extend(header);
        text.resize(text.len().next_multiple_of(4), 0);
        Self(text)
    }

    /// Adds an attribute.
    #[must_use]
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Returns the message with its length and this sequence number.
    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// How long to wait for an answer. It is there when the call that sends the request returns, unless it was lost.
const PATIENCE: Duration = Duration::from_millis(5);

/// A socket for requests.
pub(crate) struct Asker {
    socket: OwnedFd,
    /// The sequence number of the last request; its answer has the same.
    sequence: u32,
}

impl Asker {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: open(0)?, sequence: 0 })
    }

    /// Sends a request and returns the first message of its answer. Answers to earlier requests are dropped.
    ///
    /// # Errors
    /// Errors of the socket, or `TimedOut`. A refusal by the kernel is an answer like others.
    pub(crate) fn ask<'a>(&mut self, request: Request, answer: &'a mut [u8]) -> io::Result<Message<'a>> {
        self.send(request)?;
        let fd = self.socket.as_raw_fd();
        let deadline = Instant::now() + PATIENCE;
        let len = loop {
            // SAFETY: the buffer lives, and its length is given.
            let len = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
            match usize::try_from(len).map_err(|_| io::Error::last_os_error()) {
                Ok(len) if message(&answer[..len]).is_some_and(|(first, _)| first.sequence == self.sequence) => {
                    break len;
                }
                // An earlier one.
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    let mut readable = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                    // SAFETY: one valid entry. The result is ignored: the next attempt to receive reports errors.
                    unsafe { libc::poll(&raw mut readable, 1, PATIENCE.as_millis() as libc::c_int) };
                }
                Err(err) => return Err(err),
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        };
        message(&answer[..len]).map(|(first, _)| first).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Sends a request with a new sequence number.
    pub(crate) fn send(&mut self, request: Request) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let text = request.finish(self.sequence);
        // SAFETY: the buffer lives, and its length is given. Without an address, it goes to the kernel.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), text.as_ptr().cast(), text.len(), libc::MSG_NOSIGNAL) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Replaces the socket, in the network namespace of the calling thread.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        self.socket = open(0)?;
        Ok(())
    }
}

impl AsFd for Asker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The identity of a network namespace; the same for all if /proc is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(Option<(u64, u64)>);

impl Namespace {
    /// Returns the namespace of the calling thread.
    pub(crate) fn current() -> Self {
        Self::of(fs::metadata("/proc/thread-self/ns/net"))
    }

    /// Returns the namespace that a file represents.
    pub(crate) fn of(file: io::Result<fs::Metadata>) -> Self {
        Self(file.ok().map(|file| (file.dev(), file.ino())))
    }
}

/// Receives up to `most` messages from a socket with groups and discards them. Returns whether there were any; messages
/// lost for lack of room count.
pub(crate) fn drain(socket: impl AsFd, most: usize) -> bool {
    let mut byte = 0_u8;
    let mut receive = || {
        // SAFETY: there is room for one byte; the rest of the message is cut off.
        let len = unsafe { libc::recv(socket.as_fd().as_raw_fd(), (&raw mut byte).cast(), 1, 0) };
        len >= 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS)
    };
    (0..most).take_while(|_| receive()).count() > 0
}

/// A received message.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    /// The sequence number of the request that it answers.
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Splits off a message; returns it and the rest.
pub(crate) fn message(text: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let len = word32(text, 0)? as usize;
    let (kind, sequence) = (word16(text, 4)?, word32(text, 8)?);
    let body = text.get(HEADER..len)?;
    Some((Message { kind, sequence, body }, text.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// Returns the attributes behind a message's own header: type and value of each.
pub(crate) fn attributes(mut text: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(word16(text, 0)?);
        let (kind, value) = (word16(text, 2)?, text.get(4..len)?);
        text = text.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn word16(text: &[u8], at: usize) -> Option<u16> {
    text.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

pub(crate) fn word32(text: &[u8], at: usize) -> Option<u32> {
    text.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}
