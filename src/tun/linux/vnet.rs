//! Packets through a TUN with virtio-net headers: up to 64 KB of one flow a call, both ways.

use crate::tun::{
    MAX_PACKET, PacketArena, PacketList,
    fd::{PacketFd, Patience},
    offload::{
        VNET_HEADER_LEN, VnetHeader,
        coalesce::{Group, MAX_MERGED, coalesce},
        split::Split,
    },
};
use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// The longest header that a TUN may have been set to; what is behind the first ten bytes is not used.
pub(super) const MAX_HEADER_LEN: usize = 64;

/// The offload side of a TUN.
#[derive(Debug)]
pub(super) struct Vnet {
    header_len: usize,
    /// The kernel takes several UDP datagrams as one.
    udp: AtomicBool,
    reading: Mutex<Reading>,
}

struct Reading {
    /// One packet of the kernel, with its header.
    buffer: Box<[u8]>,
    /// What is left to do with the packet in `buffer`, and its length.
    kept: Option<(Split, usize)>,
}

// Without the bytes of packets: they are the user's.
impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

impl Vnet {
    /// `header_len` is at least 10 and at most [`MAX_HEADER_LEN`].
    pub(super) fn new(header_len: usize, udp: bool) -> Self {
        Self {
            header_len,
            udp: AtomicBool::new(udp),
            reading: Mutex::new(Reading {
                buffer: vec![0; header_len + MAX_PACKET].into_boxed_slice(),
                kept: None,
            }),
        }
    }

    /// Reads until the arena is full or there is nothing more.
    pub(super) fn read(&self, port: &PacketFd, arena: &mut PacketArena) -> io::Result<usize> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { buffer, kept } = &mut *reading;
        let before = arena.slots().len();
        loop {
            if let Some((split, len)) = kept {
                if !split.fill(&buffer[self.header_len..*len], arena) {
                    if !arena.slots().is_empty() {
                        break;
                    }
                    port.count_drop();
                }
                *kept = None;
            }
            let len = match port.receive(&mut [IoSliceMut::new(buffer)]) {
                Ok(Some(len)) => len,
                Ok(None) => break,
                // What has been read first; the error comes again.
                Err(_) if arena.slots().len() > before => break,
                Err(err) => return Err(err),
            };
            let (header, packet) = buffer[..len].split_at(self.header_len.min(len));
            match VnetHeader::parse(header).and_then(|header| Split::new(&header, packet)) {
                Ok(split) => *kept = Some((split, len)),
                Err(malformed) => {
                    port.count_drop();
                    tracing::trace!(?malformed, len, "dropped a packet of the kernel");
                }
            }
        }
        Ok(arena.slots().len() - before)
    }

    /// Writes packets, as few large ones as possible, and returns how many were taken.
    pub(super) fn write(&self, port: &PacketFd, packets: PacketList<'_>) -> usize {
        let mut taken = 0;
        let mut patience = Patience::default();
        let none = [0; MAX_HEADER_LEN];
        let none = &none[..self.header_len];
        let one = |i: usize, patience: &mut Patience| {
            let parts = [IoSlice::new(none), IoSlice::new(packets.get(i))];
            usize::from(port.send(&parts, patience).is_ok())
        };
        coalesce(packets, self.udp.load(Relaxed), |group| match group {
            Group::One(i) => taken += one(i, &mut patience),
            Group::Merged {
                vnet,
                headers,
                packets: numbers,
            } => {
                let mut header = [0; MAX_HEADER_LEN];
                header[..VNET_HEADER_LEN].copy_from_slice(&vnet.encode());
                let mut parts = [IoSlice::new(&[]); MAX_MERGED + 2];
                parts[0] = IoSlice::new(&header[..self.header_len]);
                parts[1] = IoSlice::new(headers);
                for (part, &i) in parts[2..].iter_mut().zip(numbers) {
                    *part = IoSlice::new(&packets.get(i as usize)[headers.len()..]);
                }
                match port.send(&parts[..numbers.len() + 2], &mut patience) {
                    Ok(()) => taken += numbers.len(),
                    // Not to this kernel's taste: one by one.
                    Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {
                        for &i in numbers {
                            taken += one(i as usize, &mut patience);
                        }
                    }
                    Err(_) => (),
                }
            }
        });
        taken
    }
}
