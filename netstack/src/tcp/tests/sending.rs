//! Rules of the sending side.

use std::{io, time::Duration};

use super::lone::{ACK, Lone, OURS};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A full segment: 1000 less the timestamps option.
const FULL: usize = 988;

fn full(segments: std::ops::Range<u32>) -> Vec<(u32, usize)> {
    segments.map(|segment| (segment * FULL as u32, FULL)).collect()
}

fn at(segments: u32) -> u32 {
    segments * FULL as u32
}

#[test]
fn the_first_flight_has_ten_segments() {
    let mut lone = Lone::new(true);
    lone.write(100_000);
    assert_eq!(lone.sent_data(), full(0..10));
    lone.advance(20 * MS);
    lone.put_ack(0, at(2), &[]);
    assert_eq!(lone.sent_data(), full(10..14));
}

#[test]
fn no_more_is_sent_than_the_peers_window_has_room_for() {
    let mut lone = Lone::new(true);
    lone.window = 16;
    lone.put(0, ACK, &[]);
    lone.write(100_000);
    // 2048 bytes: two segments; the 72 bytes that are left are not worth one.
    assert_eq!(lone.sent_data(), full(0..2));
}

#[test]
fn small_writes_leave_at_once_or_wait_for_each_other() {
    let mut lone = Lone::new(true);
    lone.write(10);
    lone.write(10);
    assert_eq!(lone.sent_data(), [(0, 20)]);
    lone.write(10);
    assert_eq!(lone.sent_data(), [(20, 10)]);
    lone.tcp.set_nodelay(false);
    lone.write(10);
    assert_eq!(lone.sent_data(), []);
    lone.put_ack(0, 30, &[]);
    assert_eq!(lone.sent_data(), [(30, 10)]);
}

#[test]
fn the_last_segment_is_probed_before_the_timeout() {
    let mut lone = Lone::new(true);
    lone.write(3 * FULL);
    lone.sent();
    // Two round trips of 20 ms.
    let time = lone.wait_for_sending(100 * MS);
    assert!((40 * MS..50 * MS).contains(&time), "{time:?}");
    assert_eq!(lone.sent_data(), [(at(2), FULL)]);
    // The probe shows that the first two are lost.
    lone.advance(20 * MS);
    lone.put_ack(0, 0, &[(at(2), at(3))]);
    lone.wait_for_sending(20 * MS);
    assert_eq!(lone.sent_data(), full(0..1), "one for one that was delivered: PRR");
    lone.advance(20 * MS);
    lone.put_ack(0, at(1), &[(at(2), at(3))]);
    assert_eq!(lone.sent_data(), full(1..2));
}

#[test]
fn the_timeout_doubles_and_ends_after_fifteen_retries() {
    let mut lone = Lone::new(true);
    lone.write(FULL);
    lone.sent();
    let mut times = Vec::new();
    let mut sent = 0;
    while lone.tcp.error().is_none() {
        let time = lone.wait(100 * S);
        if !lone.sent_data().is_empty() {
            sent += 1;
            times.push(time);
        }
    }
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::TimedOut));
    // The probe, and the retries.
    assert_eq!(sent, 16, "{times:?}");
    assert!(times[1..].windows(2).all(|pair| pair[1] >= pair[0]), "{times:?}");
    assert_eq!(times.last(), Some(&(60 * S)));
    assert!(times[1] >= 200 * MS);
}

#[test]
fn icmp_is_the_reason_of_a_timeout() {
    let mut lone = Lone::new(true);
    lone.write(FULL);
    lone.sent();
    lone.tcp.unreachable(OURS.wrapping_sub(100), io::ErrorKind::NetworkUnreachable);
    lone.tcp.unreachable(OURS.wrapping_add(1), io::ErrorKind::HostUnreachable);
    assert_eq!(lone.tcp.error(), None);
    while lone.tcp.error().is_none() {
        lone.wait(100 * S);
        lone.sent();
    }
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::HostUnreachable));
}

#[test]
fn three_reported_segments_show_a_loss() {
    let mut lone = Lone::new(true);
    lone.write(100_000);
    lone.sent();
    lone.advance(20 * MS);
    lone.put_ack(0, 0, &[(at(1), at(4))]);
    let sent = lone.sent_data();
    assert_eq!(sent[0], (0, FULL), "{sent:?}");
    // Nothing is sent twice without a reason.
    lone.put_ack(0, 0, &[(at(1), at(5))]);
    assert!(!lone.sent_data().contains(&(0, FULL)));
}

#[test]
fn reordering_by_one_is_no_loss() {
    let mut lone = Lone::new(true);
    lone.write(100_000);
    lone.sent();
    lone.advance(20 * MS);
    lone.put_ack(0, 0, &[(at(1), at(2))]);
    assert_eq!(lone.sent_data(), full(10..11), "limited transmit");
    lone.advance(2 * MS);
    lone.put_ack(0, at(2), &[]);
    assert!(lone.sent_data().iter().all(|&(position, _)| position >= at(11)));
}

