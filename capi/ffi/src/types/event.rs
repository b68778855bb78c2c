//! The C struct of an event.

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
};

use crate::plumbing::sized::SizedStruct;
use crate::{
    plumbing::text::fixed_text,
    types::{endpoint::WG_ENDPOINT_TEXT_LEN, key::WG_KEY_LEN},
};
use wg_embed::device::Event;

/// Size of the buffer for the reason of an event, including the terminating zero byte.
///
/// Since: 0.1.0
pub const WG_REASON_LEN: usize = 192;

/// The largest number of events that are queued for wg_next_event().
///
/// Since: 0.1.0
pub const WG_EVENTS_MAX: usize = 256;

/// Kind of an event. Later versions may add kinds: ignore unknown ones.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_event_kind_t {
    /// A session with the peer `public_key` is established.
    WG_EVENT_HANDSHAKE_COMPLETED = 1,
    /// The peer `public_key` did not answer 20 initiations in a row, in about 100 seconds. Its staged packets were
    /// dropped, and the next packet for it begins a new handshake. With traffic or a persistent keepalive the handshake
    /// continues instead, and the next event comes after 20 further initiations.
    WG_EVENT_HANDSHAKE_FAILED = 2,
    /// The last session with the peer `public_key` has ended, and its keys were wiped: after some minutes without
    /// traffic, which is not an error, or by wg_drop_session().
    WG_EVENT_SESSION_EXPIRED = 3,
    /// The endpoint of the peer `public_key` is now `endpoint`: an authentic packet came from there, another address of
    /// its host name is used, or NAT64 is.
    WG_EVENT_ENDPOINT_CHANGED = 4,
    /// The host name of the peer `public_key` could not be resolved; `reason` has the cause. Reported once; the look-up
    /// is repeated as long as there are packets for the peer.
    WG_EVENT_RESOLVE_FAILED = 5,
    /// The route to the `endpoint` of the peer `public_key` leads into the tunnel itself. Datagrams for it are dropped,
    /// and counted as `out_routing_loop`, until the route changes. Keep the sockets out of the tunnel: by a mark and a
    /// rule, by `protect`, or by a route for the endpoint. Reported once for each endpoint.
    WG_EVENT_ROUTING_LOOP = 6,
    /// New UDP sockets could not be opened, or the open ones have become unusable; `reason` has the cause. Opening is
    /// retried until it succeeds. Until then the old sockets stay in use; without old sockets, as after wg_resume(),
    /// nothing is sent or received.
    WG_EVENT_SOCKETS_LOST = 10,
    /// New UDP sockets are open on `listen_port`: after WG_EVENT_SOCKETS_LOST, or because a port that the system had
    /// chosen was replaced by another one. That happens if it is in use when sockets are reopened, and, once for each
    /// change of networks (wg_network_changed(), wg_bump_sockets()), when a handshake is retried for the third time
    /// after the change: the path of the old port may be dead.
    WG_EVENT_SOCKETS_RECOVERED = 11,
    /// The tunnel has ended by itself, for example because its interface was removed; `reason` has the cause. It keeps
    /// its handle until wg_turn_off().
    WG_EVENT_ENDED = 20,
    /// Only from wg_next_event(): events were dropped because more than WG_EVENTS_MAX were queued. wg_peers() and
    /// wg_stats() return the present state.
    WG_EVENT_MISSED = 30,
}

pub use wg_event_kind_t::*;

/// An event. It contains no pointers, so it can be copied and handed to another thread.
///
/// New fields are only appended. A library that is older than the header passes a shorter struct: check `struct_size`
/// before reading a field that was added after 0.1.0.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_event_t {
    /// sizeof(wg_event_t) in the library; with wg_next_event(), that in the caller's header.
    pub struct_size: usize,
    /// A wg_event_kind_t. Fields that its description does not mention are zero.
    pub kind: u32,
    /// The UDP port.
    pub listen_port: u32,
    /// The public key of the peer that the event concerns.
    pub public_key: [u8; WG_KEY_LEN],
    /// An address and port, `192.0.2.1:51820` or `[2001:db8::1]:51820`; for a link-local address with the index of its
    /// interface, `[fe80::1%2]:51820`.
    pub endpoint: [c_char; WG_ENDPOINT_TEXT_LEN],
    /// The cause in English, for people to read; truncated if it is too long.
    pub reason: [c_char; WG_REASON_LEN],
}

