//! Events: what happens to a tunnel, told to a function of the app.

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    sync::{Arc, OnceLock},
};

use super::{
    callback::{Given, Slot, wg_destroy_fn_t},
    endpoint::WG_ENDPOINT_TEXT_LEN,
    guard::guard_on,
    handle::Entry,
    keys::WG_KEY_LEN,
    result::wg_result,
    text::fixed_text,
    tunnel::Running,
};
use wg_embed::{
    device::{Event, EventSink},
    error::{Error, ErrorKind, Result},
};

/// Room for the reason of an event, its zero byte included.
pub const WG_REASON_LEN: usize = 192;

/// What has happened to a tunnel. A later version may add some: ignore one that you do not know.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_event_kind_t {
    /// A session with the peer `public_key` is ready to use.
    WG_EVENT_HANDSHAKE_COMPLETED = 1,
    /// The peer `public_key` did not answer 20 initiations in a row, in about 100 seconds. Packets that waited for it were
    /// dropped. It is tried again when there is something to send.
    WG_EVENT_HANDSHAKE_FAILED = 2,
    /// The last session with the peer `public_key` is over, and its keys were wiped. That is so when nothing was sent for
    /// some minutes, and no fault.
    WG_EVENT_SESSION_EXPIRED = 3,
    /// The peer `public_key` has moved, and is sent to at `endpoint` from now on: it was heard from there, or is looked for
    /// there, as its name or its network says.
    WG_EVENT_ENDPOINT_CHANGED = 4,
    /// The host name of the peer `public_key` has no address, for `reason`. It is told once, and the name looked up again as
    /// long as anything is to be sent there.
    WG_EVENT_RESOLVE_FAILED = 5,
    /// The route to the `endpoint` of the peer `public_key` leads into the tunnel itself. What is sent there is dropped, and
    /// counted as `out_routing_loop`, until the route is another one. Keep the sockets out of the tunnel: by a mark and a rule,
    /// by `protect`, or by a route of its own. It is told once for an endpoint.
    WG_EVENT_ROUTING_LOOP = 6,
    /// Fresh UDP sockets could not be opened, or the open ones can no longer be used, for `reason`. Opening is retried
    /// until it succeeds. Until then the old sockets stay in use; without old sockets, as after wg_resume(), nothing is
    /// sent or received.
    WG_EVENT_SOCKETS_LOST = 10,
    /// Fresh UDP sockets are open on `listen_port`: after WG_EVENT_SOCKETS_LOST, or because the port that the system chose was
    /// left. It is left if it is taken when sockets are renewed, and, once for each change of networks (wg_network_changed(),
    /// wg_bump_sockets()), if a handshake is retried for the third time after that: the old one may be dead on its way.
    WG_EVENT_SOCKETS_RECOVERED = 11,
    /// The tunnel has ended by itself, for `reason`: its interface was removed, for example. It keeps its handle until
    /// wg_turn_off().
    WG_EVENT_ENDED = 20,
}
pub use wg_event_kind_t::*;

/// An event. It has no pointers: it can be copied and handed to another thread.
///
/// Fields are only ever appended. A library that is older than the header passes a shorter struct: look at `struct_size`
/// before you read a field that came later than 0.1.0.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_event_t {
    /// sizeof(wg_event_t), as the library was compiled.
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

