//! Rules of the receiving side.

use std::{io, time::Duration};

use super::super::{Flags, Header};
use super::lone::{ACK, FIN, Lone, OURS, PEER, RST};

const MS: Duration = Duration::from_millis(1);

/// Of a receive buffer of 1 MiB.
const SCALE: u8 = 5;

fn number(at: u32) -> u32 {
    PEER.wrapping_add(1).wrapping_add(at)
}

#[test]
fn one_segment_is_acknowledged_later_and_two_at_once() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[1; 100]);
    assert!(!lone.tcp.wants_to_send(lone.now));
    assert_eq!(lone.wait(40 * MS), 40 * MS);
    assert_eq!(lone.sent_one().0.ack, number(100));
    lone.put(100, ACK, &[1; 100]);
    lone.put(200, ACK, &[1; 100]);
    assert_eq!(lone.sent_one().0.ack, number(300));
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[1; 64]);
    lone.write(64);
    let (header, len) = lone.sent_one();
    assert_eq!((header.ack, len, header.flags.psh), (number(64), 64, true));
    lone.acked = 64;
    lone.put(64, ACK, &[]);
    lone.advance(50 * MS);
    assert!(lone.sent().is_empty());
}

#[test]
fn sack_blocks_report_the_latest_range_first() {
    let mut lone = Lone::new(true);
    for at in [200, 400, 600, 800] {
        lone.put(at, ACK, &[1; 100]);
        let (header, _) = lone.sent_one();
        assert_eq!(header.ack, number(0));
        assert_eq!(header.sack[0], Some((number(at), number(at + 100))));
    }
    lone.put(400, ACK, &[1; 150]);
    let (header, _) = lone.sent_one();
    let block = |from, to| Some((number(from), number(to)));
    assert_eq!(header.sack, [block(400, 550), block(800, 900), block(600, 700), None]);
    lone.put(0, ACK, &[1; 200]);
    let (header, _) = lone.sent_one();
    assert_eq!(header.ack, number(300));
    lone.put(300, ACK, &[1; 600]);
    let (header, _) = lone.sent_one();
    assert_eq!(header.ack, number(900));
    assert_eq!(lone.read(5000).expect("data").len(), 900);
}

#[test]
fn what_arrives_twice_is_reported() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[1; 100]);
    lone.put(100, ACK, &[1; 100]);
    lone.sent();
    lone.put(0, ACK, &[1; 100]);
    let (header, _) = lone.sent_one();
    assert_eq!((header.ack, header.sack[0]), (number(200), Some((number(0), number(100)))));
    // Within a range that arrived out of order: the range follows (RFC 2883, 4.2).
    lone.put(300, ACK, &[1; 200]);
    lone.sent();
    lone.put(300, ACK, &[1; 100]);
    let (header, _) = lone.sent_one();
    assert_eq!(header.sack[..2], [Some((number(300), number(400))), Some((number(300), number(500)))]);
}

#[test]
fn ranges_out_of_order_are_bounded() {
    let mut lone = Lone::new(true);
    for range in 1..=200 {
        lone.put(range * 20, ACK, &[1; 10]);
        lone.sent();
    }
    // What was kept is there when the gaps are filled; the rest comes again.
    for range in 0..=200 {
        lone.put(range * 20, ACK, &[1; 20]);
    }
    let (header, _) = lone.sent_one();
    assert_eq!(header.ack, number(4020));
    assert_eq!(lone.read(10_000).expect("data"), vec![1; 4020]);
}

#[test]
fn an_advertised_window_never_shrinks() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[]);
    let mut edge = 0;
    let mut at = 0;
    for round in 0u32..60 {
        for _ in 0..2 {
            lone.put(at, ACK, &[0; 1333]);
            at += 1333;
        }
        for (header, _) in lone.sent() {
            let acked = header.ack.wrapping_sub(number(0));
            let new = acked + (u32::from(header.window) << SCALE);
            assert!(new >= edge, "{new} after {edge} in round {round}");
            edge = new;
            at = acked;
        }
        if round % 7 == 0 {
            drop(lone.read(777));
        }
    }
    assert!(edge <= (1 << 20) + 60_000);
}

