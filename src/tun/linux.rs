//! TUN devices of Linux and Android, created here or passed as a descriptor.
//!
//! An interface may have several queues, each of which another thread reads.
//!
//! With virtio-net headers (always, if created here) the kernel transfers up to 64 KB of a flow per call, see
//! [`offload`](super::offload). A descriptor without them is read and written packet by packet.
//!
//! The interface may be moved to another network namespace: it continues to work, and is watched there, if the process
//! may enter that namespace. If it may not, the interface counts as up and keeps its last MTU. Android does not permit
//! apps to watch: there it counts as up.

mod create;
mod link;
mod queues;
mod steering;
mod sys;
mod vnet;

use self::{
    create::{check_name, check_queues, lengthen_queues, open_first_queue, open_queue},
    link::{Change, Link, State},
    queues::Queues,
    vnet::Vnet,
};
use super::{
    DEFAULT_MTU, MAX_QUEUES, PacketArena, PacketList, Tun, TunEvent,
    descriptor::{Descriptor, PacketIo, Reading},
    offload::VNET_HEADER_LEN,
    packet_fd::PacketFd,
};
use crate::{
    error::{Error, ErrorKind, Result},
    poll::Registered,
    sync,
};
use std::{
    io, mem,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

const IFF_TUN: u16 = libc::IFF_TUN as u16;
const IFF_NO_PI: u16 = libc::IFF_NO_PI as u16;
const IFF_VNET_HDR: u16 = libc::IFF_VNET_HDR as u16;
const IFF_MULTI_QUEUE: u16 = libc::IFF_MULTI_QUEUE as u16;

/// Checksums, and TCP with or without ECN.
const TCP_OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// Several UDP datagrams as one packet; since Linux 6.2.
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// A TUN device, or another descriptor for packets.
#[derive(Debug)]
pub struct LinuxTun {
    descriptor: Descriptor<Packets>,
    /// Whether there may be unread messages about the interface.
    changed: AtomicBool,
    mtu: Arc<AtomicU16>,
    watch: Mutex<Watch>,
    /// Populated if it has several.
    queues: Option<Queues>,
}

/// Sets the MTU of the interface of a TUN's descriptor. Without effect for descriptors without an interface.
///
/// # Errors
/// Errors of the system: it requires CAP_NET_ADMIN.
pub fn set_mtu(fd: impl AsFd, mtu: u16) -> Result<()> {
    let Ok((name, _)) = sys::interface(fd) else {
        return Ok(());
    };
    set_mtu_of(&name, mtu)
}

fn set_mtu_of(name: &str, mtu: u16) -> Result<()> {
    link::set_mtu(name, mtu).map_err(|err| Error::io(format!("cannot set the MTU of interface {name}"), err))
}

/// Packets through one descriptor.
#[derive(Debug)]
struct Packets {
    fd: PacketFd,
    /// Populated if packets have virtio-net headers.
    vnet: Option<Vnet>,
}

impl Packets {
    /// Examines a descriptor of the interface `name`, which has these flags.
    fn of(fd: OwnedFd, name: &str, flags: u16) -> Result<Self> {
        let vnet = if flags & IFF_VNET_HDR == 0 {
            None
        } else {
            let len = sys::vnet_header_len(&fd)
                .map_err(|err| Error::io(format!("cannot read the header length of interface {name}"), err))?;
            if !(VNET_HEADER_LEN..=vnet::MAX_HEADER_LEN).contains(&len) {
                let text = format!("interface {name} has virtio-net headers of {len} bytes");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            Some(Vnet::new(len, offer_offloads(&fd)?))
        };
        Ok(Self { fd: PacketFd::new(fd)?, vnet })
    }

    /// Examines the descriptor of a further queue of the interface `name`.
    fn further(fd: OwnedFd, name: &str) -> Result<Self> {
        let (other, flags) = sys::interface(&fd).map_err(|err| Error::io("a queue's descriptor is no TUN", err))?;
        if other != name || flags & IFF_MULTI_QUEUE == 0 {
            return Err(Error::invalid(format!("a queue's descriptor is one of {other}, and not a queue of {name}")));
        }
        Self::of(fd, name, flags)
    }
}

impl PacketIo for Packets {
    fn fd(&self) -> &PacketFd {
        &self.fd
    }

    fn read(&self, reading: &mut Reading, arena: &mut PacketArena, usual: u16) -> io::Result<usize> {
        match &self.vnet {
            Some(vnet) => vnet.read(&self.fd, reading, arena),
            None => PacketIo::read(&self.fd, reading, arena, usual),
        }
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        match &self.vnet {
            Some(vnet) => vnet.write(&self.fd, packets),
            None => PacketIo::write(&self.fd, packets),
        }
    }
}

/// A descriptor and its interface, after examination.
struct Found {
    packets: Arc<Packets>,
    link: Option<Link>,
    /// Empty if there is no interface.
    name: String,
    state: State,
}

impl Found {
    /// Examines a descriptor by querying it. An `mtu` of 0 means 1420.
    fn new(fd: OwnedFd, mtu: u16) -> Result<Self> {
        let mut state = State { up: true, mtu: if mtu == 0 { DEFAULT_MTU } else { mtu } };
        let (name, flags) = match sys::interface(&fd) {
            Ok(found) => found,
            Err(err) if err.raw_os_error() == Some(libc::EBADFD) => {
                return Err(Error::new(ErrorKind::NotFound, "the TUN descriptor has no interface, or it was removed"));
            }
            // Not a TUN, or a sandbox forbids the query.
            Err(_) => {
                let packets = Arc::new(Packets { fd: PacketFd::new(fd)?, vnet: None });
                return Ok(Self { packets, link: None, name: String::new(), state });
            }
        };
        // IFF_NO_PI cannot be queried: in the answer its bit has another meaning, and is always set.
        if flags & IFF_TUN == 0 {
            let text = format!("interface {name} is a TAP: its packets are Ethernet frames");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let packets = Packets::of(fd, &name, flags)?;
        let watched = if cfg!(target_os = "linux") { Link::open_at(packets.fd.as_fd(), &name).ok() } else { None };
        let link = if let Some((link, found)) = watched {
            state = found;
            Some(link)
        } else {
            if let Ok(mtu) = link::mtu(&name) {
                state.mtu = mtu;
            }
            None
        };
        Ok(Self { packets: Arc::new(packets), link, name, state })
    }
}

/// The state of the interface, as in the system and as reported to the tunnel.
#[derive(Debug)]
struct Watch {
    packets: Arc<Packets>,
    /// `None` if it has no name, or may not be watched.
    link: Option<Link>,
    /// The last known name.
    name: String,
    /// The last state reported by the system.
    seen: State,
    /// Whether it counts as up, and the state reported to the tunnel.
    up: bool,
    told_up: Option<bool>,
    told_mtu: u16,
}

impl LinuxTun {
    /// Creates an interface with an MTU of 1420 and room for 1,024 waiting packets; it is down, which is the first
    /// event. It is removed when this is dropped. An existing unused persistent TUN of that name is used instead;
    /// without the right to change it, it keeps its own MTU. The length of its queue is kept if it is not the system's
    /// default.
    ///
    /// The name is used literally: 1 to 15 bytes, not `.` or `..`, without `/`, `:`, white space and control
    /// characters. `%` is refused, since the kernel would take it as a template for another name.
    ///
    /// # Errors
    /// If the name is invalid or in use, the device node is missing, or the process lacks CAP_NET_ADMIN.
    pub fn create(name: &str) -> Result<Self> {
        Self::create_with_queues(name, 1)
    }

    /// Creates an interface like [`create`](Self::create), with up to [`MAX_QUEUES`] queues, each of which a tunnel
    /// reads by a thread of its own. So several flows use several processors. An existing persistent TUN must have been
    /// made with IFF_MULTI_QUEUE if this is not 1, and without it if it is.
    ///
    /// # Errors
    /// As [`create`](Self::create); `Invalid` for another number.
    pub fn create_with_queues(name: &str, queues: usize) -> Result<Self> {
        check_name(name)?;
        check_queues(queues)?;
        let flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | if queues > 1 { IFF_MULTI_QUEUE } else { 0 };
        let fd = open_first_queue(name, flags)?;
        let (name, found) = sys::interface(&fd).map_err(|err| Error::io("cannot read the interface's name", err))?;
        let watching = |err| Error::io(format!("cannot watch interface {name}"), err);
        let link = Link::open(&name).map_err(watching)?;
        match sys::set_mtu(&link, &name, DEFAULT_MTU) {
            // Its owner made it persistent, so that a program without privileges may use it unchanged.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => (),
            result => result.map_err(|err| Error::io(format!("cannot set the MTU of interface {name}"), err))?,
        }
        lengthen_queues(&link, &name);
        let seen = link.ask(&name).map_err(watching)?;
        // A persistent interface may have headers of another length.
        let packets = Arc::new(Packets::of(fd, &name, found)?);
        let further = |_| open_queue(&name, flags).and_then(|fd| Packets::further(fd, &name));
        let further = (1..queues).map(further).collect::<Result<_>>()?;
        Self::new(Found { packets, link: Some(link), name, state: seen }, further, seen.up)
    }

    /// Takes a descriptor and examines it: a TUN with or without virtio-net headers, or else any descriptor that
    /// [`FdTun`](super::fd::FdTun) accepts. It is made non-blocking. On failure it is closed: a caller that wants to
    /// keep it passes a duplicate. Offloads that were enabled for virtio-net headers stay enabled in any case.
    ///
    /// Its creator brings the interface up: the first event is always [`TunEvent::Up`], later ones report changes. A
    /// TUN must have been created with IFF_NO_PI, which cannot be checked. The MTU is that of the interface; if it
    /// cannot be read, it is `mtu`, or 1420 if that is 0.
    ///
    /// # Errors
    /// If the descriptor does not transfer one IP packet at a time.
    pub fn adopt(fd: OwnedFd, mtu: u16) -> Result<Self> {
        Self::new(Found::new(fd, mtu)?, Vec::new(), true)
    }

    /// Takes the descriptors of all queues of an interface that was created with IFF_MULTI_QUEUE, as described in
    /// [`adopt`](Self::adopt): at most [`MAX_QUEUES`]. A tunnel reads each by a thread of its own. Packets in queues
    /// that were not passed are lost. A single descriptor may be anything that `adopt` takes.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt); `Invalid` if the number of descriptors is 0 or too large, or if they do not belong to
    /// one interface.
    pub fn adopt_queues(fds: impl IntoIterator<Item = OwnedFd>, mtu: u16) -> Result<Self> {
        let mut fds: Vec<_> = fds.into_iter().collect();
        check_queues(fds.len())?;
        let further = fds.split_off(1);
        let first = fds.into_iter().map(|fd| Found::new(fd, mtu)).next();
        let first = first.ok_or_else(|| Error::invalid("there is no descriptor"))??;
        if !further.is_empty() && !is_queue(&first.packets.fd) {
            return Err(Error::invalid("the first descriptor is not a queue of an interface with several"));
        }
        let further = further.into_iter().map(|fd| Packets::further(fd, &first.name)).collect::<Result<_>>()?;
        Self::new(first, further, true)
    }

    /// Sets the MTU of the interface, which is reported as an event. Without effect for descriptors without an
    /// interface.
    ///
    /// # Errors
    /// Errors of the system: it requires CAP_NET_ADMIN.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        match self.name() {
            name if name.is_empty() => Ok(()),
            name => set_mtu_of(&name, mtu),
        }
    }

    /// Replaces the descriptor by another, as described in [`adopt`](Self::adopt): on Android an app that changes
    /// addresses or routes gets a new interface. When this returns, the old descriptor is closed and no longer written.
    /// Packets that were read from it are passed on; unread packets are lost. Any thread may call this at any time.
    ///
    /// The interface counts as up again, and its MTU is that of the new one; changes are reported as events.
    ///
    /// A `tracing` subscriber must not call this for an event of this library: some events are reported under a lock
    /// that this waits for.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt), and `Unsupported` if this has several queues. The old descriptor then remains in use.
    pub fn replace(&self, fd: OwnedFd, mtu: u16) -> Result<()> {
        if self.queues.is_some() {
            let text = "the descriptors of an interface with several queues cannot be replaced";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let Found { packets, link, name, state } = Found::new(fd, mtu)?;
        self.add_changes(link.as_ref()).map_err(cannot_wait)?;
        let mut old = None;
        // The watch is not locked while this waits for reads and writes, so that `route_back` does not wait for it.
        let change = || {
            let mut watch = self.watch();
            self.changed.store(link.is_some(), Relaxed);
            self.mtu.store(state.mtu, Relaxed);
            old = mem::replace(&mut watch.link, link);
            (watch.packets, watch.name) = (packets.clone(), name);
            (watch.seen, watch.up) = (state, true);
        };
        self.descriptor.replace(packets.clone(), change).map_err(cannot_wait)?;
        self.remove_changes(old);
        Ok(())
    }

    /// Uses the actual state of an adopted interface, even if it is down: for a daemon, which follows the interface as
    /// one of its own. To be called before the first event is read.
    #[must_use]
    pub fn with_link_state(self) -> Self {
        let mut watch = self.watch();
        watch.up = watch.seen.up;
        drop(watch);
        self
    }

    fn new(found: Found, further: Vec<Packets>, up: bool) -> Result<Self> {
        let Found { packets, link, name, state } = found;
        let mtu = Arc::new(AtomicU16::new(state.mtu));
        let queues = (!further.is_empty()).then(|| Queues::new(further, &mtu)).transpose().map_err(cannot_wait)?;
        let tun = Self {
            descriptor: Descriptor::new(packets.clone()).map_err(cannot_wait)?,
            // Changes between opening the link and querying it.
            changed: AtomicBool::new(link.is_some()),
            mtu,
            watch: Mutex::new(Watch { packets, link, name, seen: state, up, told_up: None, told_mtu: state.mtu }),
            queues,
        };
        tun.add_changes(tun.watch().link.as_ref()).map_err(cannot_wait)?;
        Ok(tun)
    }

    fn add_changes(&self, link: Option<&Link>) -> io::Result<()> {
        link.map_or(Ok(()), |link| self.descriptor.waiter.add_changes(link.as_fd()))
    }

    fn remove_changes(&self, link: Option<Link>) {
        if let Some(link) = link {
            self.descriptor.waiter.remove_changes(link.as_fd());
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        sync::lock(&self.watch)
    }

    /// Records a state of the interface reported by the system.
    fn see(&self, watch: &mut Watch, state: State) {
        // An adopted interface counts as up until its state changes.
        if state.up != watch.seen.up {
            watch.up = state.up;
        }
        watch.seen = state;
        self.mtu.store(state.mtu, Relaxed);
    }

    /// Searches for the interface again, after it left or messages were lost.
    fn look(&self, watch: &mut Watch) {
        // It may be moved again, or renamed, during the search.
        for _ in 0..3 {
            let Ok((name, _)) = sys::interface(&watch.packets.fd) else {
                // It was removed, which the next read reports.
                return;
            };
            watch.name = name;
            match Link::open_at(watch.packets.fd.as_fd(), &watch.name).and_then(|(link, state)| {
                self.add_changes(Some(&link))?;
                Ok((link, state))
            }) {
                Ok((link, state)) => {
                    self.remove_changes(watch.link.replace(link));
                    self.see(watch, state);
                    return;
                }
                Err(err) => tracing::debug!(%err, name = watch.name, "the interface is not where it was"),
            }
        }
        tracing::warn!(name = watch.name, "the interface left to where it cannot be watched: it counts as up");
        self.remove_changes(watch.link.take());
        watch.up = true;
    }
}

impl Watch {
    /// Returns the next event that was not yet reported.
    fn untold(&mut self) -> Option<TunEvent> {
        if self.told_up != Some(self.up) {
            self.told_up = Some(self.up);
            return Some(if self.up { TunEvent::Up } else { TunEvent::Down });
        }
        if self.told_mtu != self.seen.mtu {
            self.told_mtu = self.seen.mtu;
            return Some(TunEvent::Mtu(self.told_mtu));
        }
        None
    }
}

/// Returns the descriptor that is currently in use, for a child of `fork()` to close.
impl AsRawFd for LinuxTun {
    fn as_raw_fd(&self) -> RawFd {
        self.watch().packets.fd.as_fd().as_raw_fd()
    }
}

impl Tun for LinuxTun {
    fn name(&self) -> String {
        let mut watch = self.watch();
        if !watch.name.is_empty() {
            // It may have been renamed.
            if let Ok((name, _)) = sys::interface(&watch.packets.fd) {
                watch.name = name;
            }
        }
        watch.name.clone()
    }

    fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        if self.descriptor.waiter.wait(timeout)? {
            self.changed.store(true, Relaxed);
        }
        Ok(())
    }

    fn register(&self, registry: &Arc<mio::Registry>, tokens: Registered<mio::Token>) -> io::Result<bool> {
        self.descriptor.waiter.register(registry, tokens)
    }

    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        self.descriptor.waiter.deregister(registry)
    }

    fn wake(&self) {
        self.descriptor.waiter.wake();
        self.queues.iter().for_each(Queues::wake);
    }

    fn queues(&self) -> Vec<Arc<dyn Tun>> {
        self.queues.as_ref().map_or_else(Vec::new, Queues::further)
    }

    fn event(&self) -> Option<TunEvent> {
        let mut watch = self.watch();
        loop {
            if let Some(event) = watch.untold() {
                return Some(event);
            }
            // Cleared before the socket is read, so that messages in between are not missed.
            if !self.changed.swap(false, Relaxed) {
                return None;
            }
            let change = watch.link.as_mut().and_then(Link::next);
            match change {
                None => continue,
                Some(Change::State(state)) => self.see(&mut watch, state),
                Some(Change::Left | Change::Missed) => self.look(&mut watch),
            }
            self.changed.store(true, Relaxed);
        }
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let read = self.descriptor.read(arena, self.mtu())?;
        if let Some(queues) = &self.queues {
            queues.note_first(arena);
        }
        Ok(read)
    }

    fn is_drained(&self) -> bool {
        self.descriptor.is_drained()
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        match &self.queues {
            Some(queues) => queues.write(&self.descriptor, packets),
            None => self.descriptor.write(packets),
        }
    }

    fn route_back(&self, sender: IpAddr) -> Option<u8> {
        // From the watch: an ioctl on the TUN would wait for the kernel's lock for changes of interfaces.
        let name = {
            let watch = sync::try_lock(&self.watch)?;
            watch.link.as_ref().is_some_and(Link::is_here).then(|| watch.name.clone())?
        };
        // The routes queried are those of this thread's namespace, and not those of a VRF.
        let is_in_vrf = Path::new("/sys/class/net").join(name).join("master").exists();
        if is_in_vrf { None } else { link::route_to(sender) }
    }

    fn read_drops(&self) -> u64 {
        self.descriptor.drops() + self.queues.as_ref().map_or(0, Queues::drops)
    }

    fn memory(&self) -> usize {
        self.descriptor.memory() + self.queues.as_ref().map_or(0, Queues::memory)
    }

    fn trim(&self) {
        self.descriptor.trim();
        self.queues.iter().for_each(Queues::trim);
    }

    fn queue_limit(&self) -> usize {
        self.queues.as_ref().map_or(0, Queues::max_memory)
    }
}

/// Returns whether a descriptor is a queue of an interface that may have several.
fn is_queue(fd: impl AsFd) -> bool {
    sys::interface(fd).is_ok_and(|(_, flags)| flags & IFF_MULTI_QUEUE != 0)
}

fn cannot_wait(err: io::Error) -> Error {
    Error::io("cannot wait for the descriptor", err)
}

/// Enables the offloads that this module can undo. Returns whether the kernel supports those of UDP, and therefore
/// accepts large UDP packets.
fn offer_offloads(fd: &OwnedFd) -> Result<bool> {
    if sys::set_offload(fd, TCP_OFFLOADS | UDP_OFFLOADS).is_ok() {
        return Ok(true);
    }
    match sys::set_offload(fd, TCP_OFFLOADS) {
        Ok(()) => Ok(false),
        // An old kernel, or a sandbox. Packets then arrive one by one.
        Err(err) => {
            tracing::debug!(%err, "the TUN has no offloads");
            Ok(false)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::{os::unix::net::UnixDatagram, thread, time::Instant};

    fn pair() -> (OwnedFd, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (ours.into(), theirs)
    }

    fn wait(tun: &LinuxTun) {
        /// Only ends a test that hangs.
        const LIMIT: Duration = Duration::from_secs(300);
        let start = Instant::now();
        tun.wait(Some(LIMIT)).unwrap();
        assert!(start.elapsed() < LIMIT, "nothing ends the wait");
    }

    #[test]
    fn a_replacement_that_waits_for_a_write_keeps_no_question_waiting() {
        let (ours, _app) = pair();
        let tun = LinuxTun::adopt(ours, 0).unwrap();
        let (next, app) = pair();
        app.send(&[0x45; 20]).unwrap();
        thread::scope(|s| {
            let writing = tun.descriptor.hold();
            s.spawn(|| tun.replace(next, 1300).unwrap());
            // For what is in the new one: the replacement has begun.
            wait(&tun);
            assert!(sync::try_lock(&tun.watch).is_some());
            drop(writing);
        });
        assert_eq!(tun.mtu(), 1300);
    }

    /// As it is while a child process has it.
    #[test]
    fn the_watch_of_an_old_interface_that_stays_open_wakes_no_thread() {
        let (ours, _app) = pair();
        let tun = LinuxTun::adopt(ours, 0).unwrap();
        let link = Link::open("lo").unwrap();
        let duplicate = link.as_fd().try_clone_to_owned().unwrap();
        tun.add_changes(Some(&link)).unwrap();
        tun.watch().link = Some(link);
        let answered = || {
            // A question about nothing, which is acknowledged.
            let mut question = [0; 16];
            let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
            (question[0], question[4], question[6]) = (16, libc::RTM_GETLINK as u8, flags as u8);
            assert_eq!(SockRef::from(&duplicate).send(&question).unwrap(), 16);
        };
        answered();
        wait(&tun);
        assert!(tun.changed.load(Relaxed));
        let (next, _app) = pair();
        tun.replace(next, 0).unwrap();
        answered();
        tun.wait(Some(Duration::ZERO)).unwrap();
        assert!(!tun.changed.load(Relaxed));
    }

    #[test]
    fn names_are_taken_as_they_are_or_refused() {
        for name in ["wg0", "a", "fifteen-bytes-x", "wg.0", "_", "-", "ß"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "sixteen-bytes-xx", ".", "..", "a/b", "a b", "a\tb", "wg%d", "a:1", "a\0", "a\u{a0}b"] {
            assert_eq!(check_name(name).unwrap_err().kind(), ErrorKind::Invalid, "{name:?}");
        }
    }
}