impl wg_event_t {
    /// An event as C has it; `None` if C has none like it.
    fn new(event: &Event) -> Option<Self> {
        let about = |kind: wg_event_kind_t| Self {
            struct_size: size_of::<Self>(),
            kind: kind as u32,
            listen_port: 0,
            public_key: [0; WG_KEY_LEN],
            endpoint: [0; WG_ENDPOINT_TEXT_LEN],
            reason: [0; WG_REASON_LEN],
        };
        Some(match event {
            Event::HandshakeCompleted(key) => {
                Self { public_key: *key.as_bytes(), ..about(WG_EVENT_HANDSHAKE_COMPLETED) }
            }
            Event::HandshakeFailed(key) => Self { public_key: *key.as_bytes(), ..about(WG_EVENT_HANDSHAKE_FAILED) },
            Event::SessionExpired(key) => Self { public_key: *key.as_bytes(), ..about(WG_EVENT_SESSION_EXPIRED) },
            Event::EndpointChanged(key, to) => Self {
                public_key: *key.as_bytes(),
                endpoint: fixed_text(&to.to_string()),
                ..about(WG_EVENT_ENDPOINT_CHANGED)
            },
            Event::RoutingLoop(key, to) => Self {
                public_key: *key.as_bytes(),
                endpoint: fixed_text(&to.to_string()),
                ..about(WG_EVENT_ROUTING_LOOP)
            },
            Event::ResolveFailed(key, reason) => {
                Self { public_key: *key.as_bytes(), reason: fixed_text(reason), ..about(WG_EVENT_RESOLVE_FAILED) }
            }
            Event::BindFailed(reason) => Self { reason: fixed_text(reason), ..about(WG_EVENT_SOCKETS_LOST) },
            Event::BindRecovered(port) => Self { listen_port: (*port).into(), ..about(WG_EVENT_SOCKETS_RECOVERED) },
            Event::Ended(reason) => Self { reason: fixed_text(reason), ..about(WG_EVENT_ENDED) },
            _ => return None,
        })
    }
}

/// Takes an event.
///
/// `user` is what came with the function; `handle` is the tunnel; `event` is gone when the function returns.
///
/// Threads: it is called on the tunnel's threads, and on threads that are inside a wg_ function on the tunnel, but on one
/// at a time. The events of a tunnel come in the order in which they came about, also if another thread causes one while
/// this runs: it is called for that when it has returned. The tunnel waits meanwhile, so return soon, and do
/// not wait for a thread that may be inside a wg_ function: copy the event, and act on it elsewhere. It must not leave by
/// an exception, longjmp() or pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, functions whose text says so under "Threads" work: wg_last_error(), wg_free(), those about keys and others.
/// All others, and so all that take a handle, return WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_event_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, event: *const wg_event_t)>;

type EventFn = unsafe extern "C" fn(*mut c_void, i32, *const wg_event_t);

/// Tells `event` what happens to a tunnel from now on, in place of what was told before. NULL ends it.
///
/// What has happened before is not told again: wg_peers() knows who has a session by now, and a tunnel that has ended
/// already is refused, so that its end is never missed.
///
/// When this returns, no previous function is running on any thread, and none will be called again; the same holds when
/// wg_turn_off() returns. See docs/C_API.md for the locks that may be held.
///
/// Memory: `destroy` (or NULL) is called exactly once with `user`, when `event` has been replaced or the tunnel turned
/// off, and it has returned for the last time; at once if `event` is NULL or the call fails. It follows the rules of
/// wg_event_fn_t.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended, and `event` is not NULL: nobody is told anything
/// then; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
///
/// # Safety
/// `event` and `destroy` are NULL or functions of these types, and may be called with `user` on any thread, `event` until it
/// has been replaced or the tunnel turned off.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_event_callback(
    handle: i32,
    event: wg_event_fn_t,
    user: *mut c_void,
    destroy: wg_destroy_fn_t,
) -> wg_result {
    let given = Given::new(event, user, destroy);
    guard_on(handle, |entry: &Entry<Running>| entry.events.set(given))
}

/// What a tunnel tells, and whom.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Why the tunnel has ended by itself.
    ended: OnceLock<String>,
    callback: Slot<EventFn>,
}

impl Events {
    /// Where the device is to send its events.
    pub(super) fn sink(self: &Arc<Self>, handle: i32) -> EventSink {
        let events = self.clone();
        Box::new(move |event| {
            if let Event::Ended(reason) = &event {
                // It ends once. Before anybody is told: so whoever is too late to be told learns it from `set`.
                let _ = events.ended.set(reason.clone());
            }
            let Some(event) = wg_event_t::new(&event) else {
                return;
            };
            events.callback.call(|function, user| {
                // SAFETY: who set the callback allows this call, on this thread; the event lives.
                unsafe { function(user, handle, &raw const event) };
            });
        })
    }

