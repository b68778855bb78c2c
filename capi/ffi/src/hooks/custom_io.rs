//! Custom packets and datagrams: outgoing ones are passed to callbacks, incoming ones to functions of the library.

use std::{ffi::c_void, sync::Arc};

use crate::{
    plumbing::{
        callback::{Callback, NewCallback, Slot, wg_destroy_fn_t},
        handle::{self, Known},
        sized::read_sized,
    },
    tunnel::{AppFunctions, Running, WG_MEMORY_MIN},
    types::{
        custom_io::wg_tun_room_fn_t,
        datagram::{WG_BATCH_SIZE, wg_datagram_t},
        endpoint::wg_endpoint_t,
        options::wg_options_t,
        packet::wg_packet_t,
    },
};
use wg_embed::{
    bind::{
        Bind,
        callback::{CallbackBind, Datagram, DatagramInlet, DatagramSink},
    },
    error::{Error, ErrorKind, Result},
    queue::PacketQueue,
    tun::{
        MAX_PACKET, PacketList, Tun,
        callback::{CallbackTun, PacketInlet, PacketSink},
    },
};

/// The share of a tunnel's memory for each queue of injected packets or datagrams, as a divisor.
const QUEUE_SHARE: usize = 8;

/// The least size of such a queue in bytes, as documented in the header: more than the largest packet.
const MIN_QUEUE: usize = 128 << 10;
const _: () = assert!(MIN_QUEUE > MAX_PACKET + MAX_PACKET / 2);

/// The functions of a [`wg_tun_callbacks_t`](crate::wg_tun_callbacks_t).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunFunctions {
    pub(crate) write: unsafe extern "C" fn(*mut c_void, i32, *const wg_packet_t, usize) -> usize,
    pub(crate) room: wg_tun_room_fn_t,
}

/// The function of a [`wg_transport_t`](crate::wg_transport_t).
pub(crate) type SendFunction = unsafe extern "C" fn(*mut c_void, i32, *const wg_datagram_t, usize) -> usize;

/// The callbacks of an app for packets and datagrams. They are destroyed when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct CustomIo {
    /// `None` without custom packets.
    pub(crate) tun: Option<Callback<TunFunctions>>,
    /// `None` without custom datagrams.
    pub(crate) transport: Option<Callback<SendFunction>>,
}

impl CustomIo {
    /// Reads the structs of the options. If one is invalid, its `user` is released.
    ///
    /// # Safety
    /// Both pointers are NULL, or point to as many readable bytes as the struct's size says; its functions may be
    /// called with its `user` on any thread.
    pub(crate) unsafe fn read(options: &wg_options_t) -> Result<Self> {
        let tun = (!options.tun.is_null()).then(|| {
            // SAFETY: the caller's contract is the same.
            let received = unsafe { read_sized(options.tun, "tun") }?;
            let ours = received.value;
            let write = ours.write.ok_or_else(|| Error::new(ErrorKind::Null, "tun: write is NULL"));
            let functions = write.map(|write| TunFunctions { write, room: ours.room });
            accept(ours.user, ours.destroy, received.unknown_fields.and(functions))
        });
        let transport = (!options.transport.is_null()).then(|| {
            // SAFETY: the caller's contract is the same.
            let received = unsafe { read_sized(options.transport, "transport") }?;
            let ours = received.value;
            let send = ours.send.ok_or_else(|| Error::new(ErrorKind::Null, "transport: send is NULL"));
            accept(ours.user, ours.destroy, received.unknown_fields.and(send))
        });
        // Only now, when both have an owner.
        Ok(Self { tun: tun.transpose()?, transport: transport.transpose()? })
    }

    /// Makes a TUN and a bind of the callbacks, for the tunnel with this handle and memory limit.
    pub(crate) fn connect(self, handle: i32, memory: usize, mtu: u16) -> Result<Connected> {
        let count = usize::from(self.tun.is_some()) + usize::from(self.transport.is_some());
        let least = WG_MEMORY_MIN + count * MIN_QUEUE;
        if memory < least {
            let text = format!("memory_limit is {memory}, less than {least}, with packets or datagrams of the app");
            return Err(Error::invalid(text));
        }
        let queue = (memory / QUEUE_SHARE).min((memory - WG_MEMORY_MIN) / count.max(1));
        let mut connected = Connected::default();
        if let Some(callback) = self.tun {
            let functions = slot_with(callback);
            let sink = AppTun { handle, functions: functions.clone() };
            let tun = CallbackTun::with_sink("", mtu, PacketQueue::within(queue), sink);
            connected.inlets.tun = Some(Pair { functions, inlet: tun.inlet() });
            connected.tun = Some(Arc::new(tun));
        }
        if let Some(callback) = self.transport {
            let functions = slot_with(callback);
            let bind = CallbackBind::new(queue, AppTransport { handle, functions: functions.clone() });
            connected.inlets.transport = Some(Pair { functions, inlet: bind.inlet() });
            connected.bind = Some(Arc::new(bind));
        }
        Ok(connected)
    }
}

/// A TUN and a bind over the callbacks that the app has set.
#[derive(Default)]
pub(crate) struct Connected {
    pub(crate) tun: Option<Arc<dyn Tun>>,
    pub(crate) bind: Option<Arc<dyn Bind>>,
    pub(crate) inlets: Inlets,
}

