//! How often a key is in the memory of a process: once for each object that needs it, and never elsewhere.
//!
//! Two tunnels run in a process of their own. This one configures them through their control sockets, knows every
//! secret they have, as they take their randomness from `subject.rs`, and searches all memory that they can write to.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on should stop where it is")]

mod memory;
mod secrets;
mod stack;
mod subject;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use memory::Found;
use secrets::{Secrets, hex};
use subject::Subject;
use wg_embed::key::PrivateKey;

/// Only a test that hangs reaches it.
const LIMIT: Duration = Duration::from_secs(300);

/// Searches until what is there is `allowed`, as threads may be on their way to sleep.
fn expect(subject: &Subject, stage: &str, secrets: &Secrets, allowed: impl Fn(&str) -> usize) {
    let began = Instant::now();
    loop {
        let found = memory::search(subject.id(), &secrets.0);
        let wrong = explain(&found, &allowed);
        if wrong.is_empty() {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{stage}:\n{wrong}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What is elsewhere than on the heap, or not there as often as it should be.
fn explain(found: &[Found<'_>], allowed: &impl Fn(&str) -> usize) -> String {
    let mut wrong = String::new();
    let mut copies = BTreeMap::<&str, Vec<&Found<'_>>>::new();
    for one in found {
        copies.entry(one.secret).or_default().push(one);
    }
    for (secret, places) in copies {
        let number: usize = places.iter().map(|place| place.copies).sum();
        if number > allowed(secret) || places.iter().any(|place| place.is_stack) {
            writeln!(wrong, "  {secret}: {number}, allowed {}", allowed(secret)).unwrap();
            for place in places {
                writeln!(wrong, "    {} in {}", place.copies, place.region).unwrap();
            }
        }
    }
    wrong
}

#[test]
fn a_key_is_where_it_is_needed_and_nowhere_else() {
    let mut subject = Subject::start();
    let (a, b, psk) = (secrets::random(b"a"), secrets::random(b"b"), secrets::random(b"psk"));
    let public = |key| hex(PrivateKey::from_bytes(key).public_key().as_bytes());
    let secrets = Secrets::of_handshakes(&a, &b, &psk);
    let peer = |key, more: &str| format!("public_key={}\npreshared_key={}\n{more}\n", public(key), hex(&psk));

    subject.set("b", &format!("private_key={}\n", hex(&b)));
    expect(&subject, "with a private key", &secrets, |secret| usize::from(secret == "private b"));

    let port = subject.get("b").lines().find_map(|line| line.strip_prefix("listen_port=")).unwrap().to_owned();
    subject.set("b", &peer(a, "allowed_ip=10.0.0.1/32"));
    // What is read and made behind a key must not take along what was left of it. Addresses have bytes without a use.
    let of_b = peer(b, &format!("endpoint=127.0.0.1:{port}\nallowed_ip=10.0.0.2/32"));
    let more: String = (1..=9)
        .map(|n| format!("public_key={}\nendpoint=192.0.2.{n}:9\nallowed_ip=192.0.2.{n}/32\n", hex(&[n; 32])))
        .collect();
    subject.set("a", &format!("private_key={}\n{more}{of_b}{more}", hex(&a)));
    expect(&subject, "with peers", &secrets, |secret| match secret {
        "private a" | "private b" => 1,
        "preshared" => 2,
        _ => 0,
    });

    subject.exchange();
    let found = memory::search(subject.id(), &secrets.0);
    let sessions = found.iter().filter(|one| one.secret.starts_with("session")).count();
    assert!(sessions >= 2, "the keys of the session are not those that were computed here");
    let in_use = |secret: &str| match secret {
        "private a" | "private b" => 1,
        "preshared" | "static" => 2,
        secret if secret.starts_with("session") => 2,
        _ => 0,
    };
    expect(&subject, "with a session", &secrets, in_use);
    // The answers are read into this process.
    drop((subject.get("a"), subject.get("b")));
    expect(&subject, "after a look at the configuration", &secrets, in_use);

    subject.renew();
    expect(&subject, "after a rest", &secrets, in_use);
    subject.exchange();
    expect(&subject, "with another session", &secrets, in_use);

    subject.set("a", &format!("private_key={}\n", hex(&[0; 32])));
    subject.set("b", "replace_peers=true\n");
    // The sessions of a key that is gone still receive.
    expect(&subject, "without them", &secrets, |secret| match secret {
        "private b" | "preshared" => 1,
        secret if secret.starts_with("session") => 1,
        _ => 0,
    });
    subject.stop();
    expect(&subject, "with the tunnels off", &secrets, |_| 0);
}
