//! Counters: every packet that is not passed on has one that names the reason.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A device's counters since it was made. Each is read on its own, without a lock.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Stats {
            /// Names and values, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Packets read from the TUN that are not IP, or cut short.
    out_malformed,
    /// Packets read from the TUN whose destination no peer has.
    out_no_peer,
    /// Packets for a peer that has no endpoint.
    out_no_endpoint,
    /// The oldest staged packets of a peer that had too many.
    out_stage_full,
    /// Packets that could not be staged, because those of all peers take as much memory as they may.
    out_memory_full,
    /// Staged packets that were given up together with a handshake, or taken away with a peer or the interface.
    out_unstaged,
    /// Datagrams that the operating system did not take.
    out_send_failed,
    /// Datagrams that are no WireGuard message.
    in_malformed,
    /// Messages for a session or handshake that does not exist.
    in_unknown_index,
    /// Data messages on a session that is too old.
    in_expired,
    /// Data messages that are not authentic.
    in_not_authentic,
    /// Authentic data messages that were seen before, or are too old to tell.
    in_replayed,
    /// Decrypted packets that are not IP, or shorter than they say.
    in_malformed_inner,
    /// Decrypted packets with a source address that is not the peer's.
    in_wrong_source,
    /// Decrypted packets that the TUN did not take.
    in_write_failed,
    /// Handshake messages that came while too many were waiting.
    handshake_queue_full,
    /// Handshake messages whose mac1 is wrong.
    handshake_bad_mac,
    /// Handshake messages over the rate of their address, under load.
    handshake_rate_limited,
    /// Handshake messages that were answered with a cookie, under load.
    handshake_cookie_sent,
    /// Initiations that are from nobody we know, are not authentic, or replayed; responses that answer nothing.
    handshake_refused,
    /// Cookie replies that answer nothing, or are not authentic.
    cookie_refused,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
