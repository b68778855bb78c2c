//! Why packets were dropped, by name.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines the reasons and their names together.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $reason:ident = $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Dropped {
            $($(#[doc = $doc])* $reason,)*
        }

        const NAMES: &[&str] = &[$($name),*];
    };
}

reasons! {
    /// In: no IP header, or one that contradicts itself.
    Malformed = "in_malformed",
    /// In: a checksum is wrong.
    Checksum = "in_checksum",
    /// In: the source is no host.
    Source = "in_source",
    /// In: the destination is none of the stack's, and nothing is intercepted.
    Destination = "in_destination",
    /// In: neither TCP, UDP nor ICMP.
    Protocol = "in_protocol",
    /// In: the stack was closed.
    Closed = "in_closed",
    /// In: a TCP header that contradicts itself.
    TcpMalformed = "tcp_malformed",
    /// In: a segment for no connection; a RST was sent unless it was one itself.
    TcpUnknown = "tcp_unknown",
    /// In: a SYN, for which the half-open connections of other sources leave no room.
    TcpHalfOpen = "tcp_half_open_full",
    /// In: a SYN or the ACK after it, while the listener's backlog is full.
    TcpBacklog = "tcp_backlog_full",
    /// In: a SYN that was answered with RST since the stack is at its limit of memory or connections.
    TcpLimit = "tcp_limit",
    /// In: a segment for a connection that its handler has not accepted yet.
    TcpHeld = "tcp_held",
    /// In: a UDP header that contradicts itself.
    UdpMalformed = "udp_malformed",
    /// In: a datagram to a port that no socket has; an ICMP error was sent, as far as their rate allows.
    UdpNoSocket = "udp_no_socket",
    /// In: a datagram for a socket or flow in which as many bytes wait as may.
    UdpQueueFull = "udp_queue_full",
    /// In: a datagram, while the datagrams that wait take as much of the stack's memory as they may.
    UdpMemory = "udp_memory",
    /// A flow, not a packet: it was idle longest, and there were too many.
    UdpFlowEvicted = "udp_flow_evicted",
    /// In: an ICMP packet that contradicts itself.
    IcmpMalformed = "icmp_malformed",
    /// In: an echo reply or an ICMP error about nothing that the stack has sent, or of an unknown type.
    IcmpUnknown = "icmp_unknown",
    /// In: an echo request that is not answered.
    IcmpEcho = "icmp_echo",
    /// Out: an ICMP error, of which more were sent in this time than may be.
    IcmpRate = "icmp_rate",
    /// In: fragments with lengths or places that no fragments have.
    FragmentMalformed = "fragment_malformed",
    /// In: fragments that overlap, and others of the same packet.
    FragmentOverlap = "fragment_overlap",
    /// In: fragments for which others leave no room, or that made room for others.
    FragmentMemory = "fragment_memory",
    /// In: fragments of packets that have not become whole in time.
    FragmentTimeout = "fragment_timeout",
    /// Out: no room in the queue of packets that are ready.
    OutFull = "out_full",
    /// Out: larger than any buffer of the tunnel.
    OutTooLarge = "out_too_large",
    /// Out: a datagram of a descriptor that cannot be sent: too large for a datagram, mostly.
    OutUnsendable = "out_unsendable",
}

/// How many packets were dropped for which reason, and how many passed.
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
