//! What one tunnel seals and opens in one direction, on one processor and on two, without a second machine: the network
//! is a bind that discards what is sent, or repeats datagrams that were sealed before; the interface is one that always
//! has packets, or discards them.
//!
//! `cargo bench --bench multi_core`, or for one direction only, so that a profiler can count the cost of its packets,
//! `... -- sealing|opening PROCESSORS WORKERS [QUEUES]`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

#[cfg(target_os = "linux")]
#[path = "multi_core/ends.rs"]
mod ends;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: it needs Linux to choose the processors");
}

#[cfg(target_os = "linux")]
fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.len() >= 3 { run::one(&arguments) } else { run::all() }
}

#[cfg(target_os = "linux")]
mod run {
    use std::{sync::Arc, thread, time::Duration};

    use wg_embed::{
        config::{AllowedIpUpdate, PeerUpdate, Update},
        device::{Options, Tunnel},
        key::PrivateKey,
        random::SystemRandom,
    };

    use super::ends::{Inside, Outside, PACKET};

    /// How often is measured.
    const PERIODS: usize = 5;

    /// The numbers of packets that are sealed and opened each time.
    const SEALED: u64 = 300_000;
    const OPENED: usize = 300_000;

    /// The number of packets that are opened before, while workers begin to help.
    const BEFORE: usize = 100_000;

    #[derive(Clone, Copy)]
    enum Direction {
        Sealing,
        Opening,
    }

    /// Measures one direction as the command line says.
    pub(super) fn one(arguments: &[String]) {
        let direction = if arguments[0] == "opening" { Direction::Opening } else { Direction::Sealing };
        let [processors, workers, queues] = [1, 2, 3].map(|i| arguments.get(i).map_or(1, |n| n.parse().unwrap()));
        println!("{:.3}", measure(direction, processors, workers, queues));
    }

    pub(super) fn all() {
        println!("packets of {PACKET} bytes, many flows of one peer; million packets a second, median of {PERIODS}");
        for (name, direction) in [("sealing", Direction::Sealing), ("opening", Direction::Opening)] {
            let one = measure(direction, 1, 0, 1);
            println!("{name:8} 1 processor, no worker    {one:.3}");
            for (processors, workers) in [(1, 1), (2, 0), (2, 1), (2, 2)] {
                let speed = measure(direction, processors, workers, 1);
                println!("{name:8} {processors} processors, {workers} workers  {speed:.3}   ratio {:.2}", speed / one);
            }
        }
        let one = measure(Direction::Sealing, 1, 0, 1);
        for (processors, workers, queues) in [(1, 0, 2), (2, 0, 2), (2, 0, 4), (2, 1, 2)] {
            let speed = measure(Direction::Sealing, processors, workers, queues);
            let threads = format!("{processors} processors, {workers} workers, {queues} queues");
            println!("sealing  {threads}  {speed:.3}   ratio {:.2}", speed / one);
        }
    }

    /// Returns the speed of one direction, in million packets a second.
    fn measure(direction: Direction, processors: usize, workers: usize, queues: usize) -> f64 {
        allow_processors(processors);
        let (own, theirs) = (PrivateKey::generate_with(&SystemRandom), PrivateKey::generate_with(&SystemRandom));
        let inside = Arc::new(Inside::new(queues));
        let outside = Arc::new(Outside::new(own.public_key(), theirs.clone()));
        let options = Options { workers: Some(workers), ..Options::default() };
        let tunnel = Tunnel::start(inside.clone(), outside.clone(), options).unwrap();
        let mut peer = PeerUpdate::new(theirs.public_key());
        peer.endpoint = Some(std::net::SocketAddr::from(([192, 0, 2, 1], 1)).into());
        peer.allowed_ips = vec![AllowedIpUpdate::add("0.0.0.0/0".parse().unwrap())];
        tunnel.apply(Update { private_key: Some(Some(own)), peers: vec![peer], ..Update::default() }).unwrap();
        tunnel.up().unwrap();
        tunnel.device().force_handshake(None).unwrap();
        outside.wait_for_session();
        let mut speeds: Vec<f64> = match direction {
            Direction::Sealing => sealing(&inside, &outside),
            Direction::Opening => (0..PERIODS).map(|_| opening(&inside, &outside)).collect(),
        };
        tunnel.stop().unwrap();
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    }

    fn sealing(inside: &Inside, outside: &Outside) -> Vec<f64> {
        inside.supply(true);
        let seal = || {
            let (began, before) = (std::time::Instant::now(), outside.sent());
            while outside.sent() < before + SEALED {
                thread::sleep(Duration::from_millis(1));
            }
            (outside.sent() - before) as f64 / began.elapsed().as_secs_f64() / 1e6
        };
        // Workers begin to help.
        seal();
        let speeds = (0..PERIODS).map(|_| seal()).collect();
        inside.supply(false);
        speeds
    }

    fn opening(inside: &Inside, outside: &Outside) -> f64 {
        outside.seal(BEFORE + OPENED);
        let [began, ended] = inside.time([BEFORE, BEFORE + OPENED], || outside.replay());
        OPENED as f64 / (ended - began).as_secs_f64() / 1e6
    }

    /// Restricts this thread, and those that it starts, to the first processors.
    #[allow(unsafe_code)]
    fn allow_processors(number: usize) {
        // SAFETY: a set of processors is an array of integers.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for n in 0..number {
            // SAFETY: `n` is less than the number of processors in a set.
            unsafe { libc::CPU_SET(n, &mut set) };
        }
        // SAFETY: the set is passed with its size, and lives.
        let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
        assert_eq!(result, 0, "cannot choose {number} processors: {}", std::io::Error::last_os_error());
    }
}
