//! Changes of the configuration: first the steps that can fail, then all others.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Device, OwnKey,
    allowed_ips::Owner,
    link::Port,
    lock, no_such_peer,
    peer::{Handshaking, Peer},
    read,
    sockets::Opened,
    write,
};
use crate::{
    config::{
        EndpointAddr, PeerEndpoint, PeerUpdate, Update,
        snapshot::{InterfaceSnapshot, PeerSnapshot, Snapshot},
    },
    error::{Error, Result},
    key::{PresharedKey, PrivateKey, PublicKey, wipe_below, wiped, wiped_moves},
    noise::{cookie::CookieChecker, handshake::Identity},
};

/// Work for a peer that is left until no configuration lock is held.
struct Followup {
    peer: Arc<Peer>,
    /// Whether it has a new name, or its name is to be resolved again.
    look_up: bool,
    keepalive: bool,
}

impl Device {
    /// Applies a complete change set.
    ///
    /// `AddrInUse` or another socket error for the port, `Permission` or another error for the mark, `Invalid` if there
    /// would be too many peers, or an endpoint is a host name and there is no resolver; `Resources` without memory for
    /// all of it. Nothing has changed then.
    pub fn apply(&self, mut update: Update) -> Result<()> {
        // Reading and moving the update has left its private key on the stack, from where unused bytes could take it to
        // the heap.
        wipe_below();
        self.change(&mut update)
    }

    /// Runs in a frame of its own, in the place that was wiped.
    #[inline(never)]
    fn change(&self, update: &mut Update) -> Result<()> {
        let _hold;
        let (opened, followups) = {
            let _alone = lock(&self.sets);
            self.check_peer_count(update)?;
            self.check_names(update)?;
            // Allocations from here on cannot fail.
            _hold = self.hold_for(update)?;
            let opened = self.apply_sockets(update)?;
            if let Some(key) = &mut update.private_key {
                self.set_private_key(key);
            }
            if update.replace_peers {
                let all = self.peers.drain();
                self.allowed_ips.clear();
                all.for_each(|peer| self.retire(&peer));
            }
            let own = self.identity().map(|i| *i.public());
            let number = update.peers.len();
            let peers = std::mem::take(&mut update.peers).into_iter();
            (opened, peers.filter_map(|p| self.apply_peer(p, own.as_ref(), number)).collect::<Vec<_>>())
        };
        self.after(Ok(opened))?;
        for Followup { peer, look_up, keepalive } in followups {
            if look_up {
                self.look_up(&peer);
            }
            if keepalive {
                self.send_keepalive(&peer);
            } else {
                self.send_staged(&peer);
            }
        }
        self.tell_events();
        Ok(())
    }

    /// Removes a peer.
    ///
    /// # Errors
    /// `NotFound` if there is no such peer.
    pub fn remove_peer(&self, key: &PublicKey) -> Result<()> {
        let _alone = lock(&self.sets);
        let peer = self.peers.remove(key).ok_or_else(|| no_such_peer(key))?;
        self.remove(&peer);
        Ok(())
    }

    fn check_peer_count(&self, update: &Update) -> Result<()> {
        let mut number = if update.replace_peers { 0 } else { self.peers.len() };
        if number + update.peers.len() <= self.max_peers {
            return Ok(());
        }
        // Only now is it worthwhile to track each step.
        let mut changed = HashMap::new();
        changed.try_reserve(update.peers.len())?;
        for change in &update.peers {
            let key = &change.public_key;
            let there = changed.entry(key).or_insert_with(|| !update.replace_peers && self.peers.contains(key));
            number -= usize::from(*there);
            *there = !change.remove && (*there || !change.update_only);
            number += usize::from(*there);
            if number > self.max_peers {
                return Err(Error::invalid(format!("more than {} peers", self.max_peers)));
            }
        }
        Ok(())
    }

    fn check_names(&self, update: &Update) -> Result<()> {
        let is_name = |peer: &PeerUpdate| matches!(peer.endpoint, Some(PeerEndpoint::Host(_)));
        if !self.resolves_names() && update.peers.iter().any(is_name) {
            return Err(Error::invalid("an endpoint is a host name, and there is no resolver"));
        }
        Ok(())
    }

