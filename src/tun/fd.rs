//! Packets through a descriptor, one a call: a TUN without headers, a datagram socketpair, a sandbox's own device.
#![allow(unsafe_code)] // poll(2)

use super::{MAX_PACKET, PacketArena, PacketList, Tun, TunEvent, waiter::Waiter};
use crate::error::{Error, ErrorKind, Result};
use socket2::{SockRef, Type};
use std::{
    fmt,
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// How long one `write` waits in all for a reader that is behind. One that does not read at all costs this once.
const PATIENCE: Duration = Duration::from_millis(10);

/// The MTU of a descriptor that has none and comes without a hint.
pub const DEFAULT_MTU: u16 = 1420;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Not a socket.
    Device,
    Datagram,
    SeqPacket,
}

/// A descriptor that gives and takes one packet a call, in non-blocking mode.
#[derive(Debug)]
pub(super) struct PacketFd {
    file: File,
    kind: Kind,
    reading: Mutex<Reading>,
    /// The reader on the other side let a whole [`PATIENCE`] pass.
    stuck: AtomicBool,
    /// A write found that the other side is gone.
    gone: AtomicBool,
    drops: AtomicU64,
}

struct Reading {
    /// Takes what of a packet is longer than expected.
    spill: Box<[u8]>,
    /// Length of the packet in `spill` that there was no room for in the arena.
    kept: usize,
}

// Without the bytes of packets: they are the user's.
impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

