//! Ends.

use std::{io, net::Shutdown, sync::atomic::Ordering, time::Duration};

use super::{
    lone::{ACK, FIN, Lone, OURS, PEER, RST},
    path::Path,
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn both_ends_close_in_order() {
    let mut path = Path::new(20 * MS);
    (path.a.to_write, path.a.then_finish) = (10_000, true);
    (path.b_writes, path.b_finishes) = (10_000, true);
    path.run_for(5 * S);
    assert!(path.a.at_end && path.b().at_end);
    assert!(path.a.tcp.is_closed() && path.b().tcp.is_closed());
    assert_eq!((path.a.tcp.error(), path.b().tcp.error()), (None, None));
    assert!(path.a.tcp.time_wait().is_some() || path.b().tcp.time_wait().is_some());
    assert_eq!(path.a.budget.used.load(Ordering::Relaxed), 0);
    assert_eq!(path.b().budget.used.load(Ordering::Relaxed), 0);
    assert_eq!(path.a.tcp.deadline(), None);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut path = Path::new(20 * MS);
    (path.a.to_write, path.a.then_finish) = (10_000, true);
    path.run_for(S);
    assert!(path.b().at_end && !path.a.at_end);
    assert!(!path.a.tcp.is_closed() && !path.b().tcp.is_closed());
    let readiness = path.a.tcp.readiness();
    assert!(readiness.write_closed && !readiness.read_closed);
    let now = path.now;
    let error = path.a.tcp.write(&|| now, 1, &mut |_, _| 1).expect_err("shut down");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    // The other direction goes on, for longer than any timer.
    path.run_for(300 * S);
    (path.b().to_write, path.b().then_finish) = (1_000_000, true);
    path.run_for(10 * S);
    assert_eq!((path.a.received, path.a.at_end), (1_000_000, true));
    assert!(path.a.tcp.is_closed() && path.a.tcp.time_wait().is_some());
    assert!(path.b().tcp.is_closed() && path.b().tcp.time_wait().is_none());
}

#[test]
fn a_lost_fin_is_repeated() {
    let mut path = Path::new(20 * MS).connect();
    path.run_for(S);
    path.forth.cut = true;
    path.a.then_finish = true;
    path.run_for(100 * MS);
    path.forth.cut = false;
    assert!(path.run_until(5 * S, |path| path.b().at_end));
}

#[test]
fn both_fins_may_cross() {
    let mut lone = Lone::new(true);
    lone.tcp.shutdown(Shutdown::Write, lone.now).expect("open");
    assert!(lone.sent_one().0.flags.fin);
    lone.put(0, FIN, &[]);
    let (header, _) = lone.sent_one();
    assert_eq!(header.ack, PEER.wrapping_add(2));
    assert!(!lone.tcp.is_closed());
    lone.put_ack(1, 1, &[]);
    assert!(lone.tcp.is_closed());
    let time_wait = lone.tcp.time_wait().expect("TIME-WAIT");
    assert_eq!((time_wait.seq, time_wait.ack), (OURS.wrapping_add(2), PEER.wrapping_add(2)));
}

#[test]
fn our_fin_acknowledges_the_peers() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[1; 10]);
    lone.put(10, FIN, &[]);
    assert!(lone.sent().is_empty());
    lone.advance(MS);
    assert_eq!(lone.read(100).expect("data").len(), 10);
    assert!(lone.sent().is_empty());
    lone.tcp.shutdown(Shutdown::Write, lone.now).expect("open");
    let (header, _) = lone.sent_one();
    assert_eq!((header.flags.fin, header.ack), (true, PEER.wrapping_add(12)));
    lone.put_ack(11, 1, &[]);
    assert!(lone.tcp.is_closed() && lone.tcp.error().is_none());
}

#[test]
fn without_our_fin_the_peers_is_acknowledged_later() {
    // With and without data before it, which alone would be acknowledged after 40 ms.
    for data in [0, 10] {
        let mut lone = Lone::new(true);
        lone.put(0, ACK, &vec![1; data as usize]);
        lone.put(data, FIN, &[]);
        assert_eq!(lone.wait(40 * MS), 10 * MS);
        assert_eq!(lone.sent_one().0.ack, PEER.wrapping_add(2 + data));
        // Our ACK was lost.
        lone.put(data, FIN, &[]);
        assert_eq!(lone.sent_one().0.ack, PEER.wrapping_add(2 + data));
        lone.tcp.shutdown(Shutdown::Write, lone.now).expect("open");
        assert!(lone.sent_one().0.flags.fin);
    }
}

#[test]
fn time_wait_keeps_what_was_not_read() {
    let mut lone = Lone::new(true);
    lone.tcp.shutdown(Shutdown::Write, lone.now).expect("open");
    lone.sent();
    lone.acked = 1;
    lone.put(0, FIN, &[5; 100]);
    assert!(!lone.tcp.is_closed(), "the FIN is not acknowledged yet");
    lone.sent();
    assert!(lone.tcp.is_closed() && lone.tcp.time_wait().is_some());
    assert_eq!(lone.read(1000).expect("data"), [5; 100]);
    assert_eq!(lone.read(1000).expect("the end").len(), 0);
    assert_eq!(lone.used(), 0);
}