#[test]
fn a_lost_retransmission_is_found() {
    let mut lone = Lone::new(true);
    lone.write(100_000);
    lone.sent();
    lone.advance(20 * MS);
    lone.put_ack(0, 0, &[(at(1), at(6))]);
    let sent = lone.sent_data();
    assert_eq!(sent[0], (0, FULL));
    let next = sent.last().expect("new data").0 + FULL as u32;
    assert!(next > at(10), "{sent:?}");
    // What was sent after the retransmission arrives, and the retransmission does not.
    lone.advance(30 * MS);
    lone.put_ack(0, 0, &[(at(10), next), (at(1), at(10))]);
    lone.wait_for_sending(30 * MS);
    assert!(lone.sent_data().contains(&(0, FULL)));
}

#[test]
fn a_spurious_timeout_is_undone() {
    let mut lone = Lone::with(
        super::lone::small(),
        &super::super::Header { mss: Some(1000), window_scale: Some(7), sack_permitted: true, ..Default::default() },
    );
    lone.write(100_000);
    assert_eq!(lone.sent_data().len(), 10);
    // The path stands still for a second.
    lone.advance(10 * MS);
    while lone.sent_data().first().is_none_or(|&(position, _)| position != 0) {
        lone.wait(S);
    }
    lone.advance(600 * MS);
    lone.sent();
    // All arrives: first one, then others that were not sent again.
    lone.put_ack(0, 2000, &[]);
    lone.sent();
    lone.put_ack(0, 8000, &[]);
    let sent = lone.sent_data();
    assert!(sent.len() >= 5, "the window is as before: {sent:?}");
    assert!(sent.iter().all(|&(position, _)| position >= 8000));
}

#[test]
fn a_closed_window_is_probed_for_ever_while_that_is_answered() {
    let mut lone = Lone::new(true);
    lone.window = 0;
    lone.put(0, ACK, &[]);
    lone.write(5000);
    assert!(lone.sent().is_empty());
    let mut times = Vec::new();
    for _ in 0..40 {
        times.push(lone.wait_for_sending(61 * S));
        let (header, len) = lone.sent_one();
        assert_eq!((header.seq, len), (OURS, 0), "an old number");
        lone.put(0, ACK, &[]);
    }
    assert_eq!(lone.tcp.error(), None);
    assert!(times[1] > times[0] && times.last() == Some(&(60 * S)), "{times:?}");
    lone.window = 512;
    lone.put(0, ACK, &[]);
    assert_eq!(lone.sent_data().len(), 6);
}

#[test]
fn a_closed_window_without_answers_ends() {
    let mut lone = Lone::new(true);
    lone.window = 0;
    lone.put(0, ACK, &[]);
    lone.write(5000);
    let mut probes = 0;
    while lone.tcp.error().is_none() {
        lone.wait(61 * S);
        probes += lone.sent().len();
    }
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::TimedOut));
    assert_eq!(probes, 16, "15 probes and a RST");
}

#[test]
fn a_window_that_stays_small_is_used_after_a_while() {
    let mut lone = Lone::new(true);
    lone.window = 2;
    lone.put(0, ACK, &[]);
    lone.write(5000);
    assert!(lone.sent().is_empty());
    lone.wait_for_sending(S);
    assert_eq!(lone.sent_data(), [(0, 256)]);
}

#[test]
fn a_fin_waits_for_the_window() {
    let mut lone = Lone::new(true);
    lone.window = 0;
    lone.put(0, ACK, &[]);
    lone.tcp.shutdown(std::net::Shutdown::Write, lone.now).expect("open");
    assert!(lone.sent().is_empty());
    lone.wait_for_sending(S);
    lone.sent();
    lone.window = 1;
    lone.put(0, ACK, &[]);
    assert!(lone.sent_one().0.flags.fin);
}

#[test]
fn the_user_timeout_ends_what_stays_unacknowledged() {
    let mut lone = Lone::new(true);
    lone.tcp.set_user_timeout(Some(5 * S));
    lone.advance(20 * S);
    assert_eq!(lone.tcp.error(), None);
    let start = lone.now;
    lone.write(10);
    while lone.tcp.error().is_none() {
        lone.sent();
        lone.wait(5 * S);
    }
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::TimedOut));
    assert_eq!(lone.now.since(start), 5 * S);
}

#[test]
fn keepalive_probes_and_ends() {
    let mut lone = Lone::new(true);
    lone.tcp.set_keepalive(Some(100 * S), lone.now);
    assert_eq!(lone.wait_for_sending(100 * S), 100 * S);
    assert_eq!(lone.sent_one().0.seq, OURS);
    lone.put(0, ACK, &[]);
    assert_eq!(lone.wait_for_sending(110 * S), 100 * S);
    lone.sent();
    let start = lone.now;
    let mut probes = 0;
    while lone.tcp.error().is_none() {
        lone.wait(10 * S);
        probes += lone.sent().len();
    }
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::TimedOut));
    assert_eq!((probes, lone.now.since(start)), (9, 90 * S));
}