    /// Applies the settings that need the operating system: mark and port. On failure both are unchanged, and were at
    /// all times.
    fn apply_sockets(&self, update: &Update) -> Result<Opened> {
        let (old_mark, old_port) = {
            let config = lock(&self.config);
            (config.fwmark, config.link.port())
        };
        // Both are changed only by a `set`; only a port that the system chose changes by itself.
        let mark = update.fwmark.filter(|mark| *mark != old_mark);
        let port = update.listen_port.map(Port::named).filter(|port| *port != old_port || port.number() == 0);
        if mark.is_none() && port.is_none() {
            return Ok(Opened::None);
        }
        let opened = self.transition().set(port, mark)?;
        self.peers.list().for_each(|p| p.forget_source());
        // Existing sessions need no message for it, as in the kernel.
        Ok(if matches!(opened, Opened::Reopened) { Opened::None } else { opened })
    }

    fn set_private_key(&self, key: &mut Option<PrivateKey>) {
        if self.identity().as_deref().map(Identity::private) == key.as_ref() {
            return;
        }
        let identity = wiped(|| key.take().map(|key| Arc::new(Identity::new(key))));
        // A device is not its own peer.
        let own = identity.as_ref().and_then(|i| self.peers.remove(i.public()));
        own.iter().for_each(|peer| self.remove(peer));
        let checker = identity.as_ref().map(|i| CookieChecker::new(i.public()));
        let number = {
            let mut own_key = write(&self.own_key);
            lock(&self.handshake_limiter).set_checker(checker);
            *own_key = OwnKey { identity, number: own_key.number.wrapping_add(1) };
            own_key.number
        };
        // Without that lock, for which handshakes wait: one that arrives before its peer's turn uses the new key.
        for peer in self.peers.list() {
            self.follow_key(&peer, &mut lock(&peer.handshake), number);
        }
    }

    /// Ends a peer's state that was created with another key of ours than the one of this number. The sessions still
    /// receive.
    pub(super) fn follow_key(&self, peer: &Peer, handshaking: &mut Handshaking, number: u32) {
        if std::mem::replace(&mut handshaking.own_key, number) == number {
            return;
        }
        self.index.remove(handshaking.noise.local_index());
        handshaking.noise.identity_changed();
        let mut state = lock(&peer.state);
        state.sessions.retire();
        state.timers.handshake_may_begin();
    }

    /// Applies the changes to one peer, of `expected` in that change. Returns the peer if it exists afterwards.
    fn apply_peer(&self, update: PeerUpdate, own: Option<&PublicKey>, expected: usize) -> Option<Followup> {
        let key = update.public_key;
        if own == Some(&key) {
            return None;
        }
        // A peer that is created only to be removed still takes prefixes from their owners, as in wireguard-go.
        let may_come = !(update.update_only || update.remove && update.allowed_ips.is_empty());
        let peer = match self.peers.get(&key) {
            Some(peer) => peer,
            None if may_come => self.create_peer(key, expected),
            None => return None,
        };
        // Copied, since moving it out of a box leaves it in the box.
        if let Some(preshared) = &update.preshared_key {
            wiped_moves(|| lock(&peer.handshake).noise.set_preshared(PresharedKey::clone(preshared)));
        }
        if update.replace_allowed_ips || !update.allowed_ips.is_empty() {
            self.allowed_ips.change(&peer, &update.allowed_ips, update.replace_allowed_ips);
        }
        if update.remove {
            self.peers.remove(&key).iter().for_each(|peer| self.remove(peer));
            return None;
        }
        let mut look_up = false;
        // This may be a system call: not under a lock.
        let address = match &update.endpoint {
            Some(PeerEndpoint::Address(endpoint)) => Some(self.resolve_zone(endpoint)),
            _ => None,
        };
        let mut state = lock(&peer.state);
        match (update.endpoint, address) {
            (Some(PeerEndpoint::Address(endpoint)), Some(address)) => {
                if state.location.host().is_some() {
                    self.withdraw_question(&peer);
                }
                state.location.set_address(address, endpoint.zone);
                state.location.set_pinned(self.roaming_disabled.load(Ordering::Relaxed));
            }
            (Some(PeerEndpoint::Host(host)), _) => {
                state.location.set_host(host);
                look_up = true;
            }
            _ => {}
        }
        let keepalive = update.persistent_keepalive.is_some_and(|s| state.timers.set_keepalive_interval(s));
        drop(state);
        Some(Followup { peer, look_up, keepalive })
    }

