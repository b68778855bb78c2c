//! The userspace daemon.
fn main() {}