#[test]
fn single_bytes_do_not_keep_a_window_open_that_nobody_reads() {
    let mut lone = Lone::new(true);
    let (mut at, mut edge) = (0, 60_000);
    while at < edge {
        lone.put(at, ACK, &[1]);
        at += 1;
        for (header, _) in lone.sent() {
            edge = header.ack.wrapping_sub(number(0)) + (u32::from(header.window) << SCALE);
        }
        assert!(at < 80_000, "the window does not close");
    }
    assert!(lone.used() <= 80_000, "{}", lone.used());
}

#[test]
fn a_window_in_large_units_closes_while_nothing_is_read() {
    const UNIT: u32 = 1 << 14;
    let config = super::super::Config { receive_buffer: 1 << 30, ..super::lone::small() };
    let options = Header { mss: Some(1000), window_scale: Some(7), ..Header::default() };
    let mut lone = Lone::with(config, &options);
    let mut numbers = super::path::Numbers(1);
    let (mut at, mut edge, mut read) = (0, 60_000, 0);
    for round in 0..20_000 {
        for _ in 0..=numbers.next() % 3 {
            let len = (numbers.next() % 1000) as u32 + 1;
            if at + len <= edge {
                lone.put(at, ACK, &vec![0; len as usize]);
                at += len;
            }
        }
        if round % 200 == 0 {
            read += lone.read((numbers.next() % 40_000) as usize).map_or(0, |data| data.len() as u32);
        }
        for (header, _) in lone.sent() {
            let acked = header.ack.wrapping_sub(number(0));
            assert_eq!(acked, at, "all of it was in the window");
            let new = acked + (u32::from(header.window) << 14);
            assert!(new + UNIT > edge, "{new} after {edge} in round {round}");
            edge = new;
        }
        // The buffer has not grown, as no time passes.
        assert!(at - read <= 65_535 + 2 * UNIT, "{} in round {round}", at - read);
    }
    assert!(read > 500_000, "{read}");
}

#[test]
fn a_full_window_is_kept_and_reading_opens_it() {
    let mut lone = Lone::new(true);
    let mut at = 0;
    loop {
        lone.put(at, ACK, &[0; 1000]);
        let Some(&(header, _)) = lone.sent().last() else {
            at += 1000;
            continue;
        };
        at = header.ack.wrapping_sub(number(0));
        if header.window == 0 {
            break;
        }
    }
    // A probe of the closed window is answered and not taken.
    lone.put(at, ACK, &[0; 1]);
    assert_eq!(lone.sent_one().0.ack, number(at));
    // A little room is not worth an update: silly window avoidance.
    assert_eq!(lone.read(500).expect("data").len(), 500);
    assert!(lone.sent().is_empty());
    assert_eq!(lone.read(5000).expect("data").len(), 5000);
    let (header, _) = lone.sent_one();
    assert!(header.window > 0);
}

#[test]
fn an_old_timestamp_is_refused() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[1; 10]);
    lone.peer_clock -= 1;
    lone.put(10, ACK, &[1; 10]);
    assert_eq!(lone.sent_one().0.ack, number(10));
    assert_eq!(lone.read(100).expect("data").len(), 10);
    // After 24 days the peer's clock may have wrapped.
    lone.now = lone.now + Duration::from_secs(25 * 24 * 3600);
    lone.put(10, ACK, &[1; 10]);
    assert_eq!(lone.read(100).expect("data").len(), 10);
}

