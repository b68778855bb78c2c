//! A DNS server that answers what it likes, over UDP and TCP: each look-up ends, with addresses or an error, and
//! nothing is left of it.
//!
//! The input is a row of records, an answer each: a byte that says what it is, a byte that is its length, and the
//! answer. That is a whole message, or what a message has besides the question's id and the question: flags, the other
//! three counts, and the records.
#![no_main]

use std::{io::ErrorKind, sync::Arc, time::Duration};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    time::ManualClock,
    tun::{PacketArena, Tun},
};
use wg_embed_fuzz::{Numbers, arena, at, ip, read, write};
use wg_embed_netstack::{Netstack, Options, TcpListener, TcpStream, UdpSocket, dns::Family};

const SERVERS: [&str; 2] = ["10.0.0.53", "fd00::53"];
const TIMEOUT: Duration = Duration::from_secs(20);
const HEADER: usize = 12;
/// No answer.
const SILENCE: u8 = 0;
/// A whole message.
const WHOLE: u8 = 1;
/// Added to either: a length in front of it that is too large, over TCP.
const LONGER: u8 = 0x80;

/// What is left of the input.
struct Answers<'a>(&'a [u8]);

impl Answers<'_> {
    /// The next answer to a question, as it is sent over TCP; `None` for silence.
    fn next(&mut self, question: &[u8]) -> Option<Vec<u8>> {
        let [kind, len, rest @ ..] = self.0 else { return None };
        let (answer, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        self.0 = rest;
        let message = match kind % 8 {
            SILENCE => return None,
            WHOLE => answer.to_vec(),
            _ => {
                let (head, records) = answer.split_at_checked(8)?;
                let end = question.get(HEADER..)?.iter().position(|byte| *byte == 0)? + HEADER + 5;
                let mut message = question.get(..2)?.to_vec();
                message.extend_from_slice(&head[..2]);
                message.extend([0, 1]);
                message.extend_from_slice(&head[2..]);
                message.extend_from_slice(question.get(HEADER..end)?);
                message.extend_from_slice(records);
                message
            }
        };
        let len = message.len() as u16 + u16::from(kind & LONGER != 0);
        Some([&len.to_be_bytes()[..], &message].concat())
    }
}

/// The other end.
struct Server {
    stack: Netstack,
    udp: UdpSocket,
    tcp: TcpListener,
    streams: Vec<(TcpStream, Vec<u8>)>,
}

impl Server {
    fn serve(&mut self, answers: &mut Answers<'_>) {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = self.udp.try_recv(&mut buffer) {
            if let Some(answer) = answers.next(&buffer[..len]) {
                let _ = self.udp.try_send(&answer[2..], Some(from));
            }
        }
        while let Ok(stream) = self.tcp.try_accept() {
            self.streams.push((stream, Vec::new()));
        }
        self.streams.retain_mut(|(stream, received)| {
            match stream.try_read(&mut buffer) {
                Ok(0) => return false,
                Ok(len) => received.extend_from_slice(&buffer[..len]),
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
            let Some((len, question)) = received.split_first_chunk() else { return true };
            let len = usize::from(u16::from_be_bytes(*len));
            let Some(question) = question.get(..len) else { return true };
            match answers.next(question) {
                Some(answer) => {
                    let _ = stream.try_write(&answer);
                    received.drain(..2 + len);
                    true
                }
                None => false,
            }
        });
    }
}

fn stack(addresses: [&str; 2], clock: &Arc<ManualClock>, seed: u64) -> Netstack {
    Netstack::new(Options {
        addresses: addresses.map(ip).to_vec(),
        dns: SERVERS.map(ip).to_vec(),
        clock: clock.clone(),
        random: Arc::new(Numbers::new(seed)),
        ..Options::default()
    })
    .unwrap()
}

/// Carries all packets from one to the other. Returns whether there were any.
fn carry(from: &dyn Tun, to: &dyn Tun, arena: &mut PacketArena) -> bool {
    let mut any = false;
    read(from, arena, |packet| {
        any = true;
        write(to, packet);
    });
    any
}

fuzz_target!(|input: &[u8]| {
    let clock = Arc::new(ManualClock::new());
    let client = stack(["10.0.0.2", "fd00::2"], &clock, 1);
    let other = stack(SERVERS, &clock, 2);
    let (tun, other_tun) = (client.tun(), other.tun());
    let mut arena = arena();
    let mut server = Server {
        udp: other.bind_udp(at("[::]:53"), None).unwrap(),
        tcp: other.listen_tcp(at("[::]:53"), 8).unwrap(),
        stack: other,
        streams: Vec::new(),
    };
    let mut answers = Answers(input);
    // The second one may be answered without a server.
    for (name, family) in [("a.example", Family::Any), ("A.example", Family::Ipv4), ("b.a.example", Family::PreferIpv4)]
    {
        let lookup = client.start_resolve(name, family, TIMEOUT).unwrap();
        let mut waited = Duration::ZERO;
        let outcome = loop {
            let moved = carry(&*tun, &*other_tun, &mut arena);
            server.serve(&mut answers);
            if carry(&*other_tun, &*tun, &mut arena) || moved {
                continue;
            }
            match lookup.try_finish() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                outcome => break outcome,
            }
            assert!(waited <= TIMEOUT, "{name} is still being looked up");
            let step = Duration::from_millis(500);
            clock.advance(step);
            waited += step;
        };
        if let Ok(addresses) = outcome {
            assert!((1..=64).contains(&addresses.len()), "{addresses:?}");
            assert!(family != Family::Ipv4 || addresses.iter().all(|address| address.is_ipv4()), "{addresses:?}");
        }
    }
    client.close();
    server.stack.close();
    drop(server);
    let stats = client.stats();
    assert_eq!((stats.memory, stats.connections, stats.half_open, stats.flows), (0, 0, 0, 0));
});
