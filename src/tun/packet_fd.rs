//! A descriptor that reads and writes one packet per call, as all TUNs of Unix systems do.
#![allow(unsafe_code)] // poll(2)

use super::{
    MAX_PACKET, PacketArena, PacketList,
    descriptor::{PacketIo, Reading},
    offload::split::Split,
};
use crate::error::{Error, ErrorKind, Result};
use socket2::{SockRef, Type};
use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// The total time that one `write` waits for a slow reader. A reader that has stopped costs this once.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);

/// Bytes of a family.
const FAMILY_LEN: usize = 4;

/// Returns the family of a packet, in Darwin's numbers: AF_INET6 or AF_INET.
const fn family(packet: &[u8]) -> &'static [u8; FAMILY_LEN] {
    match packet {
        [0x60..=0x6f, ..] => &[0, 0, 0, 30],
        _ => &[0, 0, 0, 2],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Not a socket.
    Device,
    Datagram,
    SeqPacket,
}

/// A non-blocking descriptor that transfers one packet per call.
#[derive(Debug)]
pub(super) struct PacketFd {
    file: File,
    kind: Kind,
    /// Whether each packet is preceded by its family, as with Apple's `utun`.
    has_family: bool,
    /// Whether the reader on the other side was late for a whole [`PATIENCE`].
    stuck: AtomicBool,
    /// Whether a write found that the other side was closed.
    gone: AtomicBool,
}