    fn create_peer(&self, key: PublicKey, expected: usize) -> Arc<Peer> {
        let own_key = read(&self.own_key).number;
        let peer = self.peers.insert(key, own_key, expected);
        self.budget.grow(self.memory_per_peer);
        // Under this lock, so that it is not started after the interface went down and all peers were silenced.
        let config = lock(&self.config);
        if config.link.is_up() {
            lock(&peer.state).timers.start();
        }
        drop(config);
        peer
    }

    /// Returns the current state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        let private_key = self.identity().map(|i| i.private().clone());
        let interface = {
            let config = lock(&self.config);
            InterfaceSnapshot { private_key, listen_port: config.link.port().number(), fwmark: config.fwmark }
        };
        Snapshot { interface, peers: Box::new(self.peers.list().map(|peer| Self::peer_snapshot(&peer))) }
    }

    fn peer_snapshot(peer: &Arc<Peer>) -> Result<PeerSnapshot> {
        let preshared_key = lock(&peer.handshake).noise.preshared().clone();
        let (tx_bytes, rx_bytes) = peer.traffic();
        let allowed_ips = peer.with_list(|list| list.copy())?;
        let state = lock(&peer.state);
        Ok(PeerSnapshot {
            public_key: *peer.key(),
            preshared_key,
            endpoint: state.location.endpoint().map(|e| Self::with_zone(e.dst, state.location.zone())),
            last_handshake: state.last_handshake,
            tx_bytes,
            rx_bytes,
            persistent_keepalive: state.timers.keepalive_interval(),
            allowed_ips,
        })
    }

    /// Returns the address with its configured zone, if the peer has not moved since.
    fn with_zone(addr: SocketAddr, zone: Option<&str>) -> EndpointAddr {
        let mut endpoint = EndpointAddr::from(addr);
        if let Some(zone) = zone {
            endpoint.zone = Some(zone.into());
        }
        endpoint
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        bind::mem::MemNetwork,
        config::AllowedIpUpdate,
        device::{Inbound, Options, Outbound, holds::probing},
        random::SystemRandom,
        time::ManualClock,
        tun::mem::{MemHandle, MemTun},
    };
    use std::{cell::Cell, rc::Rc, sync::Mutex, time::Duration};

    #[test]
    fn a_removed_peer_is_freed() {
        let (tun, handle) = MemTun::new("wg0", 1420);
        let device =
            Device::new(Arc::new(tun), MemNetwork::new().bind("192.0.2.1".parse().unwrap()), Options::default());
        let key = PrivateKey::generate_with(&SystemRandom).public_key();
        let mut peer = PeerUpdate::new(key);
        peer.endpoint = Some("192.0.2.2:1".parse::<SocketAddr>().unwrap().into());
        peer.allowed_ips = vec![AllowedIpUpdate { prefix: "10.0.0.0/8".parse().unwrap(), remove: false }];
        peer.persistent_keepalive = Some(1);
        let private_key = Some(Some(PrivateKey::generate_with(&SystemRandom)));
        device.apply(Update { private_key, peers: vec![peer.clone()], ..Update::default() }).unwrap();
        device.up().unwrap();
        let mut packet = [0; 20];
        (packet[0], packet[3], packet[16]) = (0x45, 20, 10);
        assert!(handle.inject(&packet));
        let (mut outbound, mut inbound) = (Outbound::new(), Inbound::new());
        device.outbound(&mut outbound).unwrap();
        device.inbound(&mut inbound).unwrap();
        device.run_timers();
        assert_eq!(device.indices(), 1);

        let alive = Arc::downgrade(&device.peers.get(&key).unwrap());
        peer.remove = true;
        device.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
        assert!(alive.upgrade().is_none(), "it is kept somewhere");
    }

    struct End {
        device: Device,
        tun: MemHandle,
        buffers: Mutex<(Outbound, Inbound)>,
    }

    impl End {
        fn new(net: &MemNetwork, clock: &Arc<ManualClock>, n: u8) -> Self {
            let (tun, handle) = MemTun::new("", 1420);
            let bind = net.bind([192, 0, 2, n].into());
            let options = Options { clock: clock.clone(), ..Options::default() };
            let device = Device::new(Arc::new(tun), bind, options);
            let update = Update { private_key: Some(Some(key(n))), listen_port: Some(7), ..Update::default() };
            device.apply(update).unwrap();
            device.up().unwrap();
            Self { device, tun: handle, buffers: Mutex::default() }
        }

        /// Makes a peer of the other end, or changes it.
        fn add_peer(&self, n: u8, key: &PrivateKey) {
            let mut peer = PeerUpdate::new(key.public_key());
            peer.endpoint = Some(SocketAddr::from(([192, 0, 2, n], 7)).into());
            peer.allowed_ips = vec![AllowedIpUpdate { prefix: "10.0.0.0/8".parse().unwrap(), remove: false }];
            self.device.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
        }

        fn step(&self) -> usize {
            let (outbound, inbound) = &mut *lock(&self.buffers);
            self.device.outbound(outbound).unwrap() + self.device.inbound(inbound).unwrap()
        }

        /// Sends a packet to the other end. Returns how many arrive there, and how many initiations that takes.
        fn send_to(&self, other: &Self, net: &MemNetwork) -> (usize, usize) {
            let mut packet = [0; 20];
            (packet[0], packet[3], packet[12], packet[16]) = (0x45, 20, 10, 10);
            net.record();
            assert!(self.tun.inject(&packet));
            while self.step() + other.step() > 0 {}
            let initiations = net.take_log().iter().filter(|datagram| datagram.payload[0] == 1).count();
            (other.tun.take_written().len(), initiations)
        }
    }

    fn key(n: u8) -> PrivateKey {
        PrivateKey::from_bytes([n; 32])
    }

    /// While a new private key goes from peer to peer, a handshake is made with it that stays; sessions of the old one
    /// end.
    #[test]
    fn a_handshake_while_the_key_changes_is_made_with_the_new_one() {
        let (net, clock) = (MemNetwork::new(), Arc::new(ManualClock::new()));
        let (a, b) = (Rc::new(End::new(&net, &clock, 1)), Rc::new(End::new(&net, &clock, 2)));
        a.add_peer(2, &key(2));
        b.add_peer(1, &key(1));
        assert_eq!((a.send_to(&b, &net), a.send_to(&b, &net)), ((1, 1), (1, 0)));
        b.add_peer(1, &key(3));
        let peer = a.device.peers.get(&key(2).public_key()).unwrap();
        let followed = move || peer.handshake.try_lock().map(|handshaking| handshaking.own_key).ok();
        let before = followed();
        let (near, far, network, made) = (a.clone(), b.clone(), net.clone(), Rc::new(Cell::new(false)));
        let done = made.clone();
        // The moment when there is a new key and this peer has not followed yet.
        let probe = move |_| {
            let number = near.device.own_key.try_write().map(|own_key| own_key.number).ok();
            if !done.get() && number.is_some() && number != before && followed() == before {
                done.set(true);
                assert_eq!(far.send_to(&near, &network), (1, 1));
            }
        };
        probing(probe, || {
            a.device.apply(Update { private_key: Some(Some(key(3))), ..Update::default() }).unwrap();
        });
        assert!(made.get());
        assert_eq!(a.send_to(&b, &net), (1, 0), "the session stays");
        // Without a handshake by then, the session of the old key is not sent with any more.
        clock.advance(Duration::from_secs(1));
        b.add_peer(1, &key(1));
        a.device.apply(Update { private_key: Some(Some(key(1))), ..Update::default() }).unwrap();
        assert_eq!((a.send_to(&b, &net), a.device.indices()), ((1, 1), 2));
    }
}