impl PacketFd {
    /// Checks that packets stay apart in `fd`, and makes it non-blocking.
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
            let meta = file
                .metadata()
                .map_err(|err| Error::io("cannot look at the descriptor", err))?;
            if !meta.file_type().is_char_device() {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the descriptor is a file or pipe, which does not keep packets apart",
                ));
            }
        }
        let socket = SockRef::from(&file);
        // For any descriptor, not only for sockets.
        socket
            .set_nonblocking(true)
            .map_err(|err| Error::io("cannot make the descriptor non-blocking", err))?;
        #[cfg(target_vendor = "apple")]
        if kind != Kind::Device {
            socket
                .set_nosigpipe(true)
                .map_err(|err| Error::io("cannot switch SIGPIPE off for the descriptor", err))?;
        }
        Ok(Self {
            file,
            kind,
            reading: Mutex::new(Reading {
                spill: vec![0; MAX_PACKET].into_boxed_slice(),
                kept: 0,
            }),
            stuck: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            drops: AtomicU64::new(0),
        })
    }

    /// Packets that were read and could not be handed on.
    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Relaxed)
    }

    pub(super) fn count_drop(&self) {
        self.drops.fetch_add(1, Relaxed);
    }

    /// An error if a write found that the other side is gone.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.gone.load(Relaxed) {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the other side of the descriptor is gone",
            ));
        }
        Ok(())
    }

    /// One read into `parts`; `None` if there is nothing now.
    pub(super) fn receive(&self, parts: &mut [IoSliceMut<'_>]) -> io::Result<Option<usize>> {
        loop {
            match (&self.file).read_vectored(parts) {
                // An empty datagram is one; anything else has come to its end.
                Ok(0) if self.kind == Kind::Datagram => self.count_drop(),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => return Ok(Some(len)),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => (),
                Err(err) => return Err(err),
            }
        }
    }

    /// Reads until the arena is full or there is nothing more. Packets up to `usual` bytes are read in place.
    pub(super) fn read(&self, arena: &mut PacketArena, usual: u16) -> io::Result<usize> {
        self.check()?;
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { spill, kept } = &mut *reading;
        let before = arena.slots().len();
        if *kept > 0 {
            if !arena.push(&spill[..*kept]) {
                if !arena.slots().is_empty() {
                    return Ok(0);
                }
                self.count_drop();
            }
            *kept = 0;
        }
        let usual = usize::from(usual);
        while let Some(room) = arena.reserve(usual) {
            let len = match self.receive(&mut [IoSliceMut::new(room), IoSliceMut::new(spill)]) {
                Ok(Some(len)) => len,
                Ok(None) => break,
                // What has been read first; the error comes again.
                Err(_) if arena.slots().len() > before => break,
                Err(err) => return Err(err),
            };
            if len <= usual {
                arena.commit(len);
            } else if len > MAX_PACKET {
                self.count_drop();
            } else {
                // The same room again: nothing was committed.
                let in_place = room.len();
                spill.copy_within(..len - in_place, in_place);
                spill[..in_place].copy_from_slice(room);
                if !arena.push(&spill[..len]) {
                    *kept = len;
                    break;
                }
            }
        }
        Ok(arena.slots().len() - before)
    }

    /// Writes each packet, and returns how many were taken.
    pub(super) fn write(&self, packets: PacketList<'_>) -> usize {
        let mut patience = Patience::default();
        packets
            .iter()
            .filter(|packet| self.send(&[IoSlice::new(packet)], &mut patience).is_ok())
            .count()
    }

    /// Writes one packet that consists of `parts`. Waits a little if the other side is behind: a burst must not be
    /// lost to a socket buffer. A kernel TUN is never behind.
    pub(super) fn send(&self, parts: &[IoSlice<'_>], patience: &mut Patience) -> io::Result<()> {
        loop {
            let result = if self.kind == Kind::Device {
                (&self.file).write_vectored(parts)
            } else {
                // Without a signal to the host's process if the other side is gone.
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

impl AsFd for PacketFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

/// What is left of the time that one `write` may wait.
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Instant>);

impl Patience {
    /// Waits for `fd` to take more; false if the time is up. A descriptor that is short of buffers (`full` is not
    /// set) always looks ready: it gets a moment.
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
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // Rounded up, and at most PATIENCE.
        let timeout = left.as_millis() as i32 + 1;
        // SAFETY: poll(2) writes to one `pollfd`, which lives; the descriptor is borrowed.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout) };
        // An error is seen by the write.
        ready != 0
    }
}

/// A [`Tun`] over any descriptor that keeps packets apart. It has no name, and its MTU is what it was given.
#[derive(Debug)]
pub struct FdTun {
    port: PacketFd,
    waiter: Waiter,
    mtu: u16,
    told_up: AtomicBool,
}

impl FdTun {
    /// Takes a descriptor: a datagram or seqpacket socket, or a device. Packets begin with their IP header. The first
    /// event is [`TunEvent::Up`]. An `mtu` of 0 stands for 1420.
    ///
    /// Of a datagram socketpair one cannot see that its other end was closed until something is written; of a
    /// seqpacket socketpair one can.
    ///
    /// # Errors
    /// If it is a stream socket, a pipe or a file, or cannot be waited for.
    pub fn new(fd: OwnedFd, mtu: u16) -> Result<Self> {
        let port = PacketFd::new(fd)?;
        let waiter = Waiter::new(port.as_fd()).map_err(|err| Error::io("cannot wait for the descriptor", err))?;
        Ok(Self {
            port,
            waiter,
            mtu: if mtu == 0 { DEFAULT_MTU } else { mtu },
            told_up: AtomicBool::new(false),
        })
    }
}

impl Tun for FdTun {
    fn name(&self) -> String {
        String::new()
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.port.check()?;
        self.waiter.wait(timeout)?;
        self.port.check()
    }

    fn wake(&self) {
        self.waiter.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        (!self.told_up.swap(true, Relaxed)).then_some(TunEvent::Up)
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        self.port.read(arena, self.mtu)
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        let taken = self.port.write(packets);
        if self.port.check().is_err() {
            self.waiter.wake();
        }
        taken
    }

    fn read_drops(&self) -> u64 {
        self.port.drops()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        os::unix::net::{UnixDatagram, UnixStream},
        sync::Barrier,
    };

    fn pair(kind: Type, mtu: u16) -> (FdTun, socket2::Socket) {
        let (ours, theirs) = socket2::Socket::pair(socket2::Domain::UNIX, kind, None).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (FdTun::new(ours.into(), mtu).unwrap(), theirs)
    }

    fn arena(bytes: usize, mtu: u16) -> PacketArena {
        let mut arena = PacketArena::new(bytes, 256, |len, _| len.next_multiple_of(16));
        arena.clear(mtu);
        arena
    }

    fn write(tun: &FdTun, packets: &[&[u8]]) -> usize {
        let buffer = packets.concat();
        let mut at = 0;
        let ranges: Vec<_> = packets
            .iter()
            .map(|p| {
                at += p.len();
                at - p.len()..at
            })
            .collect();
        tun.write(PacketList {
            buffer: &buffer,
            ranges: &ranges,
        })
    }

    #[test]
    fn packets_pass_both_ways_in_batches() {
        for kind in [Type::DGRAM, Type::SEQPACKET] {
            let (tun, app) = pair(kind, 0);
            assert_eq!(
                (tun.name(), tun.mtu(), tun.event(), tun.event()),
                (String::new(), 1420, Some(TunEvent::Up), None)
            );
            for i in 1..=20_u8 {
                assert_eq!(app.send(&[i; 1000]).unwrap(), 1000);
            }
            tun.wait(None).unwrap();
            let mut arena = arena(100_000, 1420);
            assert_eq!(tun.read(&mut arena).unwrap(), 20);
            for (&slot, i) in arena.slots().iter().zip(1_u8..) {
                assert_eq!(arena.packet(slot), [i; 1000]);
            }
            arena.clear(1420);
            assert_eq!(tun.read(&mut arena).unwrap(), 0);

            assert_eq!(write(&tun, &[&[1; 20], &[2; 30]]), 2);
            let mut buffer = [0; 100];
            assert_eq!(Read::read(&mut &app, &mut buffer).unwrap(), 20);
            assert_eq!(Read::read(&mut &app, &mut buffer).unwrap(), 30);
        }
    }

    #[test]
    fn a_packet_longer_than_the_mtu_is_whole_and_none_is_lost_to_a_full_arena() {
        let (tun, app) = pair(Type::DGRAM, 1280);
        let packet: Vec<u8> = (0..40_000_u32).map(|i| (i >> 3) as u8).collect();
        for len in [3000, 1281, 40_000, 40_000, 1280, 100] {
            app.send(&packet[..len]).unwrap();
        }
        let mut arena = arena(45_000, 1280);
        let mut lens = Vec::new();
        while tun.read(&mut arena).unwrap() > 0 {
            for &slot in arena.slots() {
                assert!(arena.packet(slot) == &packet[..slot.len]);
                lens.push(slot.len);
            }
            arena.clear(1280);
        }
        assert_eq!(lens, [3000, 1281, 40_000, 40_000, 1280, 100]);
        // One that never fits is dropped, and does not block.
        app.send(&packet).unwrap();
        app.send(&packet[..100]).unwrap();
        let mut small = self::arena(4000, 1280);
        while tun.read(&mut small).unwrap() == 0 {}
        assert_eq!((small.slots()[0].len, tun.read_drops()), (100, 1));
    }

    #[test]
    fn a_burst_waits_for_a_reader_that_reads_and_not_for_one_that_does_not() {
        let (tun, app) = pair(Type::DGRAM, 1280);
        let packet = [7; 1280];
        let burst = [&packet[..]; 1000];
        let start = Instant::now();
        let taken = write(&tun, &burst);
        assert!(taken < 1000, "the socket takes them all");
        assert!((PATIENCE..50 * PATIENCE).contains(&start.elapsed()));
        let waits_not = (0..5).any(|_| {
            let start = Instant::now();
            assert_eq!(write(&tun, &burst), 0);
            start.elapsed() < PATIENCE
        });
        assert!(waits_not, "waits again for one that is stuck");

        let mut buffer = [0; 2000];
        for _ in 0..taken {
            Read::read(&mut &app, &mut buffer).unwrap();
        }
        app.set_nonblocking(false).unwrap();
        let start = Barrier::new(2);
        thread::scope(|s| {
            s.spawn(|| {
                start.wait();
                for _ in 0..1000 {
                    let mut buffer = [0; 2000];
                    assert_eq!(Read::read(&mut &app, &mut buffer).unwrap(), 1280);
                }
            });
            start.wait();
            assert_eq!(write(&tun, &burst), 1000);
        });
    }

    #[test]
    fn a_closed_peer_ends_it() {
        let (tun, app) = pair(Type::SEQPACKET, 1280);
        app.send(&[1; 20]).unwrap();
        drop(app);
        tun.wait(None).unwrap();
        let mut arena = arena(10_000, 1280);
        assert_eq!(tun.read(&mut arena).unwrap(), 1);
        assert_eq!(tun.read(&mut arena).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(write(&tun, &[&[1; 20]]), 0);

        // A datagram socket learns it from a write, and tells the thread that waits.
        let (tun, app) = pair(Type::DGRAM, 1280);
        drop(app);
        assert_eq!(tun.read(&mut arena).unwrap(), 0);
        thread::scope(|s| {
            let waiting = s.spawn(|| tun.wait(None));
            thread::sleep(Duration::from_millis(10));
            assert_eq!(write(&tun, &[&[1; 20]]), 0);
            assert!(waiting.join().unwrap().is_err());
        });
        assert!(tun.read(&mut arena).is_err());
    }

    #[test]
    fn an_empty_datagram_is_not_the_end() {
        let (tun, app) = pair(Type::DGRAM, 1280);
        app.send(&[]).unwrap();
        app.send(&[1; 20]).unwrap();
        let mut arena = arena(10_000, 1280);
        assert_eq!((tun.read(&mut arena).unwrap(), tun.read_drops()), (1, 1));
    }

    #[test]
    fn a_wake_is_not_lost_and_nothing_else_wakes() {
        let (tun, _app) = pair(Type::DGRAM, 1280);
        tun.wake();
        tun.wait(None).unwrap();
        let start = Instant::now();
        tun.wait(Some(Duration::from_millis(50))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn what_does_not_keep_packets_apart_is_refused() {
        let kind_of = |fd: OwnedFd| FdTun::new(fd, 0).map(|_| ()).unwrap_err().kind();
        assert_eq!(kind_of(UnixStream::pair().unwrap().0.into()), ErrorKind::Unsupported);
        assert_eq!(kind_of(io::pipe().unwrap().0.into()), ErrorKind::Unsupported);
        assert_eq!(
            kind_of(File::open("/etc/passwd").unwrap().into()),
            ErrorKind::Unsupported
        );
        // Always ready and no packets: poll refuses it.
        assert_eq!(kind_of(File::open("/dev/null").unwrap().into()), ErrorKind::Permission);
        assert!(FdTun::new(UnixDatagram::pair().unwrap().0.into(), 0).is_ok());
    }
}
