//! What ICMP says about connections.

use std::{io, net::SocketAddr, sync::Arc};

use super::{packet::header_len, shared::Shared, tuple::FourTuple};

/// Takes an ICMP error about a segment with sequence number `seq` that the stack sent from `local` to `remote`.
pub(crate) fn unreachable(shared: &Arc<Shared>, local: SocketAddr, remote: SocketAddr, seq: u32, error: io::ErrorKind) {
    if let Some(socket) = shared.tcp.get(&FourTuple::new(local, remote)) {
        let now = shared.now();
        let mut state = socket.lock();
        state.connection.unreachable(seq, error);
        socket.settle(shared, state, now);
    }
}

/// Takes an ICMP error by which packets from `local` to `remote` may be `mtu` bytes long at most; it is about the
/// segment with sequence number `seq`.
pub(crate) fn path_mtu(shared: &Arc<Shared>, local: SocketAddr, remote: SocketAddr, seq: u32, mtu: usize) {
    if let Some(socket) = shared.tcp.get(&FourTuple::new(local, remote)) {
        let now = shared.now();
        let mut state = socket.lock();
        state.connection.path_mtu(seq, mtu.saturating_sub(header_len(remote.ip())), now);
        socket.settle(shared, state, now);
    }
}