#[test]
fn a_dropped_connection_still_delivers_and_then_ends() {
    let mut lone = Lone::new(true);
    lone.write(100);
    lone.tcp.close(lone.now);
    let (header, len) = lone.sent_one();
    assert_eq!((header.flags.fin, len), (true, 100));
    lone.put_ack(0, 101, &[]);
    assert!(!lone.tcp.is_closed());
    lone.advance(59 * S);
    assert!(!lone.tcp.is_closed());
    lone.advance(S);
    assert!(lone.tcp.is_closed());
    assert_eq!(lone.tcp.deadline(), None);
}

#[test]
fn what_comes_for_a_dropped_connection_is_reset() {
    let mut lone = Lone::new(true);
    lone.tcp.close(lone.now);
    lone.sent();
    lone.acked = 1;
    lone.put(0, ACK, &[1; 10]);
    let (header, _) = lone.sent_one();
    assert!(header.flags.rst);
    assert_eq!(header.seq, OURS.wrapping_add(2));
    assert!(lone.tcp.is_closed());
}

#[test]
fn without_a_reader_the_reset_comes_after_what_was_written() {
    let mut lone = Lone::new(true);
    lone.tcp.shutdown(Shutdown::Read, lone.now).expect("open");
    lone.put(0, ACK, &[1; 10]);
    lone.write(100);
    lone.tcp.close(lone.now);
    let sent = lone.sent();
    assert!(sent.iter().any(|(header, _)| header.flags.fin) && !sent.iter().any(|(header, _)| header.flags.rst));
    // The same data again, and new data.
    lone.put(0, ACK, &[1; 10]);
    lone.put(10, ACK, &[1; 10]);
    assert!(lone.sent().iter().all(|(header, _)| !header.flags.rst));
    lone.put_ack(20, 100, &[]);
    assert!(lone.sent_one().0.flags.rst);
    assert!(lone.tcp.is_closed());

    // Without new data it ends in order.
    let mut lone = Lone::new(true);
    lone.tcp.shutdown(Shutdown::Read, lone.now).expect("open");
    lone.put(0, ACK, &[1; 10]);
    lone.tcp.close(lone.now);
    lone.sent();
    lone.acked = 1;
    lone.put(0, ACK, &[1; 10]);
    lone.put(10, FIN, &[]);
    assert!(lone.sent().iter().all(|(header, _)| !header.flags.rst));
    assert!(lone.tcp.is_closed() && lone.tcp.time_wait().is_some());
}

#[test]
fn unread_data_make_a_drop_a_reset() {
    let mut lone = Lone::new(true);
    lone.put(0, ACK, &[1; 10]);
    lone.tcp.close(lone.now);
    assert!(!lone.tcp.is_closed());
    assert!(lone.sent_one().0.flags.rst);
    assert!(lone.tcp.is_closed());
    assert_eq!(lone.used(), 0);
}

#[test]
fn a_reset_is_the_last_segment() {
    let mut lone = Lone::new(true);
    lone.write(5000);
    lone.tcp.reset(lone.now);
    assert!(!lone.tcp.is_closed());
    assert!(lone.sent_one().0.flags.rst);
    assert!(lone.tcp.is_closed());
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::ConnectionAborted));
    lone.put(0, ACK, &[1; 10]);
    assert!(lone.sent().is_empty());
}

#[test]
fn an_abort_sends_nothing() {
    let mut lone = Lone::new(true);
    lone.write(5000);
    lone.put(0, ACK, &[1; 10]);
    lone.tcp.abort(io::ErrorKind::ConnectionAborted);
    assert!(lone.sent().is_empty() && lone.tcp.is_closed());
    assert_eq!(lone.read(10).expect_err("aborted").kind(), io::ErrorKind::ConnectionAborted);
    assert_eq!(lone.used(), 0);
}

#[test]
fn a_reset_after_both_fins_is_no_error() {
    let mut lone = Lone::new(true);
    lone.put(0, FIN, &[]);
    lone.tcp.shutdown(Shutdown::Write, lone.now).expect("open");
    lone.sent();
    lone.put(1, RST, &[]);
    assert!(lone.tcp.is_closed());
    assert_eq!(lone.tcp.error(), None);
}

#[test]
fn a_dial_that_is_dropped_ends_at_once() {
    let mut path = Path::new(20 * MS);
    path.settle();
    let now = path.now;
    path.a.tcp.close(now);
    assert!(path.a.tcp.is_closed());
}

#[test]
fn shutting_down_a_dial_ends_it_after_the_handshake() {
    let mut path = Path::new(20 * MS);
    let now = path.now;
    path.a.tcp.shutdown(Shutdown::Write, now).expect("open");
    path.run_for(S);
    assert!(path.b().at_end && path.a.tcp.is_established());
    path.b().then_finish = true;
    path.run_for(S);
    assert!(path.a.tcp.is_closed() && path.a.tcp.time_wait().is_some() && path.b().tcp.is_closed());
}
