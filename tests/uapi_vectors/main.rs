//! Runs `tests/vectors/uapi` against ours and, where there is one, against a real wireguard-go.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod model;
mod script;
#[cfg(target_os = "linux")]
mod wireguard_go;

#[cfg(target_os = "linux")]
use std::io::Write;

/// Something that answers requests. Each has a connection of its own, whose sending side is closed behind the request.
trait Target {
    fn exchange(&mut self, request: &[u8]) -> Vec<u8>;
}

#[test]
fn ours_answers_as_written() {
    println!("{} cases", script::run_all("ours", &mut model::Model::default()));
}

#[cfg(target_os = "linux")]
#[test]
fn wireguard_go_answers_as_written() {
    // The network namespace that this enters is the thread's.
    let judge = std::thread::spawn(|| match wireguard_go::WireguardGo::start() {
        Ok(mut target) => println!("{} cases", script::run_all("wireguard-go", &mut target)),
        // Past the test harness, which would keep it to itself.
        Err(reason) => writeln!(std::io::stderr(), "wireguard_go_answers_as_written skipped: {reason}").unwrap(),
    });
    if let Err(panic) = judge.join() {
        std::panic::resume_unwind(panic);
    }
}
