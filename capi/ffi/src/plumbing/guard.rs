//! The guard that every extern function runs in.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use crate::plumbing::{
    calls,
    cancel::Uncancelled,
    handle,
    handle::{Entry, Object},
    log, result,
    result::wg_result_t,
};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    reserve, thread,
};

/// The body of a function. Its result is a number, 0 for functions without one.
///
/// Behind a pointer, so that all that surrounds it is compiled once, and not again for each function.
type Body<'a> = &'a mut dyn FnMut() -> Result<i32>;

/// The result of a function, or the code of its failure.
///
/// cbindgen:ignore
// It takes each `Result` for that of `error.rs`, which has one parameter.
type Outcome = std::result::Result<i32, wg_result_t>;

/// The type that an extern function returns: a code; or a number (a handle, a count, a descriptor) or a negative code.
///
/// cbindgen:ignore
pub trait Returned {
    /// The type that its body returns.
    type Value;

    fn number(value: Self::Value) -> i32;
    fn of(outcome: Outcome) -> Self;
}

impl Returned for wg_result_t {
    type Value = ();

    fn number((): ()) -> i32 {
        0
    }

    fn of(outcome: Outcome) -> Self {
        outcome.err().unwrap_or(Self::WG_OK)
    }
}

impl Returned for i32 {
    type Value = Self;

    fn number(value: Self) -> Self {
        value
    }

    fn of(outcome: Outcome) -> Self {
        outcome.unwrap_or_else(|code| code as Self)
    }
}

/// Runs `body`, a function that is called once, by `run`.
fn guarded<R: Returned>(run: impl FnOnce(Body<'_>) -> Outcome, body: impl FnOnce() -> Result<R::Value>) -> R {
    // First, and so dropped last: what is refused gives up a callback, which is code of the app.
    let _uncancelled = Uncancelled::new();
    let mut body = Some(body);
    R::of(run(&mut || body.take().map_or(Ok(0), |body| body().map(R::number))))
}

/// Runs `body` and catches panics. A failure is stored for `wg_last_error`, and returned as a code.
fn run(body: Body<'_>) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(caught()));
    outcome.map_err(|error| result::fail(&error))
}

fn caught() -> Error {
    // Without the panic's own text: it may quote what the caller passed, keys included.
    Error::new(ErrorKind::Panic, "internal error: a panic was caught")
}

/// Runs `body`, and then `end` in any case: also if `body` panics.
pub(crate) fn finally<R>(body: impl FnOnce() -> R, end: impl FnOnce()) -> R {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    end();
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a function that neither waits nor logs, and therefore works inside a callback as well.
pub(crate) fn guard_anywhere(body: impl FnOnce() -> Result<()>) -> wg_result_t {
    guarded(run, body)
}

/// Runs any other function. It is refused inside a callback, which would wait for itself.
pub fn guard<R: Returned>(body: impl FnOnce() -> Result<R::Value>) -> R {
    guarded(outside, body)
}

/// Runs the body of a function that ends an object, like [`guard`].
pub(crate) fn guard_end(handle: i32, body: impl FnOnce() -> Result<()>) -> wg_result_t {
    guarded(|body| ending(handle, body), body)
}

/// Runs the body of a function on one object, like [`guard`].
pub(crate) fn guard_on<T: Object, R: Returned>(handle: i32, body: impl FnOnce(&Entry<T>) -> Result<R::Value>) -> R {
    guard_with(handle, None, |entry| body(entry))
}

/// Runs the body of a function that may have its object already, like [`guard_on`].
pub(crate) fn guard_with<T: Object, R: Returned>(
    handle: i32,
    kept: Option<Arc<Entry<T>>>,
    body: impl FnOnce(&Arc<Entry<T>>) -> Result<R::Value>,
) -> R {
    // As in `guarded`.
    let _uncancelled = Uncancelled::new();
    let mut body = Some(body);
    R::of(on(handle, kept, &mut |entry| body.take().map_or(Ok(0), |body| body(entry).map(R::number))))
}

fn on<T: Object>(
    handle: i32,
    mut kept: Option<Arc<Entry<T>>>,
    body: &mut dyn FnMut(&Arc<Entry<T>>) -> Result<i32>,
) -> Outcome {
    run(&mut || {
        handle::check_process(handle)?;
        refuse_inside()?;
        let entry = kept.take().map_or_else(|| handle::get::<T>(handle), Ok)?;
        work_with(&entry, &mut || body(&entry))
    })
}

/// Marks an object as unusable after a panic.
fn work_with<T: Object>(entry: &Entry<T>, body: Body<'_>) -> Result<i32> {
    reserve::check_new_thread()?;
    reserve::check()?;
    entry.check()?;
    entry.logged(|| {
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
            entry.poison();
            Err(caught())
        })
    })
}

fn ending(handle: i32, body: Body<'_>) -> Outcome {
    run(&mut || {
        handle::check_process(handle)?;
        refuse_inside()?;
        reserve::check_new_thread()?;
        log::logged(&mut *body)
    })
}

fn outside(body: Body<'_>) -> Outcome {
    run(&mut || {
        refuse_inside()?;
        reserve::check_new_thread()?;
        reserve::check()?;
        log::logged(&mut *body)
    })
}

