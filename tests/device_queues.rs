//! A TUN with several queues, each read by a thread of its own: packets of a queue keep their order, and those of a
//! peer their counters, also during changes of peers, sessions and the tunnel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "common/at_end.rs"]
mod at_end;
mod common;
#[path = "common/flood.rs"]
mod flood;
#[path = "common/several.rs"]
mod several;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use flood::{End, Threads, flood, remove_and_add_again, star, until_each_has, wait_until};
use several::Several;
use wg_embed::{
    ErrorKind,
    bind::{Bind, mem::MemNetwork},
    config::{PeerUpdate, Update},
    device::{EndReason, FIXED_MEMORY, Options, Tunnel},
    tun::mem::{MAX_QUEUED_BYTES, MemTun},
};

const WITH: [Threads; 4] = [
    Threads { queues: 2, workers: 0 },
    Threads { queues: 4, workers: 0 },
    Threads { queues: 2, workers: 1 },
    Threads { queues: 3, workers: 2 },
];

/// Waits until more packets have arrived at each end.
fn flows_on(ends: &[End], arrived: &[AtomicU64]) {
    until_each_has(ends, arrived, 100);
}

#[test]
fn each_queue_and_each_peer_keep_their_order() {
    for threads in WITH {
        let ends = star(&MemNetwork::new(), 3, threads);
        flood(&ends, |arrived, queues| {
            until_each_has(&ends, arrived, 500);
            let each = threads.queues as u64;
            wait_until("a queue is not read", || {
                queues.iter().zip([2 * each, each, each]).all(|(queues, all)| queues.load(SeqCst) == all)
            });
            for end in ends.iter().filter(|_| threads.workers > 0) {
                wait_until("no worker has worked", || end.tunnel.workers_worked() > Duration::ZERO);
            }
        });
        for end in &ends {
            assert_eq!(end.count("in_replayed"), 0);
            assert!(threads.workers > 0 || end.tunnel.workers_worked() == Duration::ZERO);
        }
    }
}

/// New sessions bring keepalives and staged packets into the midst of others.
#[test]
fn staged_packets_and_keepalives_keep_the_order() {
    for threads in WITH {
        let ends = star(&MemNetwork::new(), 2, threads);
        flood(&ends, |arrived, _| {
            for _ in 0..2 {
                flows_on(&ends, arrived);
                ends[0].tunnel.device().drop_session(None).unwrap();
                flows_on(&ends, arrived);
                ends[0].clock.advance(Duration::from_secs(6));
                ends[0].tunnel.device().force_handshake(None).unwrap();
                let mut peer = PeerUpdate::new(ends[1].key);
                peer.persistent_keepalive = Some(25);
                ends[0].tunnel.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
            }
        });
    }
}

/// With the last packet of it that waits to be sent, its keys are wiped.
#[test]
fn a_peer_is_removed_under_load() {
    for threads in WITH {
        let ends = star(&MemNetwork::new(), 3, threads);
        flood(&ends, |arrived, _| {
            for _ in 0..2 {
                flows_on(&ends, arrived);
                remove_and_add_again(&ends, arrived);
            }
        });
    }
}

/// And in a pause no key of a session is left; afterwards all queues are read again.
#[test]
fn nothing_is_sent_during_a_pause() {
    for threads in WITH {
        let ends = star(&MemNetwork::new(), 2, threads);
        flood(&ends, |arrived, _| {
            for _ in 0..2 {
                flows_on(&ends, arrived);
                let session = ends[0].tunnel.device().current_session(&ends[1].key).map(|s| Arc::downgrade(&s));
                ends[0].tunnel.pause();
                let before = ends[0].bind.sends.load(SeqCst);
                let is_gone = || session.as_ref().is_none_or(|session| session.strong_count() == 0);
                wait_until("the keys remain in a pause", is_gone);
                assert_eq!(ends[0].bind.sends.load(SeqCst), before, "sent during a pause");
                ends[0].tunnel.resume().unwrap();
            }
        });
        for (number, queue) in ends[0].tun.iter().enumerate() {
            let packet = common::ipv4(IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]), 90 + number);
            wait_until("a queue is read again", || {
                // The last handshake may have been lost, or be too early for another.
                ends[0].clock.advance(Duration::from_secs(1));
                ends.iter().for_each(|end| end.bind.wake());
                queue.inject(&packet);
                ends[1].tun[0].wait_written(Duration::from_millis(100)).contains(&packet)
            });
        }
    }
}

