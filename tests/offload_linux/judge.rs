//! A TUN in front of the real one that looks at each packet which the tunnel reads or writes.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use wg_embed::tun::{PacketArena, PacketList, Tun, TunEvent, linux::LinuxTun};

use crate::packet::{Packet, TCP, UDP};

/// What went one way.
#[derive(Default)]
pub(crate) struct Ledger {
    /// One number for each packet, in order.
    digests: Vec<u64>,
    faults: Vec<String>,
    pub(crate) tcp: usize,
    pub(crate) udp: usize,
    pub(crate) fragments: usize,
    pub(crate) extended: usize,
    pub(crate) routed: usize,
    /// TCP packets with ECE, and with CWR.
    pub(crate) ece: usize,
    pub(crate) cwr: usize,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tcp, udp, fragments, extended, routed, ece, cwr, .. } = self;
        let packets = self.packets();
        write!(f, "{packets} packets, {tcp} of TCP, {udp} of UDP, {fragments} fragments, {extended} extended, ")?;
        write!(f, "{routed} routed, {ece} with ECE, {cwr} with CWR")
    }
}

impl Ledger {
    pub(crate) fn packets(&self) -> usize {
        self.digests.len()
    }

    fn take(&mut self, bytes: &[u8], mtu: u16, how: &Rules) {
        let read = if how.damaged.load(Relaxed) { Packet::read_ip(bytes) } else { Packet::read(bytes) };
        match read {
            // Of the kernel's own: no peer has such an address.
            Ok(packet) if packet.dst.is_multicast() => return,
            Ok(packet) => {
                self.tcp += usize::from(packet.protocol == TCP);
                self.udp += usize::from(packet.protocol == UDP);
                self.fragments += usize::from(packet.fragment);
                self.extended += usize::from(packet.extended);
                self.routed += usize::from(packet.routed);
                if packet.protocol == TCP && !packet.fragment {
                    let flags = bytes[packet.l4 + 13];
                    self.ece += usize::from(flags & 0x40 != 0);
                    self.cwr += usize::from(flags & 0x80 != 0);
                }
            }
            Err(why) => self.faults.push(format!("{why}: {:02x?}", &bytes[..bytes.len().min(80)])),
        }
        if bytes.len() > mtu.into() {
            self.faults.push(format!("{} bytes at an MTU of {mtu}", bytes.len()));
        }
        self.digests.push(digest(bytes, how.marked.load(Relaxed)));
    }

    /// Panics unless every packet was right.
    pub(crate) fn expect_faultless(&self, who: &str) {
        assert!(self.faults.is_empty(), "{who}: {} faults, as {:#?}", self.faults.len(), &self.faults[..1]);
    }

    /// Panics unless this is a part of `sent`, in its order. Returns how many are missing.
    pub(crate) fn expect_part_of(&self, sent: &Self, who: &str) -> usize {
        let mut rest = sent.digests.iter();
        for (i, digest) in self.digests.iter().enumerate() {
            if !rest.any(|sent| sent == digest) {
                let was = if sent.digests.contains(digest) { "out of order" } else { "never sent" };
                panic!("{who}: packet {i} of {} was {was}", self.digests.len());
            }
        }
        sent.digests.len() - self.digests.len()
    }
}

/// A number for the bytes of a packet; without the ECN mark if that may change on the way.
fn digest(bytes: &[u8], marked: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (head, rest) = bytes.split_at(bytes.len().min(12));
    let mut head = head.to_vec();
    match head.first().map(|b| b >> 4) {
        Some(4) if marked => {
            head[1] &= !3;
            head.truncate(10);
        }
        Some(6) if marked => head[1] &= !0x30,
        _ => {}
    }
    head.hash(&mut hasher);
    hasher.write(rest);
    hasher.finish()
}

#[derive(Debug, Default)]
struct Rules {
    /// ECN marks may change on the way.
    marked: AtomicBool,
    /// Checksums behind the IP headers may be wrong: they are made so.
    damaged: AtomicBool,
    /// Microseconds that each read waits, so that packets come in batches.
    delay: AtomicU64,
}

/// The TUN.
pub(crate) struct Judge {
    tun: LinuxTun,
    read: Mutex<Ledger>,
    written: Mutex<Ledger>,
    rules: Rules,
}

impl Judge {
    pub(crate) fn new(tun: LinuxTun) -> Self {
        Self { tun, read: Mutex::default(), written: Mutex::default(), rules: Rules::default() }
    }

    pub(crate) fn let_marks_change(&self) {
        self.rules.marked.store(true, Relaxed);
    }

    pub(crate) fn let_checksums_be_wrong(&self) {
        self.rules.damaged.store(true, Relaxed);
    }

    pub(crate) fn delay_reads(&self, delay: Duration) {
        self.rules.delay.store(delay.as_micros() as u64, Relaxed);
    }

    /// What came from the kernel.
    pub(crate) fn read(&self) -> MutexGuard<'_, Ledger> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes to the kernel.
    pub(crate) fn written(&self) -> MutexGuard<'_, Ledger> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tun for Judge {
    fn name(&self) -> String {
        self.tun.name()
    }

    fn mtu(&self) -> u16 {
        self.tun.mtu()
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.tun.wait(timeout)
    }

    fn wake(&self) {
        self.tun.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        self.tun.event()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let delay = self.rules.delay.load(Relaxed);
        if delay > 0 {
            thread::sleep(Duration::from_micros(delay));
        }
        let count = self.tun.read(arena)?;
        let mut ledger = Judge::read(self);
        for &slot in arena.slots() {
            ledger.take(arena.packet(slot), self.tun.mtu(), &self.rules);
        }
        Ok(count)
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        let mut ledger = self.written();
        for packet in packets.iter() {
            ledger.take(packet, u16::MAX, &self.rules);
        }
        drop(ledger);
        self.tun.write(packets)
    }

    fn read_drops(&self) -> u64 {
        self.tun.read_drops()
    }
}