impl PacketFd {
    /// Checks that `fd` has packet boundaries, and makes it non-blocking.
    pub(super) fn new(fd: OwnedFd) -> Result<Self> {
        let kind = match SockRef::from(&fd).r#type() {
            Ok(Type::DGRAM) => Kind::Datagram,
            Ok(Type::SEQPACKET) => Kind::SeqPacket,
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the descriptor is a stream or raw socket, which does not keep packets apart: use a SOCK_DGRAM or \
                     SOCK_SEQPACKET socketpair",
                ));
            }
            Err(err) if err.raw_os_error() == Some(libc::EBADF) => {
                return Err(Error::invalid("the descriptor is not open"));
            }
            Err(_) => Kind::Device,
        };
        let file = File::from(fd);
        if kind == Kind::Device {
            let meta = file.metadata().map_err(|err| Error::io("cannot inspect the descriptor", err))?;
            if !meta.file_type().is_char_device() {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the descriptor is a file or pipe, which does not keep packets apart",
                ));
            }
        }
        let socket = SockRef::from(&file);
        // For any descriptor, not only for sockets.
        socket.set_nonblocking(true).map_err(|err| Error::io("cannot make the descriptor non-blocking", err))?;
        #[cfg(target_vendor = "apple")]
        if kind != Kind::Device {
            socket.set_nosigpipe(true).map_err(|err| Error::io("cannot disable SIGPIPE for the descriptor", err))?;
        }
        Ok(Self { file, kind, has_family: false, stuck: AtomicBool::new(false), gone: AtomicBool::new(false) })
    }

    /// Sets that each packet is preceded by its family, in both directions.
    #[cfg(any(target_vendor = "apple", test))]
    pub(super) fn with_family(self) -> Self {
        Self { has_family: true, ..self }
    }

    /// Returns an error if a write found that the other side was closed.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.gone.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the other side of the descriptor is gone"));
        }
        Ok(())
    }

    /// Reads once into `parts`; returns `None` if there is nothing now. Counts dropped packets.
    pub(super) fn receive(&self, parts: &mut [IoSliceMut<'_>], drops: &mut u64) -> io::Result<Option<usize>> {
        loop {
            // One buffer takes less time than a list of one.
            let read = match &mut *parts {
                [part] => (&self.file).read(part),
                parts => (&self.file).read_vectored(parts),
            };
            match read {
                // For datagrams an empty read is a datagram; for anything else it is the end.
                Ok(0) if self.kind == Kind::Datagram => *drops += 1,
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => return Ok(Some(len)),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => (),
                Err(err) => return Err(err),
            }
        }
    }

    /// Writes one packet that consists of `parts`. Waits briefly if the other side is slow: a burst must not be lost to
    /// a full socket buffer. A kernel TUN is never slow.
    pub(super) fn send(&self, parts: &[IoSlice<'_>], patience: &mut Patience) -> io::Result<()> {
        loop {
            let result = if self.kind == Kind::Device {
                match parts {
                    [part] => (&self.file).write(part),
                    parts => (&self.file).write_vectored(parts),
                }
            } else {
                // Without a signal to the host's process if the other side was closed.
                SockRef::from(&self.file).send_vectored_with_flags(parts, NO_SIGNAL)
            };
            let Err(err) = result else {
                self.stuck.store(false, Relaxed);
                return Ok(());
            };
            match err.raw_os_error() {
                Some(libc::EINTR) => (),
                Some(libc::EAGAIN | libc::ENOBUFS) if !self.stuck.load(Relaxed) => {
                    let full = err.raw_os_error() == Some(libc::EAGAIN);
                    if !patience.wait(self.file.as_fd(), full) {
                        self.stuck.store(true, Relaxed);
                    }
                }
                Some(libc::EPIPE | libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOTCONN)
                    if self.kind != Kind::Device =>
                {
                    self.gone.store(true, Relaxed);
                    return Err(err);
                }
                _ => return Err(err),
            }
        }
    }
}

impl PacketIo for PacketFd {
    fn fd(&self) -> &PacketFd {
        self
    }

    /// Reads in place while the arena has room for any packet; then packets up to `usual` bytes in place, and longer
    /// ones into the buffer.
    fn read(&self, reading: &mut Reading, arena: &mut PacketArena, usual: u16) -> io::Result<usize> {
        let before = arena.slots().len();
        if !reading.drain(arena) {
            return Ok(arena.slots().len() - before);
        }
        let Reading { buffer, kept, drops, is_drained } = reading;
        let usual = usize::from(usual);
        let front = if self.has_family { FAMILY_LEN } else { 0 };
        loop {
            // One byte more shows that a packet is too long.
            let received = if let Some(room) = arena.reserve_behind(front, MAX_PACKET + 1) {
                self.receive(&mut [IoSliceMut::new(room)], drops)
            } else if let Some(room) = arena.reserve_behind(front, usual) {
                self.receive(&mut [IoSliceMut::new(room), IoSliceMut::new(buffer)], drops)
            } else {
                break;
            };
            let len = match received {
                Ok(Some(len)) if len <= front => {
                    *drops += 1;
                    continue;
                }
                Ok(Some(len)) => len - front,
                Ok(None) => {
                    *is_drained = true;
                    break;
                }
                // Return the packets read so far; the error will be repeated.
                Err(_) if arena.slots().len() > before => break,
                Err(err) => return Err(err),
            };
            if len > MAX_PACKET {
                *drops += 1;
            } else if len <= usual || arena.reserve(MAX_PACKET + 1).is_some() {
                arena.commit(len);
            } else if let Some(room) = arena.reserve(usual) {
                // The same room again, since nothing was committed.
                buffer.copy_within(..len - usual, usual);
                buffer[..usual].copy_from_slice(room);
                if !arena.push(&buffer[..len]) {
                    *kept = Some((Split::WHOLE, 0..len));
                    break;
                }
            }
        }
        Ok(arena.slots().len() - before)
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        let mut patience = Patience::default();
        let first = usize::from(!self.has_family);
        let taken = |packet: &&[u8]| {
            let parts = [IoSlice::new(family(packet)), IoSlice::new(packet)];
            self.send(&parts[first..], &mut patience).is_ok()
        };
        packets.iter().filter(taken).count()
    }
}

impl AsFd for PacketFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

/// The rest of the time that one `write` may wait.
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Instant>);

impl Patience {
    /// Waits until `fd` accepts more; returns false if the time is up. A descriptor that is short of buffers (`full` is
    /// not set) always appears ready, so that this waits for a moment.
    fn wait(&mut self, fd: BorrowedFd<'_>, full: bool) -> bool {
        let now = Instant::now();
        let left = self.0.get_or_insert(now + PATIENCE).saturating_duration_since(now);
        if left.is_zero() {
            return false;
        }
        if !full {
            thread::sleep(left.min(Duration::from_millis(1)));
            return true;
        }
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // Rounded up, and at most PATIENCE.
        let timeout = left.as_millis() as i32 + 1;
        // SAFETY: poll(2) writes to one `pollfd`, which lives; the descriptor is borrowed.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout) };
        // The write reports the error.
        ready != 0
    }
}
