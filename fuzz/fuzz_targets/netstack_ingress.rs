//! Packets for a stack with a listener, UDP sockets, an echo request on its way, and interception: nothing panics,
//! memory stays within its bounds, and nothing is left at the end.
//!
//! The input is a row of records: a byte that says what it is, a byte that is its length or a time, and a packet. So
//! that not all end at a checksum, those of most packets are made good.
#![no_main]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    random::Random,
    time::ManualClock,
    tun::{PacketArena, PacketList, Tun, offload::checksum::Sum},
};
use wg_embed_netstack::{Intercept, InterceptOptions, Netstack, Options, TcpStream, UdpFlow};

const MEMORY: usize = 1 << 20;
const MAX_FLOWS: usize = 8;

/// The same numbers in each run.
struct Numbers(Mutex<u8>);

impl Random for Numbers {
    fn fill(&self, out: &mut [u8]) {
        let mut last = self.0.lock().unwrap();
        for byte in out {
            *last = last.wrapping_mul(5).wrapping_add(77);
            *byte = *last;
        }
    }
}

/// Keeps the last ones of what it gets, and answers.
#[derive(Default)]
struct Handler {
    streams: Mutex<Vec<TcpStream>>,
    flows: Mutex<Vec<UdpFlow>>,
}

impl Intercept for Handler {
    fn connected(&self, stream: TcpStream) {
        let _ = stream.try_write(&[7; 3000]);
        let mut streams = self.streams.lock().unwrap();
        streams.truncate(3);
        streams.insert(0, stream);
    }

    fn flow(&self, flow: UdpFlow) {
        let _ = flow.try_send(&[7; 3000]);
        if flow.destination().port() % 5 == 0 {
            return flow.refuse();
        }
        let mut flows = self.flows.lock().unwrap();
        flows.truncate(3);
        flows.insert(0, flow);
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Makes lengths and checksums of a packet good.
fn repair(packet: &mut [u8]) {
    let len = packet.len();
    let (start, addresses, protocol) = match packet.first().map(|first| first >> 4) {
        Some(4) if len >= 20 => {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[10..12].fill(0);
            let sum = Sum::default().bytes(&packet[..20]).finish();
            packet[10..12].copy_from_slice(&sum);
            (20, 12..20, packet[9])
        }
        Some(6) if len >= 40 => {
            packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
            (40, 8..40, packet[6])
        }
        _ => return,
    };
    let place = start
        + match protocol {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return,
        };
    if place + 2 > len {
        return;
    }
    packet[place..place + 2].fill(0);
    let pseudo = if protocol == 1 {
        Sum::default()
    } else {
        Sum::default().pseudo_header(&packet[addresses], protocol, (len - start) as u16)
    };
    let sum = pseudo.bytes(&packet[start..]).finish();
    packet[place..place + 2].copy_from_slice(&sum);
}

/// Takes everything that the stack sends.
fn read(tun: &dyn Tun, arena: &mut PacketArena) {
    loop {
        arena.clear(tun.mtu());
        match tun.read(arena) {
            Ok(0) | Err(_) => return,
            Ok(_) => assert!(arena.slots().iter().all(|slot| arena.packet(*slot).len() <= 1420)),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let clock = Arc::new(ManualClock::new());
    let stack = Netstack::new(Options {
        addresses: ["10.0.0.2", "fd00::2"].map(|address| address.parse().unwrap()).to_vec(),
        memory: MEMORY,
        clock: clock.clone(),
        random: Arc::new(Numbers(Mutex::new(1))),
        ..Options::default()
    })
    .unwrap();
    let tun = stack.tun();
    let mut arena = PacketArena::new(128 << 10, 128, |len, _| len.next_multiple_of(16));
    let listener = stack.listen_tcp(at("[::]:80"), 2).unwrap();
    let sockets = [
        stack.bind_udp(at("[::]:7"), None).unwrap(),
        stack.bind_udp(at("10.0.0.2:7"), Some(at("10.0.0.1:9"))).unwrap(),
    ];
    let ping = stack.start_ping("10.0.0.1".parse().unwrap(), 32).unwrap();
    let dialled = stack.start_tcp(at("10.0.0.1:80")).unwrap();
    let handler = Arc::new(Handler::default());
    let options = InterceptOptions { max_flows: MAX_FLOWS, ..InterceptOptions::default() };
    stack.intercept(options, Some(handler.clone()));

    let mut rest = input;
    let mut buffer = [0; 2048];
    while let [kind, number, behind @ ..] = rest {
        if kind % 4 == 0 {
            rest = behind;
            clock.advance(Duration::from_millis(u64::from(*number) * u64::from(*number)));
            for socket in &sockets {
                let _ = socket.try_recv(&mut buffer);
            }
            if let Ok(stream) = listener.try_accept() {
                handler.connected(stream);
            }
            for stream in handler.streams.lock().unwrap().iter() {
                let _ = stream.try_read(&mut buffer);
            }
        } else {
            let (packet, after) = behind.split_at(behind.len().min(usize::from(*number)));
            rest = after;
            let mut packet = packet.to_vec();
            if kind % 4 != 1 {
                repair(&mut packet);
            }
            tun.write(PacketList { buffer: &packet, ranges: &[0..packet.len()] });
        }
        read(&*tun, &mut arena);
        let stats = stack.stats();
        assert!(stats.memory <= MEMORY && stats.flows <= MAX_FLOWS, "{stats:?}");
    }
    stack.close();
    handler.streams.lock().unwrap().clear();
    handler.flows.lock().unwrap().clear();
    drop((listener, sockets, ping, dialled));
    let stats = stack.stats();
    assert_eq!((stats.memory, stats.connections, stats.half_open, stats.flows), (0, 0, 0, 0));
});
