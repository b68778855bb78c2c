//! Headers of segments, and sequence numbers.

/// Flags of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) ack: bool,
    pub(crate) psh: bool,
}

/// The header of a received or sent segment, without ports and checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) seq: u32,
    /// Valid if the flag `ack` is set.
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    /// The value in the header, not scaled.
    pub(crate) window: u16,
    /// Only with SYN.
    pub(crate) mss: Option<u16>,
    /// Only with SYN.
    pub(crate) window_scale: Option<u8>,
    /// Only with SYN.
    pub(crate) sack_permitted: bool,
    /// Value and echo.
    pub(crate) timestamps: Option<(u32, u32)>,
    /// SACK blocks, from the first one on.
    pub(crate) sack: [Option<(u32, u32)>; 4],
}

/// A received segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    /// Returns the number of sequence numbers of the segment.
    pub(super) fn length(&self) -> u64 {
        self.payload.len() as u64 + u64::from(self.header.flags.syn) + u64::from(self.header.flags.fin)
    }

    /// Returns the RST for a segment without a connection; `None` for a RST.
    pub(super) fn refusal(&self) -> Option<Header> {
        let header = &self.header;
        if header.flags.rst {
            return None;
        }
        Some(if header.flags.ack {
            Header { seq: header.ack, flags: Flags { rst: true, ..Flags::default() }, ..Header::default() }
        } else {
            let ack = header.seq.wrapping_add(self.length() as u32);
            Header { ack, flags: Flags { rst: true, ack: true, ..Flags::default() }, ..Header::default() }
        })
    }
}

/// The length of a header without options.
pub(super) const HEADER: usize = 20;
/// The length of the timestamps option, padded.
pub(super) const TIMESTAMPS: usize = 12;
/// The default segment size of a peer.
pub(super) const DEFAULT_MSS: u16 = 536;
/// The smallest accepted segment size: otherwise a peer could make headers the larger part of the traffic.
pub(super) const SMALLEST_MSS: u16 = 88;
/// The smallest segment size that an ICMP error can cause, without options.
pub(super) const SMALLEST_PATH_MSS: usize = 500;
/// The largest window scale: RFC 7323, 2.3.
pub(super) const LARGEST_SCALE: u8 = 14;

/// Returns the length of the option with `blocks` SACK blocks, padded.
pub(super) const fn sack_length(blocks: usize) -> usize {
    if blocks == 0 { 0 } else { 4 + 8 * blocks }
}

/// Returns the 64-bit form of a first sequence number. Internally, sequence numbers have 64 bits, the lower half of
/// which is used in headers: they never wrap.
pub(super) const fn first(number: u32) -> u64 {
    (1 << 32) | number as u64
}

/// Returns the 64-bit number nearest to `near` whose lower half is `number`.
pub(super) const fn extend(near: u64, number: u32) -> u64 {
    near.wrapping_add_signed(number.wrapping_sub(near as u32).cast_signed() as i64)
}

/// Returns whether timestamp `a` is older than `b`.
pub(super) const fn older(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}
