//! What every extern body runs inside.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    callback,
    handle::{self, Entry},
    log,
    result::{self, wg_result},
};
use crate::error::{Error, ErrorKind, Result};

/// Runs `body` with panics caught. Its failure is kept for `wg_last_error`, and comes back as a code.
fn run<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, wg_result> {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(caught()));
    outcome.map_err(|error| result::fail(&error))
}

fn caught() -> Error {
    // Without the panic's own text: it may quote what the caller passed, keys included.
    Error::new(ErrorKind::Panic, "internal error: a panic was caught")
}

/// A code, whether good or bad.
fn code(outcome: std::result::Result<(), wg_result>) -> wg_result {
    outcome.err().unwrap_or(wg_result::WG_OK)
}

/// For functions that neither wait nor log: they work inside a callback as well.
pub(super) fn guard_anywhere(body: impl FnOnce() -> Result<()>) -> wg_result {
    code(run(body))
}

/// For all other functions. A callback cannot call them: it would wait for itself.
pub(super) fn guard(body: impl FnOnce() -> Result<()>) -> wg_result {
    code(run(|| outside(body)))
}

/// As [`guard`], for functions that return a handle, or a negative code.
pub(super) fn guard_handle(body: impl FnOnce() -> Result<i32>) -> i32 {
    run(|| outside(body)).unwrap_or_else(|code| code as i32)
}

/// As [`guard`], for functions on one tunnel. A panic ends what can be done with it.
pub(super) fn guard_on(handle: i32, body: impl FnOnce(&Entry) -> Result<()>) -> wg_result {
    guard(|| {
        let entry = handle::get(handle)?;
        entry.check()?;
        entry.logged(|| {
            catch_unwind(AssertUnwindSafe(|| body(&entry))).unwrap_or_else(|_| {
                entry.poison();
                Err(caught())
            })
        })
    })
}

fn outside<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // First of all: inside a callback the log cannot be set up either.
    if callback::is_inside() {
        return Err(Error::new(ErrorKind::Busy, "this function cannot be called from inside a callback"));
    }
    log::logged(body)
}
