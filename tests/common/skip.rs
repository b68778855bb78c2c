//! Why a test does not run here, said where it is seen: the harness keeps what a passing test prints to itself.
#![allow(dead_code, unreachable_pub, reason = "each test crate has it as a module of its own, some on Linux only")]

use std::{
    fmt::Display,
    io::{self, Write},
    thread,
};

/// Says that this test is skipped, and why. The harness names a test's thread after the test.
pub fn skipped(reason: impl Display) {
    let line = format!("{} skipped: {reason}\n", thread::current().name().unwrap_or("a test"));
    io::stderr().write_all(line.as_bytes()).unwrap();
}