/// Keeps callbacks with their pointer, or releases it.
fn accept<F>(user: *mut c_void, destroy: wg_destroy_fn_t, functions: Result<F>) -> Result<Callback<F>> {
    match functions {
        Ok(functions) => Ok(Callback::new(functions, user, destroy)),
        Err(err) => {
            drop(Callback::new((), user, destroy));
            Err(err)
        }
    }
}

/// Callbacks for one direction, and the inlet of the other.
struct Pair<F, I> {
    functions: Arc<Slot<F>>,
    inlet: I,
}

/// The inlets for an app's packets and datagrams. They are usable before the tunnel is on, as callbacks are already
/// called while it starts.
#[derive(Default)]
pub(crate) struct Inlets {
    tun: Option<Pair<TunFunctions, PacketInlet>>,
    transport: Option<Pair<SendFunction, DatagramInlet>>,
}

impl Inlets {
    /// Closes the callbacks: when this returns, none is running or will be called. Their pointers are released when the
    /// result is dropped.
    pub(crate) fn take(&self) -> impl Sized {
        let tun = self.tun.as_ref().and_then(|pair| pair.functions.take());
        let transport = self.transport.as_ref().and_then(|pair| pair.functions.take());
        (tun, transport)
    }
}

impl<F: Copy, I: Clone> Pair<F, I> {
    /// The inlet, if the callbacks have not been closed.
    fn inlet(&self, handle: i32) -> Result<I> {
        match self.functions.is_closed() {
            true => {
                Err(Error::new(ErrorKind::UnknownHandle, format!("the tunnel with handle {handle} was turned off")))
            }
            false => Ok(self.inlet.clone()),
        }
    }
}

/// The packet inlet of a tunnel that is running, starting or ending.
pub(crate) fn packet_inlet(handle: i32) -> Result<PacketInlet> {
    let functions = functions(handle)?;
    let missing = || Error::new(ErrorKind::Unsupported, "the tunnel has no wg_tun_callbacks_t");
    functions.inlets.tun.as_ref().ok_or_else(missing)?.inlet(handle)
}

/// Sets the MTU of a tunnel with custom packets or a userspace network.
pub(crate) fn set_mtu(handle: i32, mtu: u16) -> Result<()> {
    if let Some(net) = &functions(handle)?.net {
        return net.set_mtu(mtu);
    }
    packet_inlet(handle)?.set_mtu(mtu);
    Ok(())
}

/// Returns the inlet for datagrams, as [`packet_inlet`] does for packets.
pub(crate) fn datagram_inlet(handle: i32) -> Result<DatagramInlet> {
    let functions = functions(handle)?;
    let missing = || Error::new(ErrorKind::Unsupported, "the tunnel has no wg_transport_t");
    functions.inlets.transport.as_ref().ok_or_else(missing)?.inlet(handle)
}

fn functions(handle: i32) -> Result<Arc<AppFunctions>> {
    handle::check_process(handle)?;
    let Known { functions, entry } = handle::functions::<Running>(handle)?;
    if let Some(running) = entry {
        running.check()?;
        running.check_running()?;
    }
    Ok(functions)
}

fn slot_with<F: Copy>(callback: Callback<F>) -> Arc<Slot<F>> {
    let slot = Slot::new();
    slot.set(NewCallback::Callback(callback));
    Arc::new(slot)
}

struct AppTun {
    handle: i32,
    functions: Arc<Slot<TunFunctions>>,
}

impl PacketSink for AppTun {
    fn write(&self, packets: PacketList<'_>) -> usize {
        let mut taken = 0;
        self.functions.call(|functions, user| {
            let mut batch = [wg_packet_t::none(); WG_BATCH_SIZE];
            for ranges in packets.ranges.chunks(WG_BATCH_SIZE) {
                for (packet, range) in batch.iter_mut().zip(ranges) {
                    *packet = packets.buffer[range.clone()].into();
                }
                // SAFETY: the app allows this call, on this thread; as many packets are there, and live.
                let took = unsafe { (functions.write)(user, self.handle, batch.as_ptr(), ranges.len()) };
                taken += took.min(ranges.len());
            }
        });
        taken
    }

    fn has_room(&self) {
        self.functions.call(|functions, user| {
            if let Some(room) = functions.room {
                // SAFETY: the app allows this call, on this thread.
                unsafe { room(user, self.handle) }
            }
        });
    }
}

struct AppTransport {
    handle: i32,
    functions: Arc<Slot<SendFunction>>,
}

impl DatagramSink for AppTransport {
    fn send(&self, datagrams: &mut dyn Iterator<Item = Datagram<'_>>) -> usize {
        let mut sent = 0;
        self.functions.call(|send, user| {
            let mut batch = [wg_datagram_t::none(); WG_BATCH_SIZE];
            let mut peers = [wg_endpoint_t::default(); WG_BATCH_SIZE];
            loop {
                let mut count = 0;
                for ((place, peer), datagram) in batch.iter_mut().zip(&mut peers).zip(&mut *datagrams) {
                    *place = wg_datagram_t::to_send(datagram, peer);
                    count += 1;
                }
                if count == 0 {
                    break;
                }
                // SAFETY: the app allows this call, on this thread; as many datagrams are there, and live.
                let took = unsafe { send(user, self.handle, batch.as_ptr(), count) }.min(count);
                sent += took;
                if took < count {
                    break;
                }
            }
        });
        sent
    }
}