    /// Refuses what only a running tunnel can do.
    pub(super) fn check_running(&self) -> Result<()> {
        match self.ended.get() {
            Some(reason) => Err(Error::new(ErrorKind::Closed, format!("the tunnel has ended: {reason}"))),
            None => Ok(()),
        }
    }

    fn set(&self, given: Given<EventFn>) -> Result<()> {
        let listens = given.is_callback();
        if !self.callback.set(given) {
            return Err(Error::new(ErrorKind::UnknownHandle, "the tunnel was turned off meanwhile"));
        }
        if listens && let Err(ended) = self.check_running() {
            // And may have done so before there was this callback.
            self.callback.clear();
            return Err(ended);
        }
        Ok(())
    }

    /// Nobody is told anything from now on.
    pub(super) fn close(&self) {
        self.callback.close();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        net::{Ipv4Addr, SocketAddr},
        sync::Mutex,
        time::Duration,
    };
    use wg_embed::{
        bind::mem::{Action, MemBind, MemNetwork},
        config::{AllowedIpUpdate, PeerUpdate, Update},
        device::{Device, Inbound, Options, Outbound},
        key::PrivateKey,
        time::{Clock, ManualClock},
        tun::mem::{MemHandle, MemTun},
    };

    type Told = Mutex<Vec<(i32, wg_event_t)>>;

    unsafe extern "C" fn record(user: *mut c_void, handle: i32, event: *const wg_event_t) {
        // SAFETY: the tests pass one of these, which outlives the callback.
        let told = unsafe { &*user.cast::<Told>() };
        // SAFETY: the event is there until this returns.
        told.lock().unwrap().push((handle, unsafe { *event }));
    }

    /// Events that go to `told`.
    fn events(told: &Told) -> Arc<Events> {
        let events = Arc::<Events>::default();
        let user = std::ptr::from_ref(told).cast_mut().cast();
        assert!(events.set(Given::new(Some(record), user, None)).is_ok());
        events
    }

    fn text(array: &[c_char]) -> String {
        let bytes: Vec<u8> = array.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
        assert!(bytes.len() < array.len(), "it ends with a zero");
        String::from_utf8(bytes).unwrap()
    }

    /// A device in memory, which knows number 3 - `n`.
    struct Node {
        device: Device,
        app: MemHandle,
    }

    fn key(n: u8) -> PrivateKey {
        PrivateKey::from_bytes([n; 32])
    }