#[test]
fn a_tunnel_is_stopped_under_load() {
    for threads in WITH {
        for round in 0..2 {
            let ends = star(&MemNetwork::new(), 2, threads);
            flood(&ends, |arrived, _| {
                until_each_has(&ends, arrived, 50 + round);
                ends[0].tunnel.stop().unwrap();
            });
            assert_eq!(ends[0].tunnel.wait(), EndReason::Stopped);
        }
    }
}

#[test]
fn a_tunnel_is_stopped_in_a_pause_and_at_rest() {
    let ends = star(&MemNetwork::new(), 2, WITH[1]);
    ends[0].tunnel.pause();
    ends.iter().for_each(|end| end.tunnel.stop().unwrap());
}

/// Whichever thread it happens on.
#[test]
fn a_panic_of_the_app_ends_the_tunnel() {
    for threads in WITH {
        let ends = star(&MemNetwork::new(), 2, threads);
        flood(&ends, |arrived, _| {
            flows_on(&ends, arrived);
            ends[0].bind.panics.store(true, SeqCst);
            assert_eq!(ends[0].tunnel.wait(), EndReason::Panicked);
            ends[0].tunnel.stop().unwrap();
        });
    }
}

#[test]
fn the_end_of_one_queue_ends_the_tunnel() {
    for threads in WITH {
        let ends = star(&MemNetwork::new(), 2, threads);
        flood(&ends, |arrived, _| {
            flows_on(&ends, arrived);
            ends[0].tun[threads.queues - 1].remove();
            assert!(matches!(ends[0].tunnel.wait(), EndReason::Failed { .. }), "{:?}", ends[0].tunnel.wait());
        });
    }
}

/// Single packets, each of which wakes one thread that then finds nothing more.
#[test]
fn packets_that_come_singly_are_not_left_behind() {
    for threads in WITH {
        let ends = star(&MemNetwork::new(), 2, threads);
        for number in 1..200_u64 {
            let mut packet = common::ipv4(IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]), 1300);
            packet[20..28].copy_from_slice(&number.to_be_bytes());
            assert!(ends[0].tun[number as usize % threads.queues].inject(&packet));
            let mut arrived = Vec::new();
            wait_until("a packet is left behind", || {
                arrived.extend(ends[1].tun[0].wait_written(Duration::from_millis(100)));
                !arrived.is_empty()
            });
            assert!(arrived == [packet], "{number}");
        }
    }
}

/// With less than the buffers of all queues need, some would not be read.
#[test]
fn a_tunnel_needs_memory_for_its_queues() {
    let start = |memory| {
        let tuns: Vec<_> = (0..4).map(|_| MemTun::new("wg0", 1420).0).collect();
        let bind = MemNetwork::new().bind(IpAddr::from([192, 0, 2, 1]));
        Tunnel::start(Arc::new(Several::new(tuns)), bind, Options { memory, ..Options::default() })
    };
    // Each of these queues takes packets in memory of its own.
    let taken = FIXED_MEMORY + 4 * (MAX_QUEUED_BYTES + (1 << 20));
    let error = start(FIXED_MEMORY).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("4 queues take "), "{error}");
    start(taken + (2 << 20)).map(drop).unwrap();
}

#[test]
fn memory_of_the_jobs_is_released_and_taken_again() {
    let ends = star(&MemNetwork::new(), 2, WITH[0]);
    for _ in 0..2 {
        flood(&ends, |arrived, _| flows_on(&ends, arrived));
        let during = ends[0].tunnel.memory_usage();
        assert!(during.buffers > FIXED_MEMORY && during.buffers <= during.limit, "{during:?}");
        wait_until("the memory is released", || {
            ends[0].tunnel.trim();
            ends[0].tunnel.memory_usage().buffers < 100 << 10
        });
        thread::yield_now();
    }
}
