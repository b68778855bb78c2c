//! Control calls as WireProto messages.

use std::ptr::NonNull;

use crate::{
    plumbing::{guard::guard_on, handle::Entry, memory::borrow_up_to, result::wg_result_t, text::give_bytes},
    tunnel::Running,
};
use wg_embed::{
    error::{Error, ErrorKind},
    key::wiped,
};

/// Answers a request to a tunnel in WireProto (which is not WireGuard's wire protocol): one message of `len` bytes at
/// `request`. The commands are get, set, stats, events, peers and version; see docs/WIREPROTO.md. Only in libraries
/// with the feature `control`.
///
/// Errors in the request or a command are reported in the response, which then begins with NAK (0x15) in place of ACK
/// (0x06); they are not errors of this function. A tunnel's handle is one client: its events are queued from its first
/// command `events` on, independently of wg_next_event() and the callback. A command `events` with a field `wait` waits
/// for an event, at most 30 seconds per request.
///
/// Memory: on success the caller owns `*response` (`*response_len` bytes), and frees it with wg_free(), which wipes it:
/// it may contain keys, as it includes a copy of each command. On failure nothing is written. `request` is not kept.
/// Requires: `request` is NULL or points to `len` bytes; `response` and `response_len` are NULL or point to writable
/// storage for one value each.
/// Errors: WG_ERR_NULL if a pointer is NULL, except `request` if `len` is 0; WG_ERR_UNKNOWN_HANDLE; WG_ERR_RESOURCES;
/// WG_ERR_PANIC; WG_ERR_BUSY inside a callback. A tunnel that has ended by itself can still be queried.
/// Threads: any, also several concurrently. A command `set` waits as wg_set_config() does. wg_turn_off() ends a wait
/// for events. A waiting thread cannot be cancelled (pthread_cancel()).
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_wireproto_call(
    handle: i32,
    request: *const u8,
    len: usize,
    response: *mut *mut u8,
    response_len: *mut usize,
) -> wg_result_t {
    let body = |entry: &Entry<Running>| {
        let null = |name| Error::new(ErrorKind::Null, format!("{name} is NULL"));
        let response = NonNull::new(response).ok_or_else(|| null("response"))?;
        let response_len = NonNull::new(response_len).ok_or_else(|| null("response_len"))?;
        // SAFETY: there are as many, says the caller.
        let request = unsafe { borrow_up_to(isize::MAX as usize, request, len, "bytes of request") }?;
        let answer = entry.hooks().events.wireproto.call(&entry.tunnel, request);
        if answer.is_empty() {
            return Err(Error::new(ErrorKind::Resources, "there is no memory for the response"));
        }
        let given = give_bytes(&answer)?;
        // SAFETY: there is room for one pointer, says the caller.
        unsafe { response.write(given.as_ptr()) };
        // SAFETY: there is room for one number, says the caller.
        unsafe { response_len.write(answer.len()) };
        Ok(())
    };
    wiped(|| guard_on(handle, body))
}
