//! ICMP errors about connections.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, MutexGuard},
};

use super::{
    packet::header_len,
    path_mtu::{MIN_V4, MIN_V6},
    segment::max_segment,
    shared::Shared,
    socket::{State, TcpSocket},
    tuple::FourTuple,
};

/// Handles an ICMP error about a segment with sequence number `seq` that the stack sent from `local` to `remote`.
pub(crate) fn unreachable(shared: &Arc<Shared>, local: SocketAddr, remote: SocketAddr, seq: u32, error: io::ErrorKind) {
    if let Some(socket) = shared.tcp.get(&FourTuple::new(local, remote)) {
        let now = shared.now();
        let mut state = socket.lock();
        state.connection.unreachable(seq, error);
        socket.settle(shared, state, now);
    }
}

/// Handles an ICMP error that limits packets from `local` to `remote` to `mtu` bytes; it concerns the segment with
/// sequence number `seq`. Returns whether it is accepted.
pub(crate) fn path_mtu(shared: &Arc<Shared>, local: SocketAddr, remote: SocketAddr, seq: u32, mtu: usize) -> bool {
    let Some(socket) = shared.tcp.get(&FourTuple::new(local, remote)) else { return false };
    let mtu = mtu.max(if remote.is_ipv4() { MIN_V4 } else { MIN_V6 });
    let now = shared.now();
    let mut state = socket.lock();
    let believed = state.connection.path_mtu(seq, mtu.saturating_sub(header_len(remote.ip())), now);
    socket.settle(shared, state, now);
    believed
}

/// Makes open connections send smaller segments, as the stack's MTU has become smaller.
pub(super) fn limit_segments(shared: &Arc<Shared>) {
    let now = shared.now();
    for socket in shared.tcp.all() {
        socket.settle(shared, lock_limited(shared, &socket), now);
    }
}

/// Locks a connection and limits its segments to the stack's current MTU. A new connection is limited when it is in the
/// table: the MTU may have changed since its configuration was made.
pub(super) fn lock_limited<'a>(shared: &Shared, socket: &'a TcpSocket) -> MutexGuard<'a, State> {
    let mut state = socket.lock();
    state.connection.limit_segments(max_segment(shared.mtu(), socket.tuple.remote().ip()));
    state
}
