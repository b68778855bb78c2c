//! A stream of the VPN manager protocol, received by each side: a header, then frames, at any split. Memory stays in
//! proportion to the bytes that have arrived, and what can be decoded is the same after it was encoded again.
//!
//! The first byte of the input is the receiver's side and how many bytes arrive at a time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wg_embed_manager::{
    messages::{ClientSide, Envelope, ManagerSide, ServiceSide, Side, TunnelSide},
    stream::{FrameDecoder, HeaderDecoder, Kind, MAX_HEADER, Versions, encode, weigh},
};

fn receive<S: Side>(mut input: &[u8], step: usize) {
    let mut header = HeaderDecoder::new();
    let mut read = 0;
    loop {
        let Some((byte, rest)) = input.split_first() else { return };
        (input, read) = (rest, read + 1);
        match header.push(*byte) {
            Ok(None) => assert!(read < MAX_HEADER),
            Ok(Some(header)) => {
                let line = header.encode();
                assert!(line.is_ok(), "{header:?}");
                let _ = header.negotiate(S::ROLE, &Versions::default());
                break;
            }
            Err(_) => return,
        }
    }
    let mut frames = FrameDecoder::new();
    let mut arrived = 0;
    for mut part in input.chunks(step) {
        arrived += part.len();
        while !part.is_empty() {
            match frames.push(&mut part) {
                Ok(Some(message)) => {
                    arrived = part.len();
                    decode::<S>(&message);
                }
                Ok(None) => assert!(part.is_empty()),
                Err(_) => return,
            }
            assert!(frames.memory() <= 4096.max(2 * arrived));
        }
    }
}

fn decode<S: Side>(message: &[u8]) {
    let Some(weight) = weigh(message, S::Received::SHAPE) else { return };
    assert!(weight <= (8 * message.len()).max(1 << 20));
    let Ok(decoded) = <S::Received as prost::Message>::decode(message) else { return };
    if let Ok(frame) = encode(&decoded) {
        let again = <S::Received as prost::Message>::decode(&frame[4..]).unwrap();
        assert_eq!(encode(&again).unwrap(), frame);
    }
    let (rpc, _) = decoded.split();
    let _ = Kind::of(rpc.as_ref()).rpc();
}

fuzz_target!(|input: &[u8]| {
    let Some((first, input)) = input.split_first() else { return };
    let step = usize::from(first >> 2) + 1;
    match first & 3 {
        0 => receive::<ManagerSide>(input, step),
        1 => receive::<TunnelSide>(input, step),
        2 => receive::<ServiceSide>(input, step),
        _ => receive::<ClientSide>(input, step),
    }
});