/// To be asked first of all: inside a callback the log cannot be set up either. Threads of the library run nothing else
/// of the app but the destructors of what it keeps for each thread, and those cannot wait for their own thread.
fn refuse_inside() -> Result<()> {
    if calls::is_inside() || thread::is_ours() {
        return Err(Error::new(ErrorKind::Busy, "this function cannot be called from inside a callback"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        hooks::custom_io::Inlets,
        plumbing::callback::wg_destroy_fn_t,
        tunnel::{AppFunctions, Hooks, Running},
        wg_result_t::*,
        *,
    };
    use std::{
        ffi::{CStr, c_char, c_void},
        net::Ipv4Addr,
        ptr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };
    use wg_embed::{
        bind::mem::MemNetwork,
        device::{Options, Tunnel},
        tun::mem::MemTun,
    };

    fn last_error() -> String {
        // SAFETY: the text is this thread's, and there is no other call meanwhile.
        unsafe { CStr::from_ptr(wg_last_error()) }.to_str().unwrap().to_owned()
    }

    /// A tunnel over memory.
    fn handle() -> i32 {
        protected(None)
    }

    /// One that has something to give up.
    fn protected(destroy: wg_destroy_fn_t) -> i32 {
        let (tun, _app) = MemTun::new("", 1420);
        let bind = MemNetwork::new().bind(Ipv4Addr::LOCALHOST.into());
        let tunnel = Tunnel::start(Arc::new(tun), bind, Options::default()).unwrap();
        let handle = handle::reserve().unwrap();
        unsafe extern "C" fn finds_nothing(
            _: *mut c_void,
            _: *const c_char,
            _: *mut wg_address_t,
            _: usize,
            _: *mut usize,
        ) -> i32 {
            0
        }
        let options = wg_options_t {
            protect_destroy: destroy,
            resolve: Some(finds_nothing),
            resolve_destroy: destroy,
            ..wg_options_t::default()
        };
        // SAFETY: the functions do not look at what they get.
        let hooks = unsafe { Hooks::of(&options) };
        let functions = Arc::new(AppFunctions { hooks, inlets: Inlets::default(), net: None });
        let running = Running { tunnel, fd_tun: None, sockets: None, functions: functions.clone() };
        let dispatch = log::dispatch_to(Arc::default(), handle);
        handle::start::<Running>(handle, functions).unwrap().finish(Entry::new(running, dispatch));
        handle
    }

    #[test]
    fn a_panic_becomes_a_code_and_its_text_stays_inside() {
        let codes = [
            guard::<wg_result_t>(|| panic!("private_key=00")) as i32,
            guard_anywhere(|| panic!("private_key=00")) as i32,
            guard::<i32>(|| panic!("private_key=00")),
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
            unsafe { wg_free(text.cast()) };
            result
        };
        assert_eq!([set(broken), get(broken)], [WG_OK; 2]);
        assert_eq!(guard_on::<Running, wg_result_t>(broken, |_| panic!("a bug")), WG_ERR_PANIC);
        assert_eq!([set(broken), get(broken)], [WG_ERR_PANIC; 2]);
        assert!(last_error().contains("turn it off"));
        assert_eq!([set(other), get(other), wg_turn_off(other)], [WG_OK; 3]);
        assert_eq!([wg_turn_off(broken), wg_turn_off(broken)], [WG_OK, WG_ERR_UNKNOWN_HANDLE]);
    }

    /// What is freed only when the last call returns does not keep a callback of the app.
    #[test]
    fn a_tunnel_that_is_off_has_no_callbacks_though_a_call_is_under_way() {
        static DESTROYED: AtomicUsize = AtomicUsize::new(0);
        unsafe extern "C" fn destroy(_: *mut c_void) {
            DESTROYED.fetch_add(1, Ordering::Relaxed);
        }
        unsafe extern "C" fn line(_: *mut c_void, _: i32, _: i32, _: *const c_char) {}
        unsafe extern "C" fn event(_: *mut c_void, _: i32, _: *const wg_event_t) {}
        let number = protected(Some(destroy));
        let none = ptr::null_mut();
        let set = |handle| {
            // SAFETY: the functions do not look at what they get.
            let log = unsafe { wg_set_tunnel_log_callback(handle, Some(line), none, Some(destroy)) };
            // SAFETY: as above.
            [log, unsafe { wg_set_event_callback(handle, Some(event), none, Some(destroy)) }]
        };
        assert_eq!(set(number), [WG_OK; 2]);
        let call = handle::get::<Running>(number).unwrap();
        assert_eq!((wg_turn_off(number), DESTROYED.load(Ordering::Relaxed)), (WG_OK, 4));
        // One that has come as far as this is refused as well.
        let call = Arc::into_inner(call).unwrap();
        handle::start::<Running>(number, call.functions.clone()).unwrap().finish(call);
        assert_eq!((set(number), DESTROYED.load(Ordering::Relaxed)), ([WG_ERR_UNKNOWN_HANDLE; 2], 6));
        assert_eq!(wg_turn_off(number), WG_OK);
    }

    #[test]
    fn a_failure_is_told_and_its_code_returned() {
        assert_eq!(guard::<i32>(|| Ok(7)), 7);
        let closed = || Error::new(ErrorKind::Closed, "gone");
        assert_eq!((guard::<wg_result_t>(|| Err(closed())), last_error().as_str()), (WG_ERR_CLOSED, "gone"));
        assert_eq!(guard::<i32>(|| Err(closed())), ErrorKind::Closed.code());
    }
}
