//! Threads that help with the cipher: packets of a peer keep their order and their counters, also during changes of
//! peers, sessions and the tunnel. Here they help at any load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "common/at_end.rs"]
mod at_end;
mod common;
#[path = "common/flood.rs"]
mod flood;
#[path = "common/several.rs"]
mod several;

use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

use flood::{Threads, flood, remove_and_add_again, star, until_each_has, wait_until};
use wg_embed::{
    bind::mem::{Action, MemNetwork},
    config::{PeerUpdate, Update},
    device::EndReason,
};

const fn threads(workers: usize) -> Threads {
    Threads { queues: 1, workers }
}

#[test]
fn each_peer_keeps_its_order() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 3, threads(workers));
        flood(&ends, |arrived, _| {
            until_each_has(&ends, arrived, 300);
            for end in &ends {
                wait_until("no worker has worked", || end.tunnel.workers_worked() > Duration::ZERO);
            }
        });
        for end in &ends {
            assert_eq!(end.count("in_replayed"), 0);
        }
    }
}

/// New sessions bring keepalives and staged packets into the midst of others.
#[test]
fn staged_packets_and_keepalives_keep_the_order() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 2, threads(workers));
        flood(&ends, |arrived, _| {
            for _ in 0..3 {
                until_each_has(&ends, arrived, 100);
                // The sessions end while packets are on their way; the next ones are staged.
                ends[0].tunnel.device().drop_session(None).unwrap();
                until_each_has(&ends, arrived, 100);
                // A new session while packets are on their way with the old one.
                ends[0].clock.advance(Duration::from_secs(6));
                ends[0].tunnel.device().force_handshake(None).unwrap();
                let mut peer = PeerUpdate::new(ends[1].key);
                peer.persistent_keepalive = Some(25);
                ends[0].tunnel.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
            }
        });
    }
}

#[test]
fn replays_are_not_delivered() {
    for workers in [1, 3] {
        let net = MemNetwork::new();
        let ends = star(&net, 2, threads(workers));
        let mut number = 0_u32;
        net.set_filter(move |datagram| {
            number += u32::from(datagram.payload[0] == 4);
            if datagram.payload[0] == 4 && number.is_multiple_of(3) { Action::Duplicate } else { Action::Deliver }
        });
        flood(&ends, |arrived, _| until_each_has(&ends, arrived, 300));
        ends.iter().for_each(|end| assert!(end.count("in_replayed") > 0));
    }
}

/// Its packets that wait to be sent are dropped, and with the last of them go its keys.
#[test]
fn a_peer_is_removed_under_load() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 3, threads(workers));
        flood(&ends, |arrived, _| {
            for _ in 0..5 {
                until_each_has(&ends, arrived, 100);
                remove_and_add_again(&ends, arrived);
            }
        });
    }
}

#[test]
fn nothing_is_sent_during_a_pause() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 2, threads(workers));
        flood(&ends, |arrived, _| {
            for _ in 0..5 {
                until_each_has(&ends, arrived, 100);
                ends[0].tunnel.pause();
                let before = ends[0].bind.sends.load(SeqCst);
                thread::sleep(Duration::from_millis(5));
                assert_eq!(ends[0].bind.sends.load(SeqCst), before, "sent during a pause");
                ends[0].tunnel.resume().unwrap();
            }
        });
    }
}

#[test]
fn a_tunnel_is_stopped_under_load() {
    for workers in [1, 3] {
        for round in 0..5 {
            let ends = star(&MemNetwork::new(), 2, threads(workers));
            flood(&ends, |arrived, _| {
                until_each_has(&ends, arrived, 50 + round);
                ends[0].tunnel.stop().unwrap();
            });
            assert_eq!(ends[0].tunnel.wait(), EndReason::Stopped);
        }
    }
}

/// Whichever thread it happens on.
#[test]
fn a_panic_of_the_app_ends_the_tunnel() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 2, threads(workers));
        flood(&ends, |arrived, _| {
            until_each_has(&ends, arrived, 100);
            ends[0].bind.panics.store(true, SeqCst);
            assert_eq!(ends[0].tunnel.wait(), EndReason::Panicked);
            ends[0].tunnel.stop().unwrap();
        });
    }
}

/// Memory for their jobs is taken from that of the tunnel, and given back.
#[test]
fn memory_of_the_jobs_is_released() {
    let ends = star(&MemNetwork::new(), 2, threads(1));
    let before = ends[0].tunnel.memory_usage().buffers;
    flood(&ends, |arrived, _| until_each_has(&ends, arrived, 100));
    let during = ends[0].tunnel.memory_usage();
    assert!(during.buffers > before && during.buffers <= during.limit, "{before}, then {during:?}");
    wait_until("the memory is released", || {
        ends[0].tunnel.trim();
        ends[0].tunnel.memory_usage().buffers < before
    });
}