#[test]
fn a_smaller_path_mtu_cuts_what_is_in_flight() {
    let mut lone = Lone::new(true);
    lone.write(5 * FULL);
    assert_eq!(lone.sent_data(), full(0..5));
    // Not for something that is not in flight.
    lone.tcp.path_mtu(OURS.wrapping_add(100_000), 520, lone.now);
    assert!(lone.sent_data().is_empty());
    lone.tcp.path_mtu(OURS.wrapping_add(1), 520, lone.now);
    let mut sent = lone.sent_data();
    lone.advance(20 * MS);
    let mut acked = 0;
    while acked < at(5) {
        for &(position, len) in &sent {
            assert!(len <= 488, "{len}");
            assert_eq!(position, acked);
            acked += len as u32;
        }
        lone.put_ack(0, acked, &[]);
        sent = lone.sent_data();
        assert!(!sent.is_empty() || acked == at(5));
    }
    lone.write(1000);
    assert_eq!(lone.sent_data()[0], (at(5), 488));
}

#[test]
fn buffers_are_released_and_an_idle_connection_waits_for_nothing() {
    let mut lone = Lone::new(true);
    lone.write(9000);
    lone.put(0, ACK, &[1; 100]);
    lone.sent();
    lone.put_ack(100, 9000, &[]);
    lone.read(1000).expect("data");
    assert!(lone.used() > 0);
    while lone.tcp.deadline().is_some() {
        lone.wait(2 * S);
        lone.sent();
    }
    assert_eq!((lone.used(), lone.tcp.memory()), (0, 0));
}

#[test]
fn a_writer_that_the_budget_refuses_tries_again() {
    let mut lone = Lone::new(true);
    lone.budget.limit.store(0, std::sync::atomic::Ordering::Relaxed);
    let result = lone.tcp.write(&|| lone.now, 100, &mut |_, _| unreachable!());
    assert_eq!(result.expect_err("no memory").kind(), io::ErrorKind::WouldBlock);
    assert!(!lone.tcp.readiness().writable);
    // It is told of memory: nothing is tried before.
    assert!(lone.tcp.wants_memory() && lone.tcp.deadline().is_none());
    lone.tcp.feed(lone.now);
    assert!(lone.tcp.wants_memory() && !lone.tcp.readiness().writable);
    lone.budget.limit.store(usize::MAX, std::sync::atomic::Ordering::Relaxed);
    lone.tcp.feed(lone.now);
    assert!(lone.tcp.readiness().writable && !lone.tcp.wants_memory());
    assert!(lone.used() > 0);
    lone.wait(2 * S);
    assert_eq!(lone.used(), 0, "it did not write");
    lone.write(100);
}

#[test]
fn a_writer_whose_buffer_may_not_grow_goes_on_with_an_ack() {
    let mut lone = Lone::new(true);
    lone.write(2048);
    let used = lone.used();
    lone.budget.limit.store(used, std::sync::atomic::Ordering::Relaxed);
    let result = lone.tcp.write(&|| lone.now, 100, &mut |_, _| unreachable!());
    assert_eq!(result.expect_err("no memory").kind(), io::ErrorKind::WouldBlock);
    assert!(!lone.tcp.readiness().writable && !lone.tcp.wants_memory());
    let sent = lone.sent_data().last().map_or(0, |&(position, len)| position + len as u32);
    lone.put_ack(0, sent, &[]);
    assert!(lone.tcp.readiness().writable);
    lone.write(100);
}

#[test]
fn idle_time_makes_the_window_small_again() {
    let mut lone = Lone::new(true);
    lone.write(64_000);
    let mut sent = 0;
    let mut written = 64_000;
    while written < 250_000 {
        lone.write(30_000);
        written += 30_000;
        sent = lone.sent_data().last().map_or(sent, |&(position, len)| position + len as u32);
        lone.advance(20 * MS);
        lone.put_ack(0, sent, &[]);
    }
    lone.write(50_000);
    written += 50_000;
    let rest = lone.sent_data();
    assert!(rest.len() > 30, "{}", rest.len());
    lone.put_ack(0, written, &[]);
    assert_eq!(lone.tcp.unacknowledged(), 0);
    lone.advance(60 * S);
    lone.write(100_000);
    assert_eq!(lone.sent_data().len(), 10);
}

#[test]
fn single_bytes_in_flight_are_bounded() {
    let mut lone = Lone::new(true);
    let mut segments = 0;
    for _ in 0..2000 {
        lone.write(1);
        segments += lone.sent_data().len();
    }
    assert_eq!(segments, 513, "and a full one");
    lone.advance(20 * MS);
    lone.put_ack(0, 512, &[]);
    assert_eq!(lone.sent_data(), [(1500, 500)]);
}
