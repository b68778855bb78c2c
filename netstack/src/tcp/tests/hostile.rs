//! Peers that want to make a connection costly.

use std::time::Duration;

use super::{
    super::{Config, Header},
    lone::{ACK, Lone},
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A peer whose segments have `mss` bytes at most and whose window is 8 MiB.
fn peer(mss: u16) -> Lone {
    let config = Config { send_buffer: 4 << 20, ..super::lone::small() };
    let options = Header {
        mss: Some(mss),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some((100, 0)),
        ..Header::default()
    };
    let mut lone = Lone::with(config, &options);
    lone.window = u16::MAX;
    lone.put(0, ACK, &[]);
    lone
}

/// Writes as much as there is room for.
fn fill(lone: &mut Lone) -> usize {
    let mut written = 0;
    while let Ok((len, _)) = lone.tcp.write(&|| lone.now, 1 << 20, &mut |a, b| a.len() + b.len()) {
        written += len;
    }
    written
}

#[test]
fn tiny_segments_in_flight_are_bounded_in_number() {
    for stated in [0, 1, 88] {
        let mut lone = peer(stated);
        let mut most = 0;
        let mut acked = 0_u32;
        for _ in 0..120 {
            fill(&mut lone);
            let sent = lone.sent_data();
            assert!(sent.iter().all(|&(_, len)| len <= 76));
            most = most.max(sent.len());
            let Some(&(position, len)) = sent.last() else { break };
            acked = position + len as u32;
            lone.advance(20 * MS);
            lone.put_ack(0, acked, &[]);
        }
        assert!((10_000..=16_384).contains(&most), "{most} segments, {acked} bytes");
    }
}

#[test]
fn single_bytes_that_are_acknowledged_cost_no_memory() {
    let mut lone = peer(1000);
    lone.write(9880);
    assert_eq!(lone.sent_data().len(), 10);
    // The last one is sent again as a probe, then the first one, and more of them.
    let mut again = 0;
    while again < 2 {
        lone.wait_for_sending(S);
        again += lone.sent_data().len();
    }
    let before = lone.tcp.memory();
    for acked in 1..988 {
        lone.put_ack(0, acked, &[]);
        lone.sent();
    }
    assert!(lone.tcp.memory() <= before + 1024, "{} bytes of {before} more", lone.tcp.memory() - before);
}

#[test]
fn single_bytes_that_are_reported_cost_little_memory() {
    let mut lone = peer(1000);
    let mut sent = 0;
    for _ in 0..12 {
        fill(&mut lone);
        sent = lone.sent_data().last().map_or(sent, |&(position, len)| position + len as u32);
        lone.advance(20 * MS);
        lone.put_ack(0, sent, &[]);
    }
    fill(&mut lone);
    let last = lone.sent_data().last().map(|&(position, len)| position + len as u32).expect("data");
    let before = lone.tcp.memory();
    let mut at = sent + 1;
    while at + 8 < last {
        lone.put_ack(0, sent, &[(at, at + 1), (at + 2, at + 3), (at + 4, at + 5)]);
        at += 6;
    }
    assert!((last - sent) / 2 > 50_000, "many more reports than are remembered");
    assert!(lone.tcp.memory() <= before + (256 << 10), "{} after {before}", lone.tcp.memory());
    // All of it is acknowledged in the end, whatever was reported.
    lone.put_ack(0, last, &[]);
    lone.sent();
    lone.tcp.check();
}
