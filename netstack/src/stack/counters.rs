//! The reasons for dropped packets, by name.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines the reasons and their names together.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $reason:ident = $name:literal,)*) => {
        /// The reason why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Dropped {
            $($(#[doc = $doc])* $reason,)*
        }

        const NAMES: &[&str] = &[$($name),*];
    };
}

reasons! {
    /// In: no valid IP header.
    Malformed = "in_malformed",
    /// In: a checksum is wrong.
    Checksum = "in_checksum",
    /// In: the source is not a valid host address.
    Source = "in_source",
    /// In: the destination is not one of the stack's, and nothing is intercepted.
    Destination = "in_destination",
    /// In: neither TCP, UDP nor ICMP.
    Protocol = "in_protocol",
    /// In: the stack was closed.
    Closed = "in_closed",
    /// In: an inconsistent TCP header.
    TcpMalformed = "tcp_malformed",
    /// In: a segment without a connection; a RST was sent unless it was a RST itself.
    TcpUnknown = "tcp_unknown",
    /// In: a SYN for which half-open connections of other sources leave no room.
    TcpHalfOpen = "tcp_half_open_full",
    /// In: a SYN or the ACK after it, while the listener's backlog is full.
    TcpBacklog = "tcp_backlog_full",
    /// In: a SYN that was answered by a RST as the stack is at its limit of memory or connections.
    TcpLimit = "tcp_limit",
    /// In: a segment for a connection that its handler has not accepted yet.
    TcpHeld = "tcp_held",
    /// In: an inconsistent UDP header.
    UdpMalformed = "udp_malformed",
    /// In: a datagram to a port without a socket; an ICMP error was sent, within the rate limit.
    UdpNoSocket = "udp_no_socket",
    /// In: a datagram for a socket or flow whose queue is full.
    UdpQueueFull = "udp_queue_full",
    /// In: a datagram, while waiting datagrams use up their share of the stack's memory.
    UdpMemory = "udp_memory",
    /// A flow, not a packet: it was idle longest, and there were too many.
    UdpFlowEvicted = "udp_flow_evicted",
    /// In: an inconsistent ICMP packet.
    IcmpMalformed = "icmp_malformed",
    /// In: an echo reply or an ICMP error without a matching packet, or of an unknown type.
    IcmpUnknown = "icmp_unknown",
    /// In: an echo request that is not answered.
    IcmpEcho = "icmp_echo",
    /// Out: an ICMP error beyond the rate limit.
    IcmpRate = "icmp_rate",
    /// In: fragments with invalid lengths or offsets.
    FragmentMalformed = "fragment_malformed",
    /// In: fragments that overlap, and others of the same packet.
    FragmentOverlap = "fragment_overlap",
    /// In: fragments for which there was no room, or that were replaced by others.
    FragmentMemory = "fragment_memory",
    /// In: fragments of packets that were not completed in time.
    FragmentTimeout = "fragment_timeout",
    /// Out: no room in the queue of outgoing packets.
    OutFull = "out_full",
    /// Out: larger than any buffer of the tunnel.
    OutTooLarge = "out_too_large",
    /// Out: a datagram from a descriptor that cannot be sent, usually because it is too large.
    OutUnsendable = "out_unsendable",
}

/// The number of dropped packets by reason, and of packets passed.
pub(crate) struct Counters {
    dropped: [AtomicU64; NAMES.len()],
    pub(super) packets_in: AtomicU64,
    pub(super) packets_out: AtomicU64,
}

impl Counters {
    pub(super) const fn new() -> Self {
        Self {
            dropped: [const { AtomicU64::new(0) }; NAMES.len()],
            packets_in: AtomicU64::new(0),
            packets_out: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(&self, reason: Dropped, packets: u64) {
        self.dropped[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    pub(super) fn get(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        NAMES.iter().zip(&self.dropped).map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }
}
