//! Replays what the Linux kernel's WireGuard was recorded to do, and checks that ours does the same, in the same order,
//! at the same times. `tests/vectors/traces/README.md` says what the recordings are and what each one shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod notices;
mod peer;
mod replay;
mod trace;

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use trace::Trace;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/traces")
}

/// Reads the recording `name`.
fn read(name: &str, until: u64) -> Trace {
    let path = directory().join(format!("{name}.trace"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Trace::parse(name, &text, Duration::from_secs(until)).unwrap_or_else(|why| panic!("{why}"))
}

/// A test for each recording. The number says until when the recorder listened (the last `run.at` of its scenario in
/// `tests/kernel/scenarios.py`): there is silence from the last line up to then.
macro_rules! traces {
    ($($name:ident $($until:literal)?,)*) => {
        $(#[test]
        fn $name() {
            let trace = read(&stringify!($name).replace('_', "-"), 0 $(+ $until)?);
            replay::replay(&trace).unwrap_or_else(|why| panic!("{why}"));
        })*

        const TRACES: &[&str] = &[$(stringify!($name)),*];
    };
}

traces! {
    cookie_reply 10,
    counter_limit 20,
    expiry 202,
    expiry_responder 205,
    handshake_cross 20,
    handshake_cross_answered 20,
    idle_after_data 205,
    keepalive_edits 70,
    keepalive_peer_gone 150,
    keepalive_staged 230,
    key_change 25,
    lastminute_initiator,
    lastminute_keepalives,
    link_down_up 28,
    no_endpoint 20,
    one_way_in 80,
    one_way_in_two 45,
    one_way_out 205,
    one_way_out_answered 60,
    padding 9,
    peer_restart 18,
    persistent_keepalive_idle 205,
    persistent_keepalive_traffic 60,
    previous_session 14,
    psk_change 50,
    rate_limit 22,
    rekey_initiator,
    rekey_responder,
    replay 14,
    response_late 20,
    retry_silence 137,
    retry_silence_keepalive 205,
    retry_with_traffic 135,
    roaming 18,
    staged_overflow 8,
    unconfirmed_never 20,
    unconfirmed_responder 20,
}

#[test]
fn every_recording_is_replayed() {
    let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<_> = entries.filter_map(|name| name.strip_suffix(".trace").map(str::to_owned)).collect();
    let tested: BTreeSet<_> = TRACES.iter().map(|name| name.replace('_', "-")).collect();
    assert_eq!(tested, files);
}
