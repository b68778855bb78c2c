//! Where an app's functions meet its tunnel: packets and datagrams go out to them, and come in beside them.

use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    bring::wg_tun_room_fn_t,
    callback::{Callback, Given, Slot},
    datagrams::{WG_BATCH_SIZE, wg_datagram_t},
    endpoint::wg_endpoint_t,
    handle,
    packets::wg_packet_t,
    tunnel::{Running, WG_MEMORY_MIN},
};
use wg_embed::{
    bind::{
        Bind,
        callback::{CallbackBind, Datagram, DatagramInlet, DatagramSink},
    },
    error::{Error, ErrorKind, Result},
    process::PerProcess,
    queue::PacketQueue,
    tun::{
        MAX_PACKET, PacketList, Tun,
        callback::{CallbackTun, PacketInlet, PacketSink},
    },
};

/// Of a tunnel's memory, one part in so many is for each of the queues from the app.
const QUEUE_SHARE: usize = 8;
/// But the largest packet fits, and some more. The header says so.
const MIN_QUEUE: usize = 128 << 10;
const _: () = assert!(MIN_QUEUE > MAX_PACKET + MAX_PACKET / 2);

/// The functions of a [`wg_tun_callbacks_t`](super::bring::wg_tun_callbacks_t).
#[derive(Clone, Copy, Debug)]
pub(super) struct TunFunctions {
    pub(super) write: unsafe extern "C" fn(*mut c_void, i32, *const wg_packet_t, usize) -> usize,
    pub(super) room: wg_tun_room_fn_t,
}

/// The function of a [`wg_transport_t`](super::bring::wg_transport_t).
pub(super) type SendFunction = unsafe extern "C" fn(*mut c_void, i32, *const wg_datagram_t, usize) -> usize;

/// A way out of a tunnel, and the way in beside it.
struct Port<F, I> {
    out: Arc<Slot<F>>,
    inlet: I,
}

type Table<F, I> = Mutex<BTreeMap<i32, Port<F, I>>>;

/// The ports of one kind, by their tunnels' handles. They are known before the tunnels are: while one starts, the app's
/// functions are called already.
pub(super) struct Ports<F, I> {
    table: PerProcess<Table<F, I>>,
    /// What is said of a tunnel that has no such port.
    missing: &'static str,
}

/// Of tunnels whose packets are the app's.
pub(super) static TUNS: Ports<TunFunctions, PacketInlet> =
    Ports::new("the packets of this tunnel do not come from wg_tun_callbacks_t");
/// Of tunnels whose datagrams are the app's.
pub(super) static TRANSPORTS: Ports<SendFunction, DatagramInlet> =
    Ports::new("the datagrams of this tunnel do not come from a wg_transport_t");

impl<F: Copy + Send + Sync + 'static, I: Clone + Send + Sync + 'static> Ports<F, I> {
    const fn new(missing: &'static str) -> Self {
        Self { table: PerProcess::new(), missing }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<i32, Port<F, I>>> {
        self.table.get().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way into a tunnel that runs, or is just being made.
    pub(super) fn inlet(&self, handle: i32) -> Result<I> {
        handle::check_process(handle)?;
        let inlet = self.table().get(&handle).map(|port| port.inlet.clone());
        match (handle::get::<Running>(handle), inlet) {
            (Ok(entry), inlet) => {
                entry.check()?;
                entry.check_running()?;
                inlet.ok_or_else(|| Error::new(ErrorKind::Unsupported, self.missing))
            }
            (Err(_), Some(inlet)) => Ok(inlet),
            (Err(unknown), None) => Err(unknown),
        }
    }

    /// Ends the functions of a tunnel: when this returns, none is running or will be. They are not destroyed yet.
    fn close(&self, handle: i32) -> Option<Callback<F>> {
        // Not under the lock: it waits for functions that may need it.
        let port = self.table().remove(&handle);
        port.and_then(|port| port.out.take())
    }
}

/// Ends the functions of a tunnel that has stopped, of either kind. When this returns, none is running or will be. None is
/// destroyed while another one runs: they may have their pointer in common.
pub(super) fn close(handle: i32) {
    drop((TUNS.close(handle), TRANSPORTS.close(handle)));
}

/// The ports of a tunnel that is being made. Unless they are kept, they are closed when this is dropped.
pub(super) struct Opening {
    handle: i32,
    /// What a queue may take.
    queue: usize,
    is_kept: bool,
}

impl Opening {
    /// No ports yet, for a tunnel that is to have so many, and may take so much memory in all.
    pub(super) fn new(handle: i32, memory: usize, ports: usize) -> Result<Self> {
        let least = WG_MEMORY_MIN + ports * MIN_QUEUE;
        if memory < least {
            let text = format!("memory_limit is {memory}, less than {least}, with what the app brings");
            return Err(Error::invalid(text));
        }
        let queue = (memory / QUEUE_SHARE).min((memory - WG_MEMORY_MIN) / ports.max(1));
        Ok(Self { handle, queue, is_kept: false })
    }

    /// Makes a TUN of functions.
    pub(super) fn tun(&self, callback: Callback<TunFunctions>, mtu: u16) -> Arc<dyn Tun> {
        let out = slot_with(callback);
        let sink = AppTun { handle: self.handle, out: out.clone() };
        let tun = CallbackTun::with_sink("", mtu, PacketQueue::within(self.queue), sink);
        TUNS.table().insert(self.handle, Port { out, inlet: tun.inlet() });
        Arc::new(tun)
    }

    /// Makes a bind of a function.
    pub(super) fn bind(&self, callback: Callback<SendFunction>) -> Arc<dyn Bind> {
        let out = slot_with(callback);
        let bind = CallbackBind::new(self.queue, AppTransport { handle: self.handle, out: out.clone() });
        TRANSPORTS.table().insert(self.handle, Port { out, inlet: bind.inlet() });
        Arc::new(bind)
    }

    /// The tunnel has started: wg_turn_off() will close them.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.is_kept {
            close(self.handle);
        }
    }
}

fn slot_with<F: Copy>(callback: Callback<F>) -> Arc<Slot<F>> {
    let slot = Slot::new();
    slot.set(Given::Callback(callback));
    Arc::new(slot)
}

struct AppTun {
    handle: i32,
    out: Arc<Slot<TunFunctions>>,
}

impl PacketSink for AppTun {
    fn write(&self, packets: PacketList<'_>) -> usize {
        let mut taken = 0;
        self.out.call(|functions, user| {
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
        self.out.call(|functions, user| {
            if let Some(room) = functions.room {
                // SAFETY: the app allows this call, on this thread.
                unsafe { room(user, self.handle) }
            }
        });
    }
}

struct AppTransport {
    handle: i32,
    out: Arc<Slot<SendFunction>>,
}

impl DatagramSink for AppTransport {
    fn send(&self, datagrams: &mut dyn Iterator<Item = Datagram<'_>>) -> usize {
        let mut sent = 0;
        self.out.call(|send, user| {
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
