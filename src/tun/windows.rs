//! Adapters of Wintun, the TUN driver for Windows.
//!
//! A program brings wintun.dll along; it is loaded by its path ([`Wintun`]). An adapter exists as long as an
//! [`Adapter`] that has created it, and carries packets while there is a [`WintunTun`].
//!
//! ```no_run
//! let tun = wg_embed::tun::windows::WintunTun::create("wg0", 0)?;
//! # Ok::<(), wg_embed::Error>(())
//! ```

mod interface;
mod session;
mod wintun;

pub use wintun::{Adapter, Wintun, guid_of};

use std::{
    collections::VecDeque,
    fmt, io, mem,
    os::windows::io::AsHandle,
    sync::{Arc, Mutex},
    time::Duration,
};

use self::{
    interface::{Observer, Watch},
    session::{RING, Session},
};
use super::{DEFAULT_MTU, PacketArena, PacketList, Tun, TunEvent};
use crate::{
    error::{Error, Result},
    sync::{
        self,
        event::{Event, Timer, wait_any},
    },
};

/// The smallest MTU: every host must accept packets of this size.
const MIN_MTU: u16 = 576;

/// A [`Tun`] over an adapter of Wintun. Dropping it ends the session, and closes the adapter.
///
/// It is up from the start, which is the first event, and its MTU is that of the interface, the smaller one of both
/// address families. An adapter that is disabled or removed ends it: `read` then fails. Its packets wait in two rings
/// of 8 MiB, which do not count towards a memory limit; a packet that finds the ring to Windows full is dropped.
///
/// A tunnel serves it on a thread of its own: it cannot be waited for together with sockets.
pub struct WintunTun {
    // Fields are dropped in this order: nothing is told of an adapter that is closed.
    watch: Option<Watch>,
    session: Session,
    timer: Timer,
    state: Arc<State>,
}

/// What the system's thread changes.
struct State {
    luid: u64,
    wake: Event,
    changes: Mutex<Changes>,
}

struct Changes {
    mtu: u16,
    /// That which the program has set last; others may have changed the interface's since then.
    wanted: u16,
    /// What was not yet reported, each kind at most once.
    events: VecDeque<TunEvent>,
}

impl State {
    fn wake(&self) {
        if let Err(error) = self.wake.set() {
            tracing::error!(%error, "cannot wake the thread that reads packets");
        }
    }

    /// Tells the interface's system its MTU, if the system can be told.
    fn apply_mtu(&self, mtu: u16) -> io::Result<()> {
        match interface::set_mtu(self.luid, mtu) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::debug!(mtu, "the system has no function for the MTU of an interface");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

impl Observer for State {
    fn added(&self) {
        let mtu = sync::lock(&self.changes).wanted;
        if let Err(error) = self.apply_mtu(mtu) {
            tracing::warn!(%error, mtu, "cannot set the MTU of the interface");
        }
    }

    fn mtu(&self, mtu: u16) {
        let mut changes = sync::lock(&self.changes);
        if changes.mtu == mtu {
            return;
        }
        changes.mtu = mtu;
        changes.events.retain(|event| !matches!(event, TunEvent::Mtu(_)));
        changes.events.push_back(TunEvent::Mtu(mtu));
        drop(changes);
        self.wake();
    }
}

impl WintunTun {
    /// Creates an adapter with the GUID of its name, by the wintun.dll that is [found](Wintun::find), and starts its
    /// session. It is removed when this is dropped.
    ///
    /// # Errors
    /// Those of [`Wintun::find`], [`Adapter::create`] and [`start`](Self::start).
    pub fn create(name: &str, mtu: u16) -> Result<Self> {
        Self::start(Adapter::create(&Wintun::find()?, name, Some(guid_of(name)))?, mtu)
    }

    /// Starts a session of the adapter, and gives its interface this MTU; 1420 if it is 0.
    ///
    /// # Errors
    /// `Invalid` if the MTU is less than 576; errors of the system, also if the adapter already has a session.
    pub fn start(adapter: Adapter, mtu: u16) -> Result<Self> {
        let mtu = if mtu == 0 { DEFAULT_MTU } else { mtu };
        check_mtu(mtu)?;
        let luid = adapter.luid();
        let session = Session::start(adapter)?;
        let events = VecDeque::from([TunEvent::Up]);
        let resources = |e| Error::io("cannot wait for the adapter's packets", e);
        let wake = Event::once().map_err(resources)?;
        let timer = Timer::new().map_err(resources)?;
        let state = Arc::new(State { luid, wake, changes: Mutex::new(Changes { mtu, wanted: mtu, events }) });
        // An interface that is not there yet is given its MTU when it is added.
        let watch = Watch::new(luid, state.clone());
        if let Err(error) = &watch {
            tracing::warn!(%error, "changes of the interface's MTU will not be noticed");
        }
        if let Err(error) = state.apply_mtu(mtu) {
            tracing::debug!(%error, mtu, "cannot set the MTU of the interface yet");
        }
        Ok(Self { watch: watch.ok(), session, timer, state })
    }

    /// Returns the LUID of the adapter (`NET_LUID.Value`).
    #[must_use]
    pub fn luid(&self) -> u64 {
        self.state.luid
    }

    /// Sets the MTU of the interface, for both address families (for IPv6 at least 1280), and that of the tunnel.
    ///
    /// # Errors
    /// `Invalid` if it is less than 576, and errors of the system; the tunnel then keeps its MTU.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        check_mtu(mtu)?;
        // Before: a family may be added to the interface at any time.
        let before = mem::replace(&mut sync::lock(&self.state.changes).wanted, mtu);
        self.state.apply_mtu(mtu).map_err(|e| {
            sync::lock(&self.state.changes).wanted = before;
            Error::io(format!("cannot set the MTU of the adapter {}", self.session.adapter().name()), e)
        })?;
        self.state.mtu(mtu);
        Ok(())
    }
}

fn check_mtu(mtu: u16) -> Result<()> {
    if mtu < MIN_MTU {
        return Err(Error::invalid(format!("an MTU of {mtu} is too small: at least {MIN_MTU}")));
    }
    Ok(())
}

impl Tun for WintunTun {
    fn name(&self) -> String {
        self.session.adapter().name().to_owned()
    }

    fn mtu(&self) -> u16 {
        sync::lock(&self.state.changes).mtu
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let (wake, readable) = (self.state.wake.as_handle(), self.session.readable());
        match timeout {
            None => wait_any(&[wake, readable], None),
            Some(Duration::ZERO) => wait_any(&[wake, readable], timeout),
            Some(after) => {
                self.timer.set(after)?;
                wait_any(&[wake, readable, self.timer.as_handle()], None)
            }
        }
        .map(drop)
    }

    fn wake(&self) {
        self.state.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        sync::lock(&self.state.changes).events.pop_front()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let before = arena.slots().len();
        let read = self.session.read(arena);
        match arena.slots().len() - before {
            // An error comes again in the next call.
            0 => read.map(|()| 0),
            count => Ok(count),
        }
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        self.session.write(packets)
    }

    fn read_drops(&self) -> u64 {
        self.session.read_drops()
    }
}

impl fmt::Debug for WintunTun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WintunTun")
            .field("adapter", self.session.adapter())
            .field("ring", &RING)
            .field("watched", &self.watch.is_some())
            .finish_non_exhaustive()
    }
}