    fn address(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, n)
    }

    fn node(n: u8, bind: Arc<MemBind>, clock: Arc<ManualClock>, events: EventSink) -> Node {
        let (tun, app) = MemTun::new("", 1420);
        let device = Device::new(Arc::new(tun), bind, Options { clock, events, ..Options::default() });
        let mut peer = PeerUpdate::new(key(3 - n).public_key());
        peer.endpoint = Some(SocketAddr::from((address(3 - n), 1)).into());
        peer.allowed_ips = vec![AllowedIpUpdate { prefix: "10.0.0.0/8".parse().unwrap(), remove: false }];
        let update =
            Update { private_key: Some(Some(key(n))), listen_port: Some(1), peers: vec![peer], ..Update::default() };
        device.apply(update).unwrap();
        device.up().unwrap();
        Node { device, app }
    }

    /// Lets `nodes` do what they have to do until nothing is left.
    fn run(clock: &ManualClock, nodes: [&Node; 2]) {
        let (mut outbound, mut inbound) = (Outbound::new(), Inbound::new());
        loop {
            let mut busy = |node: &Node| {
                node.device.outbound(&mut outbound).unwrap() + node.device.inbound(&mut inbound).unwrap() > 0
            };
            while nodes.map(&mut busy) != [false; 2] {}
            let Some(next) = nodes.iter().filter_map(|node| node.device.next_deadline()).min() else { break };
            clock.advance(next.since(clock.now()));
            nodes.iter().for_each(|node| node.device.run_timers());
        }
    }

    /// A handshake, and the end of its session after minutes; then, if nothing arrives any more, one that fails.
    #[test]
    fn what_takes_minutes_reaches_c() {
        let told = Told::default();
        let events = events(&told);
        let (clock, network) = (Arc::new(ManualClock::new()), MemNetwork::new());
        let a = node(1, network.bind(address(1).into()), clock.clone(), events.sink(7));
        let b = node(2, network.bind(address(2).into()), clock.clone(), Box::new(|_| {}));
        let mut packet = [0; 20];
        (packet[0], packet[3], packet[12], packet[16]) = (0x45, 20, 10, 10);
        assert!(a.app.inject(&packet));
        run(&clock, [&a, &b]);
        network.set_filter(|_| Action::Drop);
        let before = clock.now();
        assert!(a.app.inject(&packet));
        run(&clock, [&a, &b]);
        assert!(clock.now().since(before) > Duration::from_secs(90));
        let told = std::mem::take(&mut *told.lock().unwrap());
        let kinds: Vec<u32> = told.iter().map(|(_, event)| event.kind).collect();
        let expected = [WG_EVENT_HANDSHAKE_COMPLETED, WG_EVENT_SESSION_EXPIRED, WG_EVENT_HANDSHAKE_FAILED];
        assert_eq!(kinds, expected.map(|kind| kind as u32));
        for (handle, event) in told {
            assert_eq!((handle, event.struct_size), (7, size_of::<wg_event_t>()));
            assert_eq!((event.public_key, event.listen_port), (*key(2).public_key().as_bytes(), 0));
            assert_eq!((text(&event.endpoint), text(&event.reason)), (String::new(), String::new()));
        }
    }

    #[test]
    fn every_event_has_its_kind_and_its_fields() {
        let told = Told::default();
        let events = events(&told);
        let sink = events.sink(1);
        let peer = key(5).public_key();
        let long = "ß".repeat(WG_REASON_LEN);
        let link_local = "[fe80:1111:2222:3333:4444:5555:6666:7777%4294967295]:65535";
        let port = |port: u16| (String::new(), String::new(), u32::from(port));
        let reason = |text: &str| (String::new(), text.to_owned(), 0);
        let cases = [
            (Event::EndpointChanged(peer, link_local.parse().unwrap()), 4, (link_local.to_owned(), String::new(), 0)),
            (Event::RoutingLoop(peer, link_local.parse().unwrap()), 6, (link_local.to_owned(), String::new(), 0)),
            (Event::ResolveFailed(peer, "no such name".into()), 5, reason("no such name")),
            (Event::BindFailed("the port\0 is taken".into()), 10, reason("the port is taken")),
            (Event::BindFailed(long.clone()), 10, reason(&long[..WG_REASON_LEN - 2])),
            (Event::BindRecovered(51820), 11, port(51820)),
            (Event::Ended("the interface is gone".into()), 20, reason("the interface is gone")),
        ];
        for (event, kind, fields) in cases {
            let about_peer = kind < 10;
            sink(event);
            let (_, event) = told.lock().unwrap().pop().unwrap();
            assert_eq!((event.kind, text(&event.endpoint), text(&event.reason)), (kind, fields.0, fields.1));
            assert_eq!(event.listen_port, fields.2);
            assert_eq!(event.public_key, if about_peer { *peer.as_bytes() } else { [0; 32] });
        }
        // It has ended: whoever begins to listen now is refused, and not called.
        let refused = events.set(Given::new(Some(record), std::ptr::null_mut(), None)).unwrap_err();
        assert_eq!((refused.kind(), refused.to_string().contains("the interface is gone")), (ErrorKind::Closed, true));
        sink(Event::BindRecovered(1));
        assert_eq!(told.lock().unwrap().len(), 0);
    }
}
