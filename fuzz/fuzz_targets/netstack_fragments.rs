//! Fragments of datagrams whose contents are known, in any order, repeated, overlapping, with false ends: whatever
//! comes out is one of the datagrams, whole.
//!
//! The input is a row of records of four bytes: what it is, which datagram, where its fragment begins and how long it
//! is, both in units of eight bytes.
#![no_main]

use std::{net::IpAddr, sync::Arc, time::Duration};

use libfuzzer_sys::fuzz_target;
use wg_embed::time::ManualClock;
use wg_embed_fuzz::{Numbers, arena, at, ip, packet, read, repair, repair_header, write};
use wg_embed_netstack::{Netstack, Options};

const DATAGRAMS: u8 = 32;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

/// The addresses of a datagram, and its UDP header and contents.
fn datagram(number: u8) -> (IpAddr, IpAddr, Vec<u8>) {
    let (from, to, start) =
        if number.is_multiple_of(2) { ("10.0.0.1", "10.0.0.2", 20) } else { ("fd00::1", "fd00::2", 40) };
    let (from, to) = (ip(from), ip(to));
    let len = 9 + 67 * usize::from(number);
    let mut payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8 ^ number.wrapping_mul(37)).collect();
    payload[..8].copy_from_slice(&[0, 9, 0, 7, (len >> 8) as u8, len as u8, 0, 0]);
    let mut whole = packet(from, to, UDP, &payload);
    repair(&mut whole);
    (from, to, whole.split_off(start))
}

fn fragment(kind: u8, number: u8, offset: u8, len: u8) -> Vec<u8> {
    let (from, to, payload) = datagram(number);
    let start = (usize::from(offset) * 8).min(payload.len() / 8 * 8);
    let end = (start + usize::from(len) * 8).min(payload.len());
    let more = (end < payload.len()) != (kind & 0x40 != 0);
    let place = (start as u16).to_be_bytes();
    let piece = &payload[start..end];
    let mut packet = if from.is_ipv4() {
        let mut packet = packet(from, to, UDP, piece);
        let place = ((start as u16 / 8) | (u16::from(more) << 13)).to_be_bytes();
        packet[4..8].copy_from_slice(&[7, number, place[0], place[1]]);
        packet
    } else {
        let mut inner = vec![UDP, 0, place[0], place[1] | u8::from(more), 0, 0, 7, number];
        inner.extend_from_slice(piece);
        packet(from, to, FRAGMENT, &inner)
    };
    repair_header(&mut packet);
    packet
}

fuzz_target!(|input: &[u8]| {
    let clock = Arc::new(ManualClock::new());
    let stack = Netstack::new(Options {
        addresses: ["10.0.0.2", "fd00::2"].map(ip).to_vec(),
        clock: clock.clone(),
        random: Arc::new(Numbers::new(1)),
        ..Options::default()
    })
    .unwrap();
    let tun = stack.tun();
    let mut arena = arena();
    let socket = stack.bind_udp(at("[::]:7"), None).unwrap();
    let mut buffer = [0; 4096];
    let mut given = 0_u32;
    for record in input.chunks_exact(4) {
        let [kind, number, offset, len] = *record else { unreachable!() };
        let number = number % DATAGRAMS;
        if kind % 8 == 0 {
            clock.advance(Duration::from_millis(u64::from(number) * 1000));
        } else {
            write(&*tun, &fragment(kind, number, offset, len));
            given |= 1 << number;
        }
        while let Ok((len, _)) = socket.try_recv(&mut buffer) {
            let data = &buffer[..len];
            let found = (0..DATAGRAMS).find(|number| datagram(*number).2[8..] == *data);
            assert!(found.is_some_and(|number| given & 1 << number != 0), "{data:?}");
        }
        // "Time exceeded", at most.
        read(&*tun, &mut arena, |_| {});
    }
    stack.close();
});
