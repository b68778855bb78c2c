//! What every extern body runs inside.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    callback,
    handle::{self, Entry, Object},
    log,
    result::{self, wg_result},
};
use crate::error::{Error, ErrorKind, Result};

/// What a function does. It ends in a number, those without one in 0.
///
/// Behind a pointer, so that all that surrounds it is compiled once, and not again for each function.
type Body<'a> = &'a mut dyn FnMut() -> Result<i32>;

/// How a function ended, and the code of its failure.
///
/// cbindgen:ignore
// It takes each `Result` for that of `error.rs`, which has one parameter.
type Outcome = std::result::Result<i32, wg_result>;

/// Lets `body`, which is called once, be a [`Body`].
fn once(body: impl FnOnce() -> Result<i32>) -> impl FnMut() -> Result<i32> {
    let mut body = Some(body);
    move || body.take().map_or(Ok(0), |body| body())
}

/// Runs `body` with panics caught. Its failure is kept for `wg_last_error`, and comes back as a code.
fn run(body: Body<'_>) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(caught()));
    outcome.map_err(|error| result::fail(&error))
}

fn caught() -> Error {
    // Without the panic's own text: it may quote what the caller passed, keys included.
    Error::new(ErrorKind::Panic, "internal error: a panic was caught")
}

/// A code, whether good or bad.
fn code(outcome: Outcome) -> wg_result {
    outcome.err().unwrap_or(wg_result::WG_OK)
}

/// A number, or a code.
fn number(outcome: Outcome) -> i32 {
    outcome.unwrap_or_else(|code| code as i32)
}

/// For functions that neither wait nor log: they work inside a callback as well.
pub(super) fn guard_anywhere(body: impl FnOnce() -> Result<()>) -> wg_result {
    code(run(&mut once(|| body().map(|()| 0))))
}

/// For all other functions. A callback cannot call them: it would wait for itself.
pub(super) fn guard(body: impl FnOnce() -> Result<()>) -> wg_result {
    code(outside(&mut once(|| body().map(|()| 0))))
}

/// As [`guard`], for functions that return a number (a handle, how many, a descriptor), or a negative code.
pub(super) fn guard_number(body: impl FnOnce() -> Result<i32>) -> i32 {
    number(outside(&mut once(body)))
}

/// As [`guard`], for functions on one object.
pub(super) fn guard_on<T: Object>(handle: i32, body: impl FnOnce(&Entry<T>) -> Result<()>) -> wg_result {
    let mut body = Some(body);
    code(on(handle, &mut |entry| body.take().map_or(Ok(()), |body| body(entry)).map(|()| 0)))
}

/// As [`guard_number`], for functions on one object.
pub(super) fn guard_number_on<T: Object>(handle: i32, body: impl FnOnce(&Entry<T>) -> Result<i32>) -> i32 {
    let mut body = Some(body);
    number(on(handle, &mut |entry| body.take().map_or(Ok(0), |body| body(entry))))
}

/// A panic ends what can be done with the object.
fn on<T: Object>(handle: i32, body: &mut dyn FnMut(&Entry<T>) -> Result<i32>) -> Outcome {
    run(&mut || {
        refuse_inside()?;
        let entry = handle::get::<T>(handle)?;
        entry.check()?;
        entry.logged(|| {
            catch_unwind(AssertUnwindSafe(|| body(&entry))).unwrap_or_else(|_| {
                entry.poison();
                Err(caught())
            })
        })
    })
}

fn outside(body: Body<'_>) -> Outcome {
    run(&mut || {
        refuse_inside()?;
        log::logged(&mut *body)
    })
}

/// To be asked first of all: inside a callback the log cannot be set up either.
fn refuse_inside() -> Result<()> {
    if callback::is_inside() {
        return Err(Error::new(ErrorKind::Busy, "this function cannot be called from inside a callback"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{
        super::{
            result::{wg_last_error, wg_result::*},
            tunnel::{Running, wg_get_config, wg_set_config, wg_turn_off},
        },
        *,
    };
    use crate::{
        bind::mem::MemNetwork,
        device::{Options, Tunnel},
        tun::mem::MemTun,
    };
    use std::{ffi::CStr, net::Ipv4Addr, sync::Arc};

    fn last_error() -> String {
        // SAFETY: the text is this thread's, and there is no other call meanwhile.
        unsafe { CStr::from_ptr(wg_last_error()) }.to_str().unwrap().to_owned()
    }

    /// A tunnel over memory.
    fn handle() -> i32 {
        let (tun, _app) = MemTun::new("", 1420);
        let bind = MemNetwork::new().bind(Ipv4Addr::LOCALHOST.into());
        let tunnel = Tunnel::start(Arc::new(tun), bind, Options::default()).unwrap();
        let handle = handle::reserve().unwrap();
        handle::insert(
            handle,
            Entry::new(Running { tunnel, ended: Arc::default(), sockets: None }, log::dispatch_of(handle)),
        );
        handle
    }

    #[test]
    fn a_panic_becomes_a_code_and_its_text_stays_inside() {
        let codes = [
            guard(|| panic!("private_key=00")) as i32,
            guard_anywhere(|| panic!("private_key=00")) as i32,
            guard_number(|| panic!("private_key=00")),
        ];
        assert_eq!(codes, [WG_ERR_PANIC as i32; 3]);
        assert_eq!(last_error(), "internal error: a panic was caught");
    }

    #[test]
    fn a_panic_ends_what_can_be_done_with_a_tunnel_but_not_the_others() {
        let (broken, other) = (handle(), handle());
        // SAFETY: the text is constant.
        let set = |handle| unsafe { wg_set_config(handle, c"".as_ptr()) };
        let get = |handle| {
            let mut text = std::ptr::null_mut();
            // SAFETY: there is room for one pointer.
            let result = unsafe { wg_get_config(handle, &raw mut text) };
            // SAFETY: it is NULL or was just given.
            unsafe { super::super::wg_free(text.cast()) };
            result
        };
        assert_eq!([set(broken), get(broken)], [WG_OK; 2]);
        assert_eq!(guard_on::<Running>(broken, |_| panic!("a bug")), WG_ERR_PANIC);
        assert_eq!([set(broken), get(broken)], [WG_ERR_PANIC; 2]);
        assert!(last_error().contains("turn it off"));
        assert_eq!([set(other), get(other), wg_turn_off(other)], [WG_OK; 3]);
        assert_eq!([wg_turn_off(broken), wg_turn_off(broken)], [WG_OK, WG_ERR_UNKNOWN_HANDLE]);
    }

    #[test]
    fn a_failure_is_told_and_its_code_returned() {
        assert_eq!(guard_number(|| Ok(7)), 7);
        let closed = || Error::new(ErrorKind::Closed, "gone");
        assert_eq!((guard(|| Err(closed())), last_error().as_str()), (WG_ERR_CLOSED, "gone"));
        assert_eq!(guard_number(|| Err(closed())), ErrorKind::Closed.code());
    }
}
