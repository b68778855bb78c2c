//! A [`Tun`] over any descriptor with packet boundaries: a datagram socketpair, a sandbox's own device.

use super::{DEFAULT_MTU, PacketArena, PacketList, Tun, TunEvent, descriptor::Descriptor, packet_fd::PacketFd};
use crate::{
    error::{Error, Result},
    poll::Registered,
    sync::lock,
};
use std::{
    io, mem,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

/// A [`Tun`] over any descriptor with packet boundaries. It has no name, and its MTU is given by the caller.
#[derive(Debug)]
pub struct FdTun {
    descriptor: Descriptor<PacketFd>,
    mtu: AtomicU16,
    told: Mutex<Told>,
}

/// The state reported to the tunnel.
#[derive(Debug, Default)]
struct Told {
    up: bool,
    mtu: u16,
}

impl FdTun {
    /// Takes a descriptor: a datagram or seqpacket socket, or a device. Packets begin with their IP header, except
    /// those of Apple's `utun`, which have their family before it; its MTU is read from the system. The first event is
    /// [`TunEvent::Up`]. An `mtu` of 0 means 1420.
    ///
    /// The closing of the other end of a datagram socketpair is detected only by a write; that of a seqpacket
    /// socketpair at once.
    ///
    /// # Errors
    /// If it is a stream socket, a pipe or a file, or cannot be waited for.
    pub fn new(fd: OwnedFd, mtu: u16) -> Result<Self> {
        let (packets, mtu) = find(fd, mtu)?;
        let descriptor = Descriptor::new(packets).map_err(cannot_wait)?;
        Ok(Self { descriptor, mtu: AtomicU16::new(mtu), told: Mutex::new(Told { up: false, mtu }) })
    }

    /// Replaces the descriptor by another, as described in [`new`](Self::new). When this returns, the old descriptor is
    /// closed and no longer written. Packets that were read from it are passed on; unread packets are lost. Any thread
    /// may call this at any time. A different MTU is reported as an event.
    ///
    /// # Errors
    /// As [`new`](Self::new). The old descriptor then remains in use.
    pub fn replace(&self, fd: OwnedFd, mtu: u16) -> Result<()> {
        let (packets, mtu) = find(fd, mtu)?;
        self.descriptor.replace(packets, || self.mtu.store(mtu, Relaxed)).map_err(cannot_wait)
    }
}

/// Examines a descriptor. Returns it with its MTU.
fn find(fd: OwnedFd, mtu: u16) -> Result<(Arc<PacketFd>, u16)> {
    let fd = PacketFd::new(fd)?;
    #[cfg(target_vendor = "apple")]
    let (fd, mtu) = match super::apple::mtu(&fd, mtu) {
        Some(found) => (fd.with_family(), found),
        None => (fd, mtu),
    };
    Ok((Arc::new(fd), if mtu == 0 { DEFAULT_MTU } else { mtu }))
}

fn cannot_wait(err: io::Error) -> Error {
    Error::io("cannot wait for the descriptor", err)
}

impl Tun for FdTun {
    fn name(&self) -> String {
        String::new()
    }

    fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.descriptor.waiter.wait(timeout).map(drop)
    }

    fn register(&self, registry: &Arc<mio::Registry>, tokens: Registered<mio::Token>) -> io::Result<bool> {
        self.descriptor.waiter.register(registry, tokens)
    }

    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        self.descriptor.waiter.deregister(registry)
    }

    fn wake(&self) {
        self.descriptor.waiter.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        let mut told = lock(&self.told);
        if !told.up {
            told.up = true;
            return Some(TunEvent::Up);
        }
        let mtu = self.mtu();
        (mem::replace(&mut told.mtu, mtu) != mtu).then_some(TunEvent::Mtu(mtu))
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        self.descriptor.read(arena, self.mtu())
    }

    fn is_drained(&self) -> bool {
        self.descriptor.is_drained()
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        self.descriptor.write(packets)
    }

    fn read_drops(&self) -> u64 {
        self.descriptor.drops()
    }

    fn memory(&self) -> usize {
        self.descriptor.memory()
    }

    fn trim(&self) {
        self.descriptor.trim();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        error::ErrorKind,
        tun::{MAX_PACKET, packet_fd::PATIENCE},
    };
    use socket2::Type;
    use std::{
        fs::File,
        io::Read,
        os::unix::net::{UnixDatagram, UnixStream},
        sync::{Arc, atomic::AtomicUsize},
        thread,
        time::Instant,
    };

    fn pair(kind: Type, mtu: u16) -> (FdTun, socket2::Socket) {
        let (ours, theirs) = socket2::Socket::pair(socket2::Domain::UNIX, kind, None).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (FdTun::new(ours.into(), mtu).unwrap(), theirs)
    }

    /// Only ends a test that hangs.
    const LIMIT: Duration = Duration::from_secs(300);

    fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < LIMIT, "{what}");
            thread::yield_now();
        }
    }

    fn wait(tun: &FdTun) {
        let start = Instant::now();
        tun.wait(Some(LIMIT)).unwrap();
        assert!(start.elapsed() < LIMIT, "nothing ends the wait");
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
        tun.write(PacketList { buffer: &buffer, ranges: &ranges })
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
            wait(&tun);
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
    fn packets_of_any_length_are_read_in_place_or_not() {
        let (tun, app) = pair(Type::DGRAM, 1280);
        let packet: Vec<u8> = (0..MAX_PACKET as u32 + 10).map(|i| (i >> 3) as u8).collect();
        let sent = [1, 1280, 1281, 30_000, 1280, MAX_PACKET, 20];
        for bytes in [66_000, 100_000, 200_000] {
            let (mut arena, mut lens) = (arena(bytes, 1280), Vec::new());
            for len in sent.iter().chain([&(MAX_PACKET + 1), &(MAX_PACKET + 10)]) {
                // Each waits until there is room for it in the socket.
                while app.send(&packet[..*len]).is_err() {
                    assert!(tun.read(&mut arena).unwrap() > 0);
                    lens.extend(take(&mut arena, &packet));
                }
            }
            while tun.read(&mut arena).unwrap() > 0 {
                lens.extend(take(&mut arena, &packet));
            }
            assert_eq!(lens, sent, "{bytes}");
        }
        assert_eq!(tun.read_drops(), 6);
    }

    /// The lengths of the packets in the arena, which is then empty. All have the same bytes.
    fn take(arena: &mut PacketArena, packet: &[u8]) -> Vec<usize> {
        let lens = arena.slots().iter().map(|slot| {
            assert!(arena.packet(*slot) == &packet[..slot.len]);
            slot.len
        });
        let lens = lens.collect();
        arena.clear(1280);
        lens
    }

    /// As it would be with a `utun`.
    #[test]
    fn families_stand_in_front_of_packets() {
        let (ours, app) = UnixDatagram::pair().unwrap();
        let packets = Arc::new(PacketFd::new(ours.into()).unwrap().with_family());
        let descriptor = Descriptor::new(packets).unwrap();
        let tun = FdTun { descriptor, mtu: AtomicU16::new(1280), told: Mutex::default() };
        let packet: Vec<u8> = (0..3000_u32).map(|i| (i >> 3) as u8).collect();
        for len in [100, 1280, 3000] {
            assert_eq!(app.send(&[&[0, 0, 0, 2], &packet[..len]].concat()).unwrap(), 4 + len);
        }
        // Without a packet behind it, and without even that.
        app.send(&[0, 0, 0, 2]).unwrap();
        app.send(&[0, 0]).unwrap();
        app.send(&[0, 0, 0, 30, 0x60]).unwrap();
        let mut arena = arena(100_000, 1280);
        assert_eq!((tun.read(&mut arena).unwrap(), tun.read_drops()), (4, 2));
        for (&slot, expected) in arena.slots().iter().zip([&packet[..100], &packet[..1280], &packet, &[0x60]]) {
            assert_eq!(arena.packet(slot), expected);
        }

        assert_eq!(write(&tun, &[&[0x45, 1, 2], &[0x60, 3]]), 2);
        let mut buffer = [0; 100];
        for expected in [&[0, 0, 0, 2, 0x45, 1, 2][..], &[0, 0, 0, 30, 0x60, 3]] {
            let len = app.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], expected);
        }
    }

    #[test]
    fn a_packet_longer_than_the_mtu_is_whole_and_none_is_lost_to_a_full_arena() {
        let (tun, app) = pair(Type::DGRAM, 1280);
        let packet: Vec<u8> = (0..40_000_u32).map(|i| (i >> 3) as u8).collect();
        for len in [3000, 1281, 40_000, 40_000, 1280, 100] {
            app.send(&packet[..len]).unwrap();
        }
        // Of three in a row, the largest has to wait.
        let mut arena = arena(42_000, 1280);
        let mut lens = Vec::new();
        while tun.read(&mut arena).unwrap() > 0 {
            for &slot in arena.slots() {
                assert!(arena.packet(slot) == &packet[..slot.len]);
                lens.push(slot.len);
            }
            arena.clear(1280);
            // Not what one of them waits in.
            tun.trim();
        }
        assert_eq!(lens, [3000, 1281, 40_000, 40_000, 1280, 100]);
        tun.trim();
        assert_eq!(tun.memory(), 0);
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
        let fits = write(&tun, &burst);
        assert!(fits < 1000, "the socket takes them all");
        assert!(start.elapsed() >= PATIENCE);
        // On a busy machine a call that does not wait can take as long as one that does; not each time, though.
        eventually("a write does not wait for a reader that is stuck", || {
            let start = Instant::now();
            assert_eq!(write(&tun, &burst), 0);
            start.elapsed() < PATIENCE
        });

        let (read, app) = (&AtomicUsize::new(0), &app);
        thread::scope(|s| {
            // The reader ends when this is dropped, also by a failed assertion.
            let lasts = Arc::new(());
            let lasting = Arc::downgrade(&lasts);
            s.spawn(move || {
                let mut buffer = [0; 2000];
                loop {
                    match Read::read(&mut &*app, &mut buffer) {
                        Ok(len) => {
                            assert_eq!(len, 1280);
                            read.fetch_add(1, Relaxed);
                        }
                        Err(_) if lasting.strong_count() == 0 => break,
                        Err(_) => thread::yield_now(),
                    }
                }
            });
            let mut taken = fits;
            // The reader runs only if the system lets it.
            eventually("a write waits for a reader that reads", || {
                let now = write(&tun, &burst);
                taken += now;
                now > 2 * fits
            });
            eventually("all that was taken is read", || read.load(Relaxed) == taken);
        });
    }

    #[test]
    fn a_closed_peer_ends_it() {
        let (tun, app) = pair(Type::SEQPACKET, 1280);
        app.send(&[1; 20]).unwrap();
        drop(app);
        wait(&tun);
        let mut arena = arena(10_000, 1280);
        assert_eq!(tun.read(&mut arena).unwrap(), 1);
        assert_eq!(tun.read(&mut arena).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(write(&tun, &[&[1; 20]]), 0);

        // A datagram socket learns it from a write, and tells the thread that waits.
        let (tun, app) = pair(Type::DGRAM, 1280);
        drop(app);
        assert_eq!(tun.read(&mut arena).unwrap(), 0);
        thread::scope(|s| {
            let waiting = s.spawn(|| wait(&tun));
            assert_eq!(write(&tun, &[&[1; 20]]), 0);
            waiting.join().unwrap();
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
        wait(&tun);
        let start = Instant::now();
        tun.wait(Some(Duration::from_millis(50))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn another_poll_learns_of_packets_and_of_the_rest_apart() {
        let (tun, app) = pair(Type::DGRAM, 1280);
        let mut poll = mio::Poll::new().unwrap();
        let registry = Arc::new(poll.registry().try_clone().unwrap());
        let mut ready = || {
            let mut events = mio::Events::with_capacity(4);
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            events.iter().map(|event| event.token().0).collect::<Vec<_>>()
        };
        let mut arena = arena(100_000, 1280);
        for _ in 0..3 {
            // What waits already is an event, wherever it is waited for.
            assert_eq!(app.send(&[1; 20]).unwrap(), 20);
            let tokens = Registered { packets: mio::Token(7), other: mio::Token(8) };
            assert!(tun.register(&registry, tokens).unwrap());
            assert_eq!(ready(), [7]);
            arena.clear(1280);
            assert_eq!((tun.read(&mut arena).unwrap(), tun.is_drained()), (1, true));
            assert!(ready().is_empty());
            assert_eq!(app.send(&[1; 20]).unwrap(), 20);
            assert_eq!(ready(), [7]);
            tun.wake();
            assert_eq!(ready(), [8]);
            wait(&tun);
            tun.deregister(&registry).unwrap();
            wait(&tun);
            tun.wake();
            assert!(ready().is_empty());
            wait(&tun);
            arena.clear(1280);
            assert_eq!(tun.read(&mut arena).unwrap(), 1);
        }
    }

    #[test]
    fn what_does_not_keep_packets_apart_is_refused() {
        let kind_of = |fd: OwnedFd| FdTun::new(fd, 0).map(|_| ()).unwrap_err().kind();
        assert_eq!(kind_of(UnixStream::pair().unwrap().0.into()), ErrorKind::Unsupported);
        assert_eq!(kind_of(io::pipe().unwrap().0.into()), ErrorKind::Unsupported);
        assert_eq!(kind_of(File::open("/etc/passwd").unwrap().into()), ErrorKind::Unsupported);
        // Always ready and no packets: poll refuses it.
        assert_eq!(kind_of(File::open("/dev/null").unwrap().into()), ErrorKind::Permission);
        assert!(FdTun::new(UnixDatagram::pair().unwrap().0.into(), 0).is_ok());
    }
}