const _: () = {
    assert!(size_of::<wg_event_t>() == size_of::<usize>() + 8 + 32 + 64 + 192);
    assert!(offset_of!(wg_event_t, kind) == size_of::<usize>());
    assert!(offset_of!(wg_event_t, listen_port) == size_of::<usize>() + 4);
    assert!(offset_of!(wg_event_t, public_key) == size_of::<usize>() + 8);
    assert!(offset_of!(wg_event_t, endpoint) == size_of::<usize>() + 40);
    assert!(offset_of!(wg_event_t, reason) == size_of::<usize>() + 104);
};

// SAFETY: as the assertions above say, there is no padding; it has integers only, and arrays of them.
unsafe impl SizedStruct for wg_event_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl wg_event_t {
    /// An event that is no more than its kind.
    pub(crate) fn of(kind: wg_event_kind_t) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            kind: kind as u32,
            listen_port: 0,
            public_key: [0; WG_KEY_LEN],
            endpoint: [0; WG_ENDPOINT_TEXT_LEN],
            reason: [0; WG_REASON_LEN],
        }
    }

    /// An event as C has it; `None` if C has none like it.
    pub(crate) fn new(event: &Event) -> Option<Self> {
        Some(match event {
            Event::HandshakeCompleted(key) => {
                Self { public_key: *key.as_bytes(), ..Self::of(WG_EVENT_HANDSHAKE_COMPLETED) }
            }
            Event::HandshakeFailed(key) => Self { public_key: *key.as_bytes(), ..Self::of(WG_EVENT_HANDSHAKE_FAILED) },
            Event::SessionExpired(key) => Self { public_key: *key.as_bytes(), ..Self::of(WG_EVENT_SESSION_EXPIRED) },
            Event::EndpointChanged(key, to) => Self {
                public_key: *key.as_bytes(),
                endpoint: fixed_text(&to.to_string()),
                ..Self::of(WG_EVENT_ENDPOINT_CHANGED)
            },
            Event::RoutingLoop(key, to) => Self {
                public_key: *key.as_bytes(),
                endpoint: fixed_text(&to.to_string()),
                ..Self::of(WG_EVENT_ROUTING_LOOP)
            },
            Event::ResolveFailed(key, reason) => {
                Self { public_key: *key.as_bytes(), reason: fixed_text(reason), ..Self::of(WG_EVENT_RESOLVE_FAILED) }
            }
            Event::SocketsLost(reason) => Self { reason: fixed_text(reason), ..Self::of(WG_EVENT_SOCKETS_LOST) },
            Event::SocketsRecovered(port) => {
                Self { listen_port: (*port).into(), ..Self::of(WG_EVENT_SOCKETS_RECOVERED) }
            }
            Event::Ended(reason) => Self { reason: fixed_text(&reason.to_string()), ..Self::of(WG_EVENT_ENDED) },
            _ => return None,
        })
    }
}

/// Receives an event.
///
/// `user` is the pointer that was passed with the function; `handle` is the tunnel; `event` is valid only during the
/// call.
///
/// Threads: called on the tunnel's threads, and on threads that are inside a wg_ function on the tunnel, but never
/// concurrently. The events of a tunnel are delivered in the order in which they occurred; an event that another thread
/// causes during a call is delivered after it has returned. The tunnel waits for the callback, so return soon, and do
/// not wait for a thread that may be inside a wg_ function: copy the event, and act on it elsewhere. It must not leave
/// by an exception, longjmp() or pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, the functions that wg_log_fn_t lists work; all others return WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_event_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, event: *const wg_event_t)>;
