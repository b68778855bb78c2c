//! Packets for a stack with a listener, UDP sockets, an echo request on its way, and interception: nothing panics,
//! memory stays within its bounds, and nothing is left at the end.
//!
//! The input is a row of records: a byte that says what it is, a byte that is its length or a time, and a packet. So
//! that not all end at a checksum, those of most packets are made good.
#![no_main]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use wg_embed::time::ManualClock;
use wg_embed_fuzz::{Numbers, arena, at, ip, read, repair, write};
use wg_embed_netstack::{Intercept, InterceptOptions, Netstack, Options, TcpStream, UdpFlow};

const MEMORY: usize = 1 << 20;
const MAX_FLOWS: usize = 8;

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
        if flow.destination().port().is_multiple_of(5) {
            return flow.refuse();
        }
        let mut flows = self.flows.lock().unwrap();
        flows.truncate(3);
        flows.insert(0, flow);
    }
}

fuzz_target!(|input: &[u8]| {
    let clock = Arc::new(ManualClock::new());
    let stack = Netstack::new(Options {
        addresses: ["10.0.0.2", "fd00::2"].map(ip).to_vec(),
        memory: MEMORY,
        clock: clock.clone(),
        random: Arc::new(Numbers::new(1)),
        ..Options::default()
    })
    .unwrap();
    let tun = stack.tun();
    let mut arena = arena();
    let listener = stack.listen_tcp(at("[::]:80"), 2).unwrap();
    let sockets = [
        stack.bind_udp(at("[::]:7"), None).unwrap(),
        stack.bind_udp(at("10.0.0.2:7"), Some(at("10.0.0.1:9"))).unwrap(),
    ];
    let ping = stack.start_ping(ip("10.0.0.1"), 32).unwrap();
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
            write(&*tun, &packet);
        }
        read(&*tun, &mut arena, |_| {});
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
