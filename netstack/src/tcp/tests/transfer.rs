//! Data arrive, whatever the path does.

use std::{sync::atomic::Ordering, time::Duration};

use super::{super::Config, path::Path};

const MS: Duration = Duration::from_millis(1);

#[test]
fn bytes_arrive_in_both_directions() {
    let mut path = Path::new(20 * MS).rate(12_500_000, 256 << 10);
    (path.b_writes, path.b_finishes) = (3_000_001, true);
    (path.a.to_write, path.a.then_finish) = (2_000_003, true);
    let done =
        path.run_until(Duration::from_secs(60), |path| path.a.at_end && path.b.as_ref().is_some_and(|b| b.at_end));
    assert!(done);
    assert_eq!(path.a.received, 3_000_001);
    assert_eq!(path.b().received, 2_000_003);
}

#[test]
fn bytes_arrive_over_a_bad_path() {
    for seed in 0..20 {
        let mut path = Path::new(20 * MS).rate(5_000_000, 100_000).loss(30_000, seed).reorder(50_000, 3 * MS);
        path.back.loss = 30_000;
        (path.b_writes, path.b_finishes) = (300_001, true);
        (path.a.to_write, path.a.then_finish) = (500_003, true);
        let done =
            path.run_until(Duration::from_secs(600), |path| path.a.at_end && path.b.as_ref().is_some_and(|b| b.at_end));
        assert!(done, "seed {seed}: {} {:?}", path.a.received, path.b.as_ref().map(|b| b.received));
        assert_eq!(path.a.received, 300_001);
        assert_eq!(path.b().received, 500_003);
    }
}

#[test]
fn bytes_arrive_without_options() {
    for options in 0..8u64 {
        let mut path = Path::new(10 * MS).rate(5_000_000, 60_000).loss(20_000, options).reorder(20_000, 2 * MS);
        path.back.loss = 20_000;
        path.strip = [options & 1 != 0, options & 2 != 0, options & 4 != 0];
        (path.b_writes, path.b_finishes) = (200_001, true);
        (path.a.to_write, path.a.then_finish) = (200_003, true);
        let done =
            path.run_until(Duration::from_secs(600), |path| path.a.at_end && path.b.as_ref().is_some_and(|b| b.at_end));
        assert!(done, "{:?}: {} {:?}", path.strip, path.a.received, path.b.as_ref().map(|b| b.received));
        assert_eq!((path.a.received, path.b().received), (200_001, 200_003));
    }
}

#[test]
fn sizes_around_every_border() {
    let borders = [1, 1368, 2 * 1368, 2048, 4096, 13_680, 65_535, 65_536, 131_072, 262_144];
    for border in borders {
        for size in border - 1..=border + 1 {
            let mut path = Path::new(MS).connect();
            (path.a.to_write, path.a.then_finish) = (size, true);
            assert!(path.run_until(Duration::from_secs(60), |path| path.b().at_end), "{size}");
            assert_eq!(path.b().received, size);
        }
    }
}

#[test]
fn small_buffers_are_enough() {
    let small = Config { max_segment: 1400, path_segment: 1400, receive_buffer: 3000, send_buffer: 2000 };
    let mut path = Path::with(small.clone(), small, 2 * MS);
    (path.b_writes, path.b_finishes) = (100_001, true);
    (path.a.to_write, path.a.then_finish) = (100_003, true);
    let done =
        path.run_until(Duration::from_secs(600), |path| path.a.at_end && path.b.as_ref().is_some_and(|b| b.at_end));
    assert!(done, "{} {:?}", path.a.received, path.b.as_ref().map(|b| b.received));
}

#[test]
fn a_reader_that_stops_takes_no_more_memory() {
    let mut path = Path::new(20 * MS).rate(25_000_000, 1 << 20);
    path.b_reads = false;
    path.a.to_write = 20_000_000;
    path.run_for(Duration::from_secs(300));
    assert_eq!(path.a.tcp.error(), None, "it answers, so it is not given up");
    let memory = path.b().budget.used.load(Ordering::Relaxed);
    assert!(memory <= 65_536 + 1400, "{memory}");
    let memory = path.a.budget.used.load(Ordering::Relaxed);
    assert!(memory <= 1 << 20, "{memory}");
    path.b().reads = true;
    path.a.then_finish = true;
    assert!(path.run_until(Duration::from_secs(120), |path| path.b().at_end));
    assert_eq!(path.b().received, 20_000_000);
}

#[test]
fn the_window_grows_with_the_path() {
    let mut path = Path::new(80 * MS).rate(25_000_000, 1_250_000).connect();
    path.goodput(30 << 20);
    // The product of rate and delay is 2 MB.
    let memory = path.a.budget.used.load(Ordering::Relaxed);
    assert!((2_000_000..=4 << 20).contains(&memory), "{memory}");
    path.run_for(Duration::from_secs(5));
    assert_eq!(path.a.budget.used.load(Ordering::Relaxed), 0);
    assert_eq!(path.b().budget.used.load(Ordering::Relaxed), 0);
    assert_eq!((path.a.tcp.deadline(), path.b().tcp.deadline()), (None, None), "nothing is waited for");
}

#[test]
fn an_outage_is_survived() {
    let mut path = Path::new(20 * MS).rate(5_000_000, 100_000).connect();
    path.a.to_write = 3_000_000;
    path.run_for(Duration::from_millis(200));
    (path.forth.cut, path.back.cut) = (true, true);
    path.run_for(Duration::from_secs(30));
    (path.forth.cut, path.back.cut) = (false, false);
    assert!(path.run_until(Duration::from_secs(60), |path| path.b().received == 3_000_000));
}

#[test]
fn a_delay_that_jumps_makes_no_storm() {
    let mut path = Path::new(20 * MS).rate(25_000_000, 1_250_000).connect();
    path.a.to_write = 30_000_000;
    path.run_for(Duration::from_millis(500));
    (path.forth.delay, path.back.delay) = (500 * MS, 500 * MS);
    assert!(path.run_until(Duration::from_secs(120), |path| path.b().received == 30_000_000));
    let sent = path.forth.bytes;
    assert!(sent < 33_000_000, "{sent} bytes for 30 MB");
}