#[test]
fn only_the_exact_number_resets() {
    let mut lone = Lone::new(true);
    lone.put(1, RST, &[]);
    let (header, _) = lone.sent_one();
    assert_eq!((header.flags, header.ack), (ACK, number(0)));
    lone.put(10_000_000, RST, &[]);
    assert!(lone.sent().is_empty());
    assert_eq!(lone.tcp.error(), None);
    lone.put(0, RST, &[]);
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::ConnectionReset));
    assert!(lone.tcp.is_closed());
    assert_eq!(lone.read(10).expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_syn_and_a_wrong_ack_are_challenged_within_limits() {
    let mut lone = Lone::new(true);
    lone.put(0, Flags { syn: true, ..Flags::default() }, &[]);
    assert_eq!(lone.sent_one().0.flags, ACK);
    lone.acked = 5;
    lone.put(0, ACK, &[1; 10]);
    assert_eq!(lone.sent_one().0.ack, number(0));
    let mut answers = 0;
    for _ in 0..100 {
        lone.put(0, ACK, &[1; 10]);
        answers += lone.sent().len();
    }
    assert!((1..=10).contains(&answers), "{answers}");
    assert_eq!(lone.read(10).expect_err("nothing was taken").kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn data_before_a_reset_are_read_first() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[7; 10]);
    lone.put(10, RST, &[]);
    let readiness = lone.tcp.readiness();
    assert!(readiness.readable && readiness.writable && readiness.read_closed && readiness.write_closed);
    assert_eq!(lone.read(100).expect("data"), [7; 10]);
    assert_eq!(lone.read(100).expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(lone.used(), 0);
}

#[test]
fn a_fin_out_of_order_waits_for_what_is_missing() {
    let mut lone = Lone::new(true);
    lone.put(100, FIN, &[2; 50]);
    assert!(!lone.tcp.readiness().read_closed);
    lone.put(0, ACK, &[1; 100]);
    assert!(lone.tcp.readiness().read_closed);
    assert_eq!(lone.sent_one().0.ack, number(151));
    assert_eq!(lone.read(1000).expect("data").len(), 150);
    assert_eq!(lone.read(1000).expect("the end").len(), 0);
    // The FIN again, and data behind it.
    lone.put(150, FIN, &[]);
    assert_eq!(lone.sent_one().0.ack, number(151));
    lone.put(151, ACK, &[3; 10]);
    lone.sent();
    assert_eq!(lone.read(1000).expect("the end").len(), 0);
}

#[test]
fn data_are_thrown_away_after_a_shutdown_for_reading() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[1; 100]);
    lone.tcp.shutdown(std::net::Shutdown::Read, lone.now).expect("open");
    lone.put(100, ACK, &[1; 100]);
    lone.put(200, ACK, &[1; 100]);
    assert_eq!(lone.sent_one().0.ack, number(300));
    assert_eq!(lone.read(1000).expect("the end").len(), 0);
}

#[test]
fn a_refused_buffer_costs_no_data_that_were_acknowledged() {
    let mut lone = Lone::new(true);
    lone.budget.limit.store(4096, std::sync::atomic::Ordering::Relaxed);
    let mut acked = 0;
    for _ in 0..20 {
        lone.put(acked, ACK, &[1; 1000]);
        if let Some((header, _)) = lone.sent().last() {
            acked = header.ack.wrapping_sub(number(0));
        }
        lone.advance(40 * MS);
        if let Some((header, _)) = lone.sent().last() {
            acked = header.ack.wrapping_sub(number(0));
        }
    }
    assert!((2000..=4096).contains(&acked), "{acked}");
    assert_eq!(lone.read(100_000).expect("data").len(), acked as usize);
}

#[test]
fn a_peer_without_options_is_served() {
    let mut lone = Lone::with(super::lone::small(), &Header::default());
    lone.window = 0xffff;
    lone.put(0, ACK, &[]);
    lone.write(2000);
    assert_eq!(lone.sent_data(), [(0, 536), (536, 536), (1072, 536), (1608, 392)]);
    lone.put(300, ACK, &[1; 10]);
    let (header, _) = lone.sent_one();
    assert_eq!((header.sack, header.timestamps, header.window), ([None; 4], None, 0xffff));
    assert_eq!(header.seq, OURS.wrapping_add(2001));
}
