//! Packets through a TUN with virtio-net headers: up to 64 KB of one flow per call, in both directions.

use crate::tun::{
    MAX_MEMORY, MAX_PACKET, PacketArena, PacketList,
    descriptor::Reading,
    offload::{
        Gso, VNET_HEADER_LEN, VnetHeader,
        coalesce::{Group, MAX_MERGED, Merging, coalesce},
        split::Split,
    },
    packet_fd::{PacketFd, Patience},
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

/// The maximum length of headers that a TUN may be set to; only the first ten bytes are used.
pub(super) const MAX_HEADER_LEN: usize = 64;

const _: () = assert!(MAX_HEADER_LEN + MAX_PACKET <= MAX_MEMORY);

/// The offload side of a TUN.
#[derive(Debug)]
pub(super) struct Vnet {
    header_len: usize,
    /// Whether the kernel accepts coalesced packets, by protocol.
    tcp: Merges,
    udp: Merges,
}

/// Whether the kernel accepts coalesced packets of one protocol.
///
/// A kernel without support refuses each of them (EINVAL), at the cost of a system call. But that error has other
/// causes as well. So it is considered final only if the same packets were accepted one by one right afterwards, and
/// coalesced ones never before: a kernel does not lose support.
#[derive(Debug)]
struct Merges(AtomicU8);

impl Merges {
    const UNTRIED: u8 = 0;
    const TAKEN: u8 = 1;
    const REFUSED: u8 = 2;

    const fn new(known: bool) -> Self {
        Self(AtomicU8::new(if known { Self::UNTRIED } else { Self::REFUSED }))
    }

    fn may(&self) -> bool {
        self.0.load(Relaxed) != Self::REFUSED
    }

    /// Reports that coalesced packets were accepted.
    fn taken(&self) {
        // Read first: a write for each packet would take the cache line from other threads.
        if self.0.load(Relaxed) == Self::UNTRIED {
            self.0.store(Self::TAKEN, Relaxed);
        }
    }

    /// Reports that coalesced packets were refused, but accepted one by one. Returns whether this is final.
    fn refused(&self) -> bool {
        self.0.compare_exchange(Self::UNTRIED, Self::REFUSED, Relaxed, Relaxed).is_ok()
    }
}

impl Vnet {
    /// Creates the state. `header_len` is at least 10 and at most [`MAX_HEADER_LEN`]. `udp` is true if the kernel
    /// supports coalesced UDP.
    pub(super) fn new(header_len: usize, udp: bool) -> Self {
        Self { header_len, tcp: Merges::new(true), udp: Merges::new(udp) }
    }

    /// Reads until the arena is full or there are no more packets.
    pub(super) fn read(&self, fd: &PacketFd, reading: &mut Reading, arena: &mut PacketArena) -> io::Result<usize> {
        let before = arena.slots().len();
        while reading.drain(arena) {
            let Reading { buffer, kept, drops, is_drained } = reading;
            let room = self.room(arena);
            let is_in_arena = room.is_some();
            let room = room.unwrap_or(buffer);
            let len = match fd.receive(&mut [IoSliceMut::new(room)], drops) {
                Ok(Some(len)) => len,
                Ok(None) => {
                    *is_drained = true;
                    break;
                }
                // Return the packets read so far; the error will be repeated.
                Err(_) if arena.slots().len() > before => break,
                Err(err) => return Err(err),
            };
            let (header, packet) = room[..len].split_at(self.header_len.min(len));
            match VnetHeader::parse(header).and_then(|header| Split::new(&header, packet)) {
                Ok(split) if is_in_arena && split.in_place(len - self.header_len, arena) => (),
                Ok(split) => {
                    if let Some(room) = self.room(arena) {
                        buffer[..len].copy_from_slice(&room[..len]);
                    }
                    *kept = Some((split, self.header_len..len));
                }
                Err(malformed) => {
                    *drops += 1;
                    tracing::trace!(?malformed, len, "dropped a packet of the kernel");
                }
            }
        }
        Ok(arena.slots().len() - before)
    }

    /// Returns room in the arena for any packet, which is processed there: its header lies where that of the data
    /// message will be. `None` if there is no room.
    fn room<'a>(&self, arena: &'a mut PacketArena) -> Option<&'a mut [u8]> {
        arena.reserve_behind(self.header_len, MAX_PACKET + 1)
    }

    /// Writes packets, coalesced into as few large ones as possible, and returns how many were taken.
    pub(super) fn write(&self, fd: &PacketFd, packets: PacketList<'_>) -> usize {
        let mut patience = Patience::default();
        self.write_with(packets, |parts| fd.send(parts, &mut patience))
    }

    /// Writes packets by `send`, which writes one packet to the kernel.
    fn write_with(&self, packets: PacketList<'_>, mut send: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>) -> usize {
        let mut taken = 0;
        let none = [0; MAX_HEADER_LEN];
        let single = |i: usize| [IoSlice::new(&none[..self.header_len]), IoSlice::new(packets.get(i))];
        let merging = Merging { tcp: self.tcp.may(), udp: self.udp.may() };
        coalesce(packets, merging, |group| match group {
            Group::One(i) => taken += usize::from(send(&single(i)).is_ok()),
            Group::Merged { vnet, headers, packets: numbers } => {
                let merges = if vnet.gso == Gso::Udp { &self.udp } else { &self.tcp };
                let tried = merges.may();
                if tried {
                    let mut header = [0; MAX_HEADER_LEN];
                    header[..VNET_HEADER_LEN].copy_from_slice(&vnet.encode());
                    let mut parts = [IoSlice::new(&[]); MAX_MERGED + 2];
                    parts[0] = IoSlice::new(&header[..self.header_len]);
                    parts[1] = IoSlice::new(headers);
                    for (part, &i) in parts[2..].iter_mut().zip(numbers) {
                        *part = IoSlice::new(&packets.get(i as usize)[headers.len()..]);
                    }
                    match send(&parts[..numbers.len() + 2]) {
                        Ok(()) => {
                            merges.taken();
                            return taken += numbers.len();
                        }
                        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {}
                        Err(_) => return,
                    }
                }
                let singly = numbers.iter().filter(|&&i| send(&single(i as usize)).is_ok()).count();
                taken += singly;
                if tried && singly == numbers.len() && merges.refused() {
                    tracing::debug!(gso = ?vnet.gso, "the kernel takes no merged packets of this kind");
                }
            }
        });
        taken
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::Packets, *};
    use crate::tun::{
        descriptor::Descriptor,
        offload::{Gso, checksum::Sum},
    };
    use std::{os::unix::net::UnixDatagram, sync::Arc};

    const LEN: usize = 12;

    /// A socketpair in the place of a TUN: what is sent is one read of the kernel's packets.
    fn tun(udp: bool) -> (Descriptor<Packets>, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let packets = Packets { fd: PacketFd::new(ours.into()).unwrap(), vnet: Some(Vnet::new(LEN, udp)) };
        (Descriptor::new(Arc::new(packets)).unwrap(), theirs)
    }

    fn arena(bytes: usize) -> PacketArena {
        let mut arena = PacketArena::new(bytes, 128, |len, _| len.next_multiple_of(16));
        arena.clear(1420);
        arena
    }

    /// A large UDP packet with its header, for `LEN`.
    fn large(payload: usize, segment: u16) -> Vec<u8> {
        let len = (28 + payload) as u16;
        let header = VnetHeader {
            needs_csum: true,
            gso: Gso::Udp,
            header_len: 28,
            segment,
            csum_start: 20,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        let mut bytes = header.encode().to_vec();
        bytes.resize(LEN, 0);
        bytes.extend([0x45, 0, (len >> 8) as u8, len as u8, 0, 0, 0x40, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend([0, 1, 0, 2, ((len - 20) >> 8) as u8, (len - 20) as u8]);
        bytes.extend(Sum::default().pseudo_header(&[1, 2, 3, 4, 5, 6, 7, 8], 17, len - 20).partial());
        bytes.extend((0..payload).map(|i| i as u8));
        bytes
    }

    #[test]
    fn what_an_arena_has_no_room_for_comes_with_the_next_read() {
        let (tun, kernel) = tun(true);
        kernel.send(&large(20_300, 1000)).unwrap();
        let plain = [&[0; LEN][..], &[0x45; 60]].concat();
        kernel.send(&plain).unwrap();
        let mut arena = arena(7000);
        let (mut rounds, mut payload, mut lens) = (0, Vec::new(), Vec::new());
        while tun.read(&mut arena, 1420).unwrap() > 0 {
            for &slot in arena.slots() {
                lens.push(slot.len);
                if slot.len != 60 {
                    payload.extend_from_slice(&arena.packet(slot)[28..]);
                }
            }
            arena.clear(1420);
            rounds += 1;
        }
        assert_eq!(rounds, 4);
        assert_eq!((lens.len(), lens[0], lens[20], lens[21]), (22, 1028, 328, 60));
        assert!(payload.iter().enumerate().all(|(i, &b)| b == i as u8) && payload.len() == 20_300);
        assert_eq!(tun.drops(), 0);
    }

    /// What is left of a packet that was split, and a whole one that is longer than usual.
    #[test]
    fn what_was_read_from_a_descriptor_is_passed_on_when_it_has_been_replaced() {
        let plain = || {
            let (ours, theirs) = UnixDatagram::pair().unwrap();
            (Arc::new(Packets { fd: PacketFd::new(ours.into()).unwrap(), vnet: None }), theirs)
        };
        let (tun, kernel) = tun(true);
        let mut arena = arena(7000);
        let mut read = || {
            arena.clear(1420);
            tun.read(&mut arena, 1420).unwrap();
            arena.slots().iter().map(|&slot| arena.packet(slot).to_vec()).collect::<Vec<_>>()
        };
        kernel.send(&large(9700, 1000)).unwrap();
        let mut packets = read();
        assert_eq!(packets.len(), 6);
        let (next, app) = plain();
        tun.replace(next, || ()).unwrap();
        app.send(&[0x45; 60]).unwrap();
        packets.extend(read());
        let payload: Vec<_> = packets[..10].iter().flat_map(|packet| packet[28..].to_vec()).collect();
        assert!(payload.len() == 9700 && payload.iter().enumerate().all(|(i, &b)| b == i as u8));
        assert_eq!(packets[10..], [vec![0x45; 60]]);

        app.send(&[0x45; 4000]).unwrap();
        app.send(&[0x46; 5000]).unwrap();
        assert_eq!(read(), [vec![0x45; 4000]]);
        let (next, app) = plain();
        tun.replace(next, || ()).unwrap();
        app.send(&[0x47; 100]).unwrap();
        assert_eq!(read(), [vec![0x46; 5000], vec![0x47; 100]]);
        assert_eq!(tun.drops(), 0);
    }

    /// Returns the packets that are read if the kernel has `kernels`, into arenas of `bytes` bytes. All of them wait
    /// from the start, or each one until those before were read.
    fn packets_of(kernels: &[Vec<u8>], bytes: usize, all_at_once: bool) -> Vec<Vec<u8>> {
        let (tun, kernel) = tun(true);
        let (mut arena, mut packets) = (arena(bytes), Vec::new());
        for batch in kernels.chunks(if all_at_once { kernels.len() } else { 1 }) {
            batch.iter().for_each(|packet| assert_eq!(kernel.send(packet).unwrap(), packet.len()));
            while tun.read(&mut arena, 1420).unwrap() > 0 {
                for slot in arena.slots() {
                    let message = &arena.bytes()[slot.message()];
                    packets.push(message[16..16 + slot.len].to_vec());
                    assert!(message[16 + slot.len..16 + slot.padded].iter().all(|&byte| byte == 0), "padding");
                }
                arena.clear(1420);
            }
        }
        assert_eq!(tun.drops(), 0);
        packets
    }

    #[test]
    fn packets_are_the_same_whether_they_are_read_in_place_or_not() {
        let plain = |len| [vec![0; LEN], vec![0x45; len]].concat();
        let mut with_checksum = large(500, 500);
        with_checksum[1..6].fill(0); // no segments
        let kernels = [
            plain(60),
            large(5000, 1000),
            with_checksum,
            large(1, 1000),
            large(20_000, 1380),
            plain(1420),
            large(40_001, 1379),
            large(130, 1), // more segments than an arena has slots
            plain(60_000),
            plain(1),
        ];
        // Too small for reading in place, which takes 64 KiB; large enough for it; and large enough at first.
        let expected = packets_of(&kernels, 62_000, false);
        assert_eq!(expected.len(), 5 + 5 + 1 + 15 + 30 + 130);
        for bytes in [200_000, 70_000, 90_000] {
            for all_at_once in [true, false] {
                assert!(packets_of(&kernels, bytes, all_at_once) == expected, "{bytes} {all_at_once}");
            }
        }
    }

    #[test]
    fn the_buffer_is_given_back_when_it_is_empty() {
        let (tun, kernel) = tun(true);
        assert_eq!(tun.memory(), 0);
        let mut arena = arena(7000);
        for _ in 0..2 {
            kernel.send(&large(8000, 1000)).unwrap();
            arena.clear(1420);
            assert_eq!(tun.read(&mut arena, 1420).unwrap(), 6);
            tun.trim();
            assert_eq!(tun.memory(), MAX_MEMORY, "two segments wait in it");
            arena.clear(1420);
            assert_eq!(tun.read(&mut arena, 1420).unwrap(), 2);
            assert_eq!(arena.slots()[1].len, 1028);
            tun.trim();
            assert_eq!(tun.memory(), 0);
        }
    }

    #[test]
    fn what_is_malformed_or_fits_nowhere_is_counted_and_does_not_block() {
        let (tun, kernel) = tun(true);
        kernel.send(&[0; 5]).unwrap();
        kernel.send(&[0; LEN]).unwrap();
        kernel.send(&[0xff; 100]).unwrap();
        kernel.send(&large(9000, 4000)).unwrap();
        kernel.send(&large(100, 100)).unwrap();
        let mut arena = arena(2000);
        assert_eq!(tun.read(&mut arena, 1420).unwrap(), 1);
        assert_eq!((arena.slots()[0].len, tun.drops()), (128, 4));
    }

    #[test]
    fn a_run_is_written_as_one_and_the_rest_as_it_is() {
        for udp in [true, false] {
            let (tun, kernel) = tun(udp);
            kernel.send(&large(2500, 1000)).unwrap();
            let mut arena = arena(8000);
            assert_eq!(tun.read(&mut arena, 1420).unwrap(), 3);
            assert!(arena.push(&[0x45; 30]));
            let ranges: Vec<_> = arena.slots().iter().map(|s| s.start..s.start + s.len).collect();
            let list = PacketList { buffer: arena.bytes(), ranges: &ranges };
            assert_eq!(tun.write(list), 4);
            let mut buffer = [0; 4000];
            let mut written = Vec::new();
            while let Ok(len) = kernel.recv(&mut buffer) {
                written.push(buffer[..len].to_vec());
            }
            if udp {
                assert_eq!(written.len(), 2);
                assert_eq!(VnetHeader::parse(&written[0]).unwrap().segment, 1000);
                assert_eq!(written[0][LEN + 28..], large(2500, 1000)[LEN + 28..]);
            } else {
                assert_eq!(written.len(), 4);
                assert!(written[..3].iter().zip(&ranges).all(|(w, r)| w[LEN..] == arena.bytes()[r.clone()]));
            }
            let last = written.last().unwrap();
            assert_eq!((&last[..LEN], &last[LEN..]), (&[0; LEN][..], &[0x45; 30][..]));
        }
    }

    /// Two segments of a TCP stream, or two datagrams: a pair that is merged unless it may not be.
    fn two(protocol: u8, port: u8) -> [Vec<u8>; 2] {
        [0_u8, 1].map(|n| {
            let mut packet = vec![0x45, 0, 0, 0, 0, n, 0x40, 0, 64, protocol, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            packet.extend([0, port, 0, 2]);
            let field = if protocol == 6 {
                packet.extend([0, 0, 0, n * 100, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
                36
            } else {
                packet.extend([0, 108, 0, 0]);
                26
            };
            packet.extend([n; 100]);
            packet[3] = packet.len() as u8;
            let sum = Sum::default().bytes(&packet[..20]).finish();
            packet[10..12].copy_from_slice(&sum);
            let pseudo = Sum::default().pseudo_header(&packet[12..20], protocol, packet.len() as u16 - 20);
            let sum = pseudo.bytes(&packet[20..]).finish_nonzero();
            packet[field..field + 2].copy_from_slice(&sum);
            packet
        })
    }

    /// What a kernel that refuses merged packets of one protocol is given, write by write, and what it takes.
    #[test]
    fn merged_packets_that_the_kernel_refuses_are_tried_once() {
        for (refused, other) in [(6, 17), (17, 6)] {
            let vnet = Vnet::new(LEN, true);
            let (mut attempts, mut written) = (Vec::new(), Vec::new());
            let mut write = |packets: &[Vec<u8>]| {
                attempts.clear();
                written.clear();
                let buffer = packets.concat();
                let mut end = 0;
                let ranges: Vec<_> = packets.iter().map(|p| (end, end += p.len()).0..end).collect();
                let taken = vnet.write_with(PacketList { buffer: &buffer, ranges: &ranges }, |parts| {
                    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
                    let merged = bytes[1] != 0;
                    attempts.push((bytes[LEN + 9], merged));
                    if merged && bytes[LEN + 9] == refused {
                        return Err(io::Error::from_raw_os_error(libc::EINVAL));
                    }
                    written.extend_from_slice(&bytes[LEN..]);
                    Ok(())
                });
                (taken, attempts.clone(), written.clone())
            };
            // Two runs in the first write: the second is not even tried.
            let all = [two(refused, 1), two(refused, 2)].concat();
            let (taken, attempts, written) = write(&all);
            assert_eq!(attempts, [&[(refused, true)][..], &[(refused, false); 4]].concat());
            assert_eq!((taken, written), (4, all.concat()), "what was refused arrives singly, in its order");
            for _ in 0..3 {
                assert_eq!(write(&all).1, [(refused, false); 4]);
                let (taken, attempts, _) = write(&two(other, 1));
                assert_eq!((taken, attempts), (2, vec![(other, true)]), "the other protocol is merged as before");
            }
        }
    }

    /// What a TUN is given, write by write and whether merged, if `refuses` says which of them it refuses with EINVAL.
    fn attempts(vnet: &Vnet, packets: &[Vec<u8>], mut refuses: impl FnMut(bool) -> bool) -> (usize, Vec<bool>) {
        let (buffer, mut end, mut attempts) = (packets.concat(), 0, Vec::new());
        let ranges: Vec<_> = packets.iter().map(|p| (end, end += p.len()).0..end).collect();
        let taken = vnet.write_with(PacketList { buffer: &buffer, ranges: &ranges }, |parts| {
            let merged = parts[0][1] != 0;
            attempts.push(merged);
            if refuses(merged) { Err(io::Error::from_raw_os_error(libc::EINVAL)) } else { Ok(()) }
        });
        (taken, attempts)
    }

    #[test]
    fn a_refusal_that_is_not_about_merging_changes_nothing() {
        for protocol in [6, 17] {
            let (vnet, packets) = (Vnet::new(LEN, true), two(protocol, 1));
            // Of what is refused one by one as well, wholly or in part, merging is not the trouble.
            assert_eq!(attempts(&vnet, &packets, |_| true), (0, vec![true, false, false]));
            let mut calls = 0;
            let all_but_last = |_| (calls += 1, calls < 3).1;
            assert_eq!(attempts(&vnet, &packets, all_but_last), (1, vec![true, false, false]));
            assert_eq!(attempts(&vnet, &packets, |_| false), (2, vec![true]));
            // A kernel that took merged packets can do it.
            for _ in 0..2 {
                assert_eq!(attempts(&vnet, &packets, |merged| merged), (2, vec![true, false, false]));
            }
            assert_eq!(attempts(&vnet, &packets, |_| false), (2, vec![true]));
        }
    }

    #[test]
    fn another_error_says_nothing_about_merging() {
        let vnet = Vnet::new(LEN, true);
        let packets = two(17, 1).concat();
        let half = packets.len() / 2;
        let list = PacketList { buffer: &packets, ranges: &[0..half, half..2 * half] };
        for _ in 0..3 {
            let mut attempts = 0;
            let taken = vnet.write_with(list, |_| {
                attempts += 1;
                Err(io::Error::from_raw_os_error(libc::EIO))
            });
            assert_eq!((taken, attempts), (0, 1), "the interface is down");
        }
    }
}
