//! Events of a tunnel, passed to a callback of the app.

use std::{
    ffi::c_void,
    sync::{Arc, OnceLock},
};

#[cfg(feature = "control")]
use crate::hooks::wireproto::Client;
use crate::{
    hooks::event_queue::EventQueue,
    plumbing::callback::{NewCallback, Slot},
    types::event::wg_event_t,
};
use wg_embed::{
    device::{EndReason, Event, EventSink},
    error::{Error, ErrorKind, Result},
};

type EventFn = unsafe extern "C" fn(*mut c_void, i32, *const wg_event_t);

/// The events of a tunnel, and their receivers.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The reason why the tunnel has ended by itself.
    ended: OnceLock<EndReason>,
    callback: Slot<EventFn>,
    /// For wg_wireproto_call().
    #[cfg(feature = "control")]
    pub(crate) wireproto: Client,
    /// For wg_next_event().
    queue: OnceLock<EventQueue>,
}

impl Events {
    /// Queues events for wg_next_event() as well.
    pub(crate) fn add_queue(&self) -> Result<()> {
        let queue = EventQueue::new().map_err(|err| Error::io("cannot make the queue of events", err))?;
        self.queue.get_or_init(|| queue);
        Ok(())
    }

    /// The queue for wg_next_event().
    pub(crate) fn queue(&self) -> Result<&EventQueue> {
        let missing = || Error::new(ErrorKind::Unsupported, "the tunnel was turned on without WG_OPTIONS_QUEUE_EVENTS");
        self.queue.get().ok_or_else(missing)
    }

    /// The event handler for the device.
    pub(crate) fn sink(self: &Arc<Self>, handle: i32) -> EventSink {
        let events = self.clone();
        Box::new(move |event| {
            if let Event::Ended(reason) = &event {
                // It ends once. Noted before it is told: a function that is too late to be told is refused by `set`.
                let _ = events.ended.set(reason.clone());
            }
            #[cfg(feature = "control")]
            events.wireproto.note(&event);
            let Some(event) = wg_event_t::new(&event) else {
                return;
            };
            if let Some(queue) = events.queue.get() {
                queue.push(event);
            }
            events.callback.call(|function, user| {
                // SAFETY: who set the callback allows this call, on this thread; the event lives.
                unsafe { function(user, handle, &raw const event) };
            });
        })
    }

    /// Fails if the tunnel has ended.
    pub(crate) fn check_running(&self) -> Result<()> {
        match self.ended.get() {
            Some(reason) => Err(Error::new(ErrorKind::Closed, format!("the tunnel has ended: {reason}"))),
            None => Ok(()),
        }
    }

    pub(crate) fn set(&self, given: NewCallback<EventFn>) -> Result<()> {
        let listens = given.is_callback();
        if !self.callback.set(given) {
            return Err(Error::new(ErrorKind::UnknownHandle, "the tunnel was turned off during the call"));
        }
        if listens && let Err(ended) = self.check_running() {
            // And may have done so before there was this callback.
            self.callback.clear();
            return Err(ended);
        }
        Ok(())
    }

    /// Ends the waits of wg_next_event() and wg_wireproto_call().
    pub(crate) fn end_waits(&self) {
        #[cfg(feature = "control")]
        self.wireproto.close();
        if let Some(queue) = self.queue.get() {
            queue.close();
        }
    }

    /// Closes the callback: when this returns, it is not running on any thread. Its pointer is released when the result
    /// is dropped.
    pub(crate) fn take(&self) -> impl Sized {
        self.callback.take()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::*;
    use std::{
        ffi::c_char,
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
        assert!(events.set(NewCallback::new(Some(record), user, None)).is_ok());
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
        peer.allowed_ips = vec![AllowedIpUpdate::add("10.0.0.0/8".parse().unwrap())];
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
            (Event::SocketsLost("the port\0 is taken".into()), 10, reason("the port is taken")),
            (Event::SocketsLost(long.clone()), 10, reason(&long[..WG_REASON_LEN - 2])),
            (Event::SocketsRecovered(51820), 11, port(51820)),
            (
                Event::Ended(EndReason::failed(ErrorKind::Closed, "the interface is gone")),
                20,
                reason("the interface is gone"),
            ),
        ];
        for (event, kind, fields) in cases {
            let about_peer = kind < 10;
            sink(event);
            let (_, event) = told.lock().unwrap().pop().unwrap();
            assert_eq!((event.kind, text(&event.endpoint), text(&event.reason)), (kind, fields.0, fields.1));
            assert_eq!(event.listen_port, fields.2);
            assert_eq!(event.public_key, if about_peer { *peer.as_bytes() } else { [0; 32] });
        }
        // It has ended: a function that is set now is refused, and not called.
        let refused = events.set(NewCallback::new(Some(record), std::ptr::null_mut(), None)).unwrap_err();
        assert_eq!((refused.kind(), refused.to_string().contains("the interface is gone")), (ErrorKind::Closed, true));
        sink(Event::SocketsRecovered(1));
        assert_eq!(told.lock().unwrap().len(), 0);
    }
}
