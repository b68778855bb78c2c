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

/// The header of a segment, in or out, without ports and checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) seq: u32,
    /// Valid with the flag `ack`.
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    /// As in the header: not scaled.
    pub(crate) window: u16,
    /// With SYN only.
    pub(crate) mss: Option<u16>,
    /// With SYN only.
    pub(crate) window_scale: Option<u8>,
    /// With SYN only.
    pub(crate) sack_permitted: bool,
    /// Value and echo.
    pub(crate) timestamps: Option<(u32, u32)>,
    /// SACK blocks, from the first one on.
    pub(crate) sack: [Option<(u32, u32)>; 4],
}

/// A segment that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    /// The sequence numbers that it takes.
    pub(super) fn length(&self) -> u64 {
        self.payload.len() as u64 + u64::from(self.header.flags.syn) + u64::from(self.header.flags.fin)
    }

    /// The RST for a segment that belongs to nothing; `None` for a RST.
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
/// The segment size of a peer that does not state one.
pub(super) const DEFAULT_MSS: u16 = 536;
/// The smallest segment size that is believed: a peer cannot make the headers the main part.
pub(super) const SMALLEST_MSS: u16 = 88;
/// The smallest segment size that an ICMP error can make, without options.
pub(super) const SMALLEST_PATH_MSS: usize = 500;
/// The largest window scale: RFC 7323, 2.3.
pub(super) const LARGEST_SCALE: u8 = 14;

/// The length of the option with `blocks` SACK blocks, padded.
pub(super) const fn sack_length(blocks: usize) -> usize {
    if blocks == 0 { 0 } else { 4 + 8 * blocks }
}

/// The 64-bit number of a first sequence number. Inside, sequence numbers have 64 bits, of which the wire has the lower
/// half: they never wrap.
pub(super) const fn first(number: u32) -> u64 {
    (1 << 32) | number as u64
}

/// The 64-bit number nearest to `near` whose lower half is `number`.
pub(super) const fn extend(near: u64, number: u32) -> u64 {
    near.wrapping_add_signed(number.wrapping_sub(near as u32).cast_signed() as i64)
}

/// Whether timestamp `a` is older than `b`.
pub(super) const fn older(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}
