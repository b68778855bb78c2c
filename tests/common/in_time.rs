//! Waiting that ends: what is broken fails a test, and does not hang it.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

/// No step takes nearly as long, however busy the machine is. It bounds a hang, and nothing else.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Returns what `call` returns, or panics if it panics or has not come back at the limit.
pub fn in_time<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    within(LIMIT, call).unwrap_or_else(|| panic!("{what}: not within {LIMIT:?}"))
}

/// Returns how a process ends, and what it writes to its pipes until all that have them are gone. At the limit it is
/// killed, and the test fails.
pub fn end_of(child: Child) -> Output {
    end_within(LIMIT, child)
}

/// As [`end_of`], with another limit.
pub fn end_within(limit: Duration, child: Child) -> Output {
    let id = child.id();
    let outcome = within(limit, move || child.wait_with_output().unwrap());
    outcome.unwrap_or_else(|| {
        // It may be a child of it that has the pipes. Its own number is not given to another process before it is
        // collected, which comes after the end of the pipes.
        let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
        panic!("process {id} has not ended, or another one has its pipes, after {limit:?}")
    })
}

/// As [`Command::output`].
pub fn output_of(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map(end_of)
}

fn within<T: Send + 'static>(limit: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(catch_unwind(AssertUnwindSafe(call))));
    match outcome.recv_timeout(limit) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(panic)) => resume_unwind(panic),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
    }
}
