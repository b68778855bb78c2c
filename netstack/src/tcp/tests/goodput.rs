//! How fast a path is used, in simulated time: 200 Mbit/s with a queue of 50 ms.

use std::time::Duration;

use super::path::Path;

const MS: Duration = Duration::from_millis(1);
const RATE: u64 = 25_000_000;
const QUEUE: u64 = RATE / 20;

/// Mbit/s of `bytes`, the mean of several seeds. `loss` in parts of a million.
fn goodput(rtt: Duration, loss: u64, bytes: usize, change: impl Fn(&mut Path)) -> f64 {
    let seeds = if loss == 0 { 1 } else { 3 };
    let mean = (0..seeds)
        .map(|seed| {
            let mut path = Path::new(rtt).rate(RATE, QUEUE).loss(loss, 100 + seed).connect();
            change(&mut path);
            path.goodput(bytes) * 8.0 / 1e6
        })
        .sum::<f64>()
        / seeds as f64;
    println!("{rtt:?}, {loss} of a million: {mean:.1} Mbit/s");
    mean
}

#[test]
fn short_path() {
    assert!(goodput(MS, 0, 20 << 20, |_| {}) > 150.0);
    assert!(goodput(MS, 10_000, 10 << 20, |_| {}) > 40.0);
}

#[test]
fn path_of_20_ms() {
    assert!(goodput(20 * MS, 0, 30 << 20, |_| {}) > 150.0);
    assert!(goodput(20 * MS, 1000, 15 << 20, |_| {}) > 22.0);
    assert!(goodput(20 * MS, 10_000, 5 << 20, |_| {}) > 5.0);
}

#[test]
fn path_of_80_ms() {
    assert!(goodput(80 * MS, 0, 40 << 20, |_| {}) > 110.0);
    assert!(goodput(80 * MS, 1000, 10 << 20, |_| {}) > 5.3);
}

#[test]
fn a_shallow_queue() {
    assert!(goodput(20 * MS, 0, 30 << 20, |path| (path.forth.queue, path.back.queue) = (100_000, 100_000)) > 80.0);
}

#[test]
fn reordering() {
    // 2 % of the packets are 2 ms late.
    assert!(
        goodput(20 * MS, 0, 15 << 20, |path| {
            (path.forth.reorder, path.forth.late) = (20_000, 2 * MS);
        }) > 100.0
    );
}

#[test]
fn lost_acks() {
    assert!(goodput(20 * MS, 0, 15 << 20, |path| path.back.loss = 100_000) > 100.0);
}
