//! A DNS server inside a stack, whose answers the test makes.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

use std::{io, net::SocketAddr, time::Duration};

use wg_embed_netstack::{Netstack, TcpListener, TcpStream, UdpSocket};

/// Makes the answer to a query, which came over TCP or not; `None` does not answer.
pub type Zone<'a> = dyn FnMut(&[u8], bool) -> Option<Vec<u8>> + 'a;

pub struct DnsServer {
    pub udp: UdpSocket,
    listener: TcpListener,
    /// Connections, and what came over them.
    connections: Vec<(TcpStream, Vec<u8>)>,
    /// Where queries came from, over UDP and over TCP.
    pub udp_queries: Vec<SocketAddr>,
    pub tcp_queries: Vec<SocketAddr>,
}

impl DnsServer {
    pub fn new(stack: &Netstack) -> Self {
        let at = "[::]:53".parse().unwrap();
        Self {
            udp: stack.bind_udp(at, None).unwrap(),
            listener: stack.listen_tcp(at, 8).unwrap(),
            connections: Vec::new(),
            udp_queries: Vec::new(),
            tcp_queries: Vec::new(),
        }
    }

    /// Waits for a query over UDP and answers it.
    pub fn answer_one(&mut self, timeout: Duration, zone: &mut Zone<'_>) {
        let mut buffer = [0; 4096];
        match self.udp.recv(&mut buffer, Some(timeout)) {
            Ok((len, from)) => {
                if let Some(answer) = zone(&buffer[..len], false) {
                    self.udp.try_send(&answer, Some(from)).unwrap();
                }
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::TimedOut),
        }
    }

    /// Answers what has come.
    pub fn step(&mut self, zone: &mut Zone<'_>) {
        let mut buffer = [0; 4096];
        while let Some((len, from)) = done(self.udp.try_recv(&mut buffer)) {
            self.udp_queries.push(from);
            if let Some(answer) = zone(&buffer[..len], false) {
                self.udp.try_send(&answer, Some(from)).unwrap();
            }
        }
        while let Some(stream) = done(self.listener.try_accept()) {
            self.tcp_queries.push(stream.peer_addr());
            self.connections.push((stream, Vec::new()));
        }
        self.connections.retain_mut(|(stream, received)| {
            loop {
                match stream.try_read(&mut buffer) {
                    Ok(0) => return false,
                    Ok(len) => received.extend_from_slice(&buffer[..len]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return false,
                }
            }
            if let Some((len, query)) = received.split_first_chunk()
                && query.len() == usize::from(u16::from_be_bytes(*len))
                && let Some(answer) = zone(query, true)
            {
                let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let message = [&len[..], &answer].concat();
                assert_eq!(stream.try_write(&message).unwrap(), message.len());
                received.clear();
            }
            true
        });
    }
}

fn done<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
        Err(e) => panic!("{e}"),
    }
}
