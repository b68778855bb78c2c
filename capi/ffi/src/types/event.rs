//! Events, as C has them.

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

/// Room for the reason of an event, its zero byte included.
///
/// Since: 0.1.0
pub const WG_REASON_LEN: usize = 192;

/// The most events that wait for wg_next_event().
///
/// Since: 0.1.0
pub const WG_EVENTS_MAX: usize = 256;

/// What has happened to a tunnel. A later version may add some: ignore one that you do not know.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_event_kind_t {
    /// A session with the peer `public_key` is ready to use.
    WG_EVENT_HANDSHAKE_COMPLETED = 1,
    /// The peer `public_key` did not answer 20 initiations in a row, in about 100 seconds. Packets that waited for it
    /// were dropped. It is tried again when there is something to send.
    WG_EVENT_HANDSHAKE_FAILED = 2,
    /// The last session with the peer `public_key` is over, and its keys were wiped: when nothing was sent for some
    /// minutes, which is no fault, or by wg_drop_session().
    WG_EVENT_SESSION_EXPIRED = 3,
    /// The peer `public_key` has moved, and is sent to at `endpoint` from now on: it was heard from there, or is looked
    /// for there, as its name or its network says.
    WG_EVENT_ENDPOINT_CHANGED = 4,
    /// The host name of the peer `public_key` has no address, for `reason`. It is told once, and the name looked up
    /// again as long as anything is to be sent there.
    WG_EVENT_RESOLVE_FAILED = 5,
    /// The route to the `endpoint` of the peer `public_key` leads into the tunnel itself. What is sent there is
    /// dropped, and counted as `out_routing_loop`, until the route is another one. Keep the sockets out of the tunnel:
    /// by a mark and a rule, by `protect`, or by a route of its own. It is told once for an endpoint.
    WG_EVENT_ROUTING_LOOP = 6,
    /// New UDP sockets could not be opened, or the open ones can no longer be used, for `reason`. Opening is retried
    /// until it succeeds. Until then the old sockets stay in use; without old sockets, as after wg_resume(), nothing is
    /// sent or received.
    WG_EVENT_SOCKETS_LOST = 10,
    /// New UDP sockets are open on `listen_port`: after WG_EVENT_SOCKETS_LOST, or because the port that the system
    /// chose was left. It is left if it is taken when sockets are reopened, and, once for each change of networks
    /// (wg_network_changed(), wg_bump_sockets()), if a handshake is retried for the third time after that: the old one
    /// may be dead on its way.
    WG_EVENT_SOCKETS_RECOVERED = 11,
    /// The tunnel has ended by itself, for `reason`: its interface was removed, for example. It keeps its handle until
    /// wg_turn_off().
    WG_EVENT_ENDED = 20,
    /// From wg_next_event() alone: events were dropped, as more than WG_EVENTS_MAX waited. wg_peers() and wg_stats()
    /// tell how things are.
    WG_EVENT_MISSED = 30,
}

pub use wg_event_kind_t::*;

/// An event. It has no pointers: it can be copied and handed to another thread.
///
/// Fields are only ever appended. A library that is older than the header passes a shorter struct: look at
/// `struct_size` before you read a field that came later than 0.1.0.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_event_t {
    /// sizeof(wg_event_t), as the library was compiled; in wg_next_event() as the caller was.
    pub struct_size: usize,
    /// A wg_event_kind_t. The fields that its text does not name are zero.
    pub kind: u32,
    /// The UDP port.
    pub listen_port: u32,
    /// Which peer it is about.
    pub public_key: [u8; WG_KEY_LEN],
    /// An address and port, `192.0.2.1:51820` or `[2001:db8::1]:51820`; for a link-local address with the number of its
    /// interface, `[fe80::1%2]:51820`.
    pub endpoint: [c_char; WG_ENDPOINT_TEXT_LEN],
    /// English text for people to read, cut off if it is too long.
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
            Event::Ended(reason) => Self { reason: fixed_text(reason), ..Self::of(WG_EVENT_ENDED) },
            _ => return None,
        })
    }
}

/// Takes an event.
///
/// `user` is what came with the function; `handle` is the tunnel; `event` is gone when the function returns.
///
/// Threads: it is called on the tunnel's threads, and on threads that are inside a wg_ function on the tunnel, but on
/// one at a time. The events of a tunnel come in the order in which they came about, also if another thread causes one
/// while this runs: it is called for that when it has returned. The tunnel waits meanwhile, so return soon, and do
/// not wait for a thread that may be inside a wg_ function: copy the event, and act on it elsewhere. It must not leave
/// by an exception, longjmp() or pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, the same functions work as inside wg_log_fn_t; all others return WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_event_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, event: *const wg_event_t)>;
