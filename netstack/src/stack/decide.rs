//! Decisions of programs about future connections: to listen, to accept or refuse, and to end everything.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering},
};

use wg_embed::sync::{lock, write};

use super::{
    connect::free_listening_port, connections::send_header, fragments, icmp, listeners::Listening, shared::Shared,
    tuple::FourTuple, udp,
};
use crate::{TcpListener, TcpStream};

/// The decision about a connection whose handshake is delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Accept,
    Refuse,
    Ignore,
}

/// Carries out a decision, if the connection still exists.
pub(crate) fn decide(shared: &Arc<Shared>, tuple: &FourTuple, id: u64, decision: Decision) {
    let now = shared.now();
    let mut table = lock(&shared.tcp.half_open);
    let Some(entry) = table.get_mut(tuple).filter(|entry| entry.id() == id && entry.held) else { return };
    let answer = if decision == Decision::Accept {
        entry.held = false;
        let header = entry.half.syn_ack(now);
        let deadline = entry.half.deadline().unwrap_or(now);
        table.set_deadline(tuple, deadline);
        Some(header)
    } else {
        let header = entry.half.reset();
        table.remove(tuple);
        (decision == Decision::Refuse).then_some(header)
    };
    let next = table.next_deadline();
    drop(table);
    if decision == Decision::Accept {
        lock(&shared.tcp.time_wait).remove(tuple);
    }
    shared.tcp.schedule_half_open(shared, next);
    if let Some(header) = answer {
        send_header(shared, tuple, &header);
    }
}

/// Starts to listen. `at` is one of the stack's own addresses, or unspecified.
pub(super) fn listen(shared: &Arc<Shared>, at: SocketAddr, backlog: usize) -> io::Result<TcpListener> {
    loop {
        let port = match at.port() {
            0 => free_listening_port(shared).ok_or(io::ErrorKind::AddrInUse)?,
            port => port,
        };
        let listening = Arc::new(Listening::new(SocketAddr::new(at.ip(), port), backlog));
        let mut listeners = write(&shared.tcp.listeners);
        if listeners.conflicts(listening.at) {
            if at.port() == 0 {
                continue;
            }
            return Err(io::ErrorKind::AddrInUse.into());
        }
        listeners.insert(listening.clone());
        drop(listeners);
        if shared.is_closed() {
            stop_listening(shared, &listening);
        }
        return Ok(TcpListener::new(shared.clone(), listening));
    }
}

/// Ends a listener; connections that were not accepted are reset.
pub(crate) fn stop_listening(shared: &Arc<Shared>, listening: &Arc<Listening>) {
    write(&shared.tcp.listeners).remove(listening);
    for socket in listening.close() {
        let stream = TcpStream::new(shared.clone(), socket);
        stream.reset();
    }
}

/// Ends everything.
pub(super) fn close(shared: &Arc<Shared>) {
    if shared.closed.swap(true, Ordering::SeqCst) {
        return;
    }
    let now = shared.now();
    let interception = write(&shared.interception).take();
    let listeners = write(&shared.tcp.listeners).take_all();
    for listener in listeners {
        let sockets = listener.close();
        drop(sockets);
    }
    for socket in shared.tcp.all() {
        socket.end(shared, now, io::ErrorKind::ConnectionAborted, &mut |packet| shared.send(packet));
    }
    let half_open = lock(&shared.tcp.half_open).take_all();
    for (tuple, entry) in &half_open {
        send_header(shared, tuple, &entry.half.reset());
    }
    drop(half_open);
    lock(&shared.tcp.time_wait).clear();
    udp::close(shared);
    icmp::close(shared);
    fragments::close(shared);
    shared.tcp.clear_ready();
    drop(shared.deadlines.take_all());
    shared.outbox.take_waiting().iter().for_each(|waiting| waiting.has_room());
    shared.waiter.wake();
    drop(interception);
    let closing = std::mem::take(&mut *lock(&shared.closing));
    closing.iter().filter_map(Weak::upgrade).for_each(|notify| notify.notify());
}
