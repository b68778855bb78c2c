//! Keys on the stack of the app's thread. To move a value leaves a copy behind that no destructor wipes, and computing with
//! a key spills parts of it; so what a function that handles keys had on the stack is wiped when it returns.

use std::hint::black_box;

/// Bytes of stack below the caller that are wiped: more than any of these functions reaches down, which tests/c/secrets.c
/// measures, in builds without optimization as well.
const DEPTH: usize = 48 * 1024;

/// Runs `body`, and then wipes the stack that it used. What it returns must not be secret.
pub(super) fn wiped<R>(body: impl FnOnce() -> R) -> R {
    let result = below(body);
    wipe();
    result
}

/// Has a frame of its own, in the place that [`wipe`] has afterwards.
#[inline(never)]
fn below<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[inline(never)]
fn wipe() {
    black_box(&mut [0_u8; DEPTH]);
}
