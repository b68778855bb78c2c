//! The amount of work while a lock is held that packets, timers or handshakes wait for: tests count it, since times
//! depend on the machine. It must not depend on the number of peers and allowed IPs.
//!
//! Each lock that is taken is a unit of work, and so is each step without a lock in which [`work`] is called.

use std::cell::RefCell;

type Probe = Box<dyn FnMut(usize)>;

thread_local! {
    static PROBE: RefCell<Option<Probe>> = const { RefCell::new(None) };
}

/// Counts `units` of work before they are done.
pub(super) fn work(units: usize) {
    // Work of the probe itself does not count.
    if let Some(mut probe) = PROBE.take() {
        probe(units);
        PROBE.set(Some(probe));
    }
}

/// Calls `probe` before each unit of work in `done`.
pub(super) fn probing(probe: impl FnMut(usize) + 'static, done: impl FnOnce()) {
    PROBE.set(Some(Box::new(probe)));
    done();
    PROBE.set(None);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        bind::mem::MemNetwork,
        config::{AllowedIpUpdate, HostPort, PeerUpdate, Update},
        device::{Device, Options, Outbound, PeerStats},
        key::{PrivateKey, PublicKey},
        time::ManualClock,
        tun::mem::{MemHandle, MemTun},
    };
    use std::{
        collections::BTreeMap,
        net::{IpAddr, Ipv4Addr, SocketAddr},
        rc::Rc,
        sync::{Arc, Mutex, RwLock},
        time::Duration,
    };

    const PEERS: u32 = 1000;
    const PREFIXES: u32 = 3000;
    /// A slice of 128, and what belongs to it.
    const MOST: usize = 300;

    fn is_free<T>(lock: &Mutex<T>) -> bool {
        lock.try_lock().is_ok()
    }

    fn is_unused<T>(lock: &RwLock<T>) -> bool {
        lock.try_write().is_ok()
    }

    /// Units of work during one hold of each lock: of the present one, and the most of all.
    type Holds = Rc<RefCell<BTreeMap<&'static str, (usize, usize)>>>;

    struct World {
        device: Arc<Device>,
        clock: Arc<ManualClock>,
        tun: MemHandle,
        holds: Holds,
    }

    impl World {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::new());
            let (tun, handle) = MemTun::new("", 1420);
            let options = Options {
                clock: clock.clone(),
                resolve: Some(Box::new(|_| Ok(vec![IpAddr::from([192, 0, 2, 9])]))),
                ..Options::default()
            };
            let bind = MemNetwork::new().bind(Ipv4Addr::new(192, 0, 2, 1).into());
            let device = Arc::new(Device::new(Arc::new(tun), bind, options));
            let private_key = Some(Some(PrivateKey::from_bytes([1; 32])));
            device.apply(Update { private_key, ..Update::default() }).unwrap();
            Self { device, clock, tun: handle, holds: Holds::default() }
        }

        /// Does something, and sees to it that no lock is held for more than a bounded part of it.
        fn holds_little(&self, what: &str, done: impl FnOnce(&Device)) {
            let (device, holds) = (self.device.clone(), self.holds.clone());
            let units = Rc::new(RefCell::new(0));
            let count = units.clone();
            // One that all changes come to.
            let watched = device.peers.list().next();
            let probe = move |units: usize| {
                *count.borrow_mut() += units;
                let see = |name, is_free: bool| {
                    let mut holds = holds.borrow_mut();
                    let (now, most) = holds.entry(name).or_default();
                    *now = if is_free { 0 } else { *now + units };
                    *most = (*most).max(*now);
                };
                see("config", is_free(&device.config));
                see("own_key", is_unused(&device.own_key));
                see("handshake_limiter", is_free(&device.handshake_limiter));
                see("greetings", is_free(&device.greetings));
                see("peers", device.peers.is_unused());
                see("allowed_ips", device.allowed_ips.can_be_read());
                see("index", device.index.is_unused());
                see("deadlines", device.deadlines.is_unused());
                see("budget", device.budget.is_unused());
                see("names", device.names.as_ref().is_none_or(|names| names.is_unused()));
                if let Some(peer) = &watched {
                    see("a peer's state", is_free(&peer.state));
                    see("a peer's handshake", is_free(&peer.handshake));
                }
            };
            probing(probe, || done(&self.device));
            assert!(*units.borrow() > MOST, "{what}: nothing to see in {} units", units.borrow());
            for (lock, (_, most)) in self.holds.take() {
                assert!(most <= MOST, "{what}: {most} units of work under the lock of {lock}");
            }
        }

        fn apply(&self, what: &str, peers: Vec<PeerUpdate>, replace_peers: bool) {
            let update = Update { peers, replace_peers, ..Update::default() };
            self.holds_little(what, |device| device.apply(update).unwrap());
        }

        fn set_key(&self, what: &str, key: Option<u8>) {
            let private_key = Some(key.map(|n| PrivateKey::from_bytes([n; 32])));
            self.holds_little(what, |device| device.apply(Update { private_key, ..Update::default() }).unwrap());
        }

        /// Lets all peers have packets that wait.
        fn send_to_all(&self) {
            let mut outbound = Outbound::new();
            for n in 0..PEERS {
                let mut packet = [0; 20];
                (packet[0], packet[3]) = (0x45, 20);
                packet[16..20].copy_from_slice(&(0x0a00_0000 + n).to_be_bytes());
                assert!(self.tun.inject(&packet));
                self.device.outbound(&mut outbound).unwrap();
            }
        }
    }

    fn prefixes(from: u32, n: u32) -> Vec<AllowedIpUpdate> {
        let prefix = |i| ipnet::Ipv4Net::from(Ipv4Addr::from(from + i)).into();
        (0..n).map(|i| AllowedIpUpdate { prefix: prefix(i), remove: false }).collect()
    }

    fn peers(from: u32) -> Vec<PeerUpdate> {
        let peer = |n: u32| {
            let mut key = [9; 32];
            key[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_le_bytes());
            let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
            peer.endpoint = Some(SocketAddr::from(([192, 0, 2, 2], 1)).into());
            peer.allowed_ips = prefixes(0x0a00_0000 + n - from, 1);
            peer.replace_allowed_ips = true;
            peer.persistent_keepalive = Some(25);
            peer
        };
        (from..from + PEERS).map(peer).collect()
    }

    fn owner(key: u8, from: u32) -> Vec<PeerUpdate> {
        let mut peer = PeerUpdate::new(PublicKey::from_bytes([key; 32]));
        peer.allowed_ips = prefixes(0x0b00_0000 + from, PREFIXES);
        peer.replace_allowed_ips = true;
        vec![peer]
    }

    fn removed(mut peers: Vec<PeerUpdate>) -> Vec<PeerUpdate> {
        for peer in &mut peers {
            *peer = PeerUpdate { remove: true, ..PeerUpdate::new(peer.public_key) };
        }
        peers
    }

    #[test]
    fn many_allowed_ips_change_without_a_long_hold() {
        let world = World::new();
        world.apply("give", owner(1, 0), false);
        world.apply("replace", owner(1, PREFIXES), false);
        world.apply("give to another", owner(2, PREFIXES), false);
        world.holds_little("read back", |device| {
            work(MOST);
            assert_eq!(
                device.snapshot().peers.flatten().map(|peer| peer.allowed_ips.len()).sum::<usize>(),
                PREFIXES as usize
            );
        });
        world.apply("remove", removed(owner(2, 0)), false);
        world.device.trim();
        assert!(world.device.memory_usage().peers < 4096);
    }

    #[test]
    fn many_peers_change_without_a_long_hold() {
        let world = World::new();
        world
            .device
            .apply(Update { private_key: Some(Some(PrivateKey::from_bytes([1; 32]))), ..Update::default() })
            .unwrap();
        world.apply("make", peers(0), false);
        world.holds_little("come up", |device| device.up().unwrap());
        world.send_to_all();
        world.apply("change", peers(0), false);
        world.set_key("another key", Some(2));
        world.set_key("no key", None);
        world.set_key("a key again", Some(3));
        world.holds_little("read back", |device| assert_eq!(device.snapshot().peers.count(), PEERS as usize));
        world.holds_little("statistics", |device| assert_eq!(device.all_peer_stats().count(), PEERS as usize));
        world.holds_little("memory", |device| assert!(device.memory_usage().peers > 500 * PEERS as usize));
        world.holds_little("mark and port", |device| {
            device.apply(Update { fwmark: Some(1), listen_port: Some(9), ..Update::default() }).unwrap();
        });
        world.holds_little("new sockets", |device| device.rebind().unwrap());
        world.holds_little("another network", |device| device.network_changed().unwrap());
        world.holds_little("no roaming", Device::disable_roaming);
        world.holds_little("pause", |device| assert!(device.pause()));
        world.holds_little("resume", |device| device.resume().unwrap());
        world.clock.advance(Duration::from_secs(6));
        world.holds_little("timers", Device::run_timers);
        world.holds_little("trim", Device::trim);
        world.apply("replace", peers(PEERS), true);
        world.apply("remove", removed(peers(PEERS)), false);
        world.apply("make again", peers(0), false);
        world.apply("replace by none", vec![], true);
        assert!(world.device.memory_usage().peers < 4096);
    }

    #[test]
    fn many_names_are_looked_up_without_a_long_hold() {
        let world = World::new();
        world.device.up().unwrap();
        let mut peers = peers(0);
        for (n, peer) in peers.iter_mut().enumerate() {
            // Half of them have the same name.
            let host = if n % 2 == 0 { "a.example:1".into() } else { format!("{n}.example:1") };
            peer.endpoint = Some(host.parse::<HostPort>().unwrap().into());
        }
        world.apply("make", peers, false);
        world.holds_little("look up", |device| assert_eq!(device.resolve_names(), PEERS as usize / 2 + 1));
        let has_address = |peer: &PeerStats| peer.endpoint.is_some();
        assert_eq!(world.device.all_peer_stats().filter(has_address).count(), PEERS as usize);
    }
}
