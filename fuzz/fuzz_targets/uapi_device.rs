//! Changes of a device's configuration: its state is afterwards that of a plain model, which keeps lists and searches
//! them, and a change that is refused changes nothing.
//!
//! The input is a row of operations, each of which adds to the next change set or applies it; there are few keys and
//! prefixes, so that peers often meet.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    AllowedIpUpdate, Device, Options, PeerUpdate, PresharedKey, PrivateKey, PublicKey, Update,
    bind::mem::MemNetwork,
    config::{
        EndpointAddr,
        snapshot::{InterfaceSnapshot, PeerSnapshot, Snapshot},
    },
    ipnet::IpNet,
    tun::mem::MemTun,
    uapi::get_text,
};
use wg_embed_fuzz::{Input, Numbers, at, ip};

const MAX_PEERS: usize = 3;

static KEYS: LazyLock<[(PrivateKey, PublicKey); 5]> = LazyLock::new(|| {
    let random = Numbers::new(4);
    [(); 5].map(|()| {
        let key = PrivateKey::generate_with(&random);
        (key.clone(), key.public_key())
    })
});

/// Peers in the order in which they were made, each with its prefixes in the order in which it got them.
#[derive(Clone, Default)]
struct Model {
    interface: InterfaceSnapshot,
    peers: Vec<PeerSnapshot>,
}

impl Model {
    /// Applies a change set, or nothing of it.
    fn apply(&mut self, update: &Update) -> Result<(), ()> {
        let mut changed = self.clone();
        if let Some(key) = &update.private_key {
            changed.interface.private_key.clone_from(key);
        }
        changed.interface.listen_port = update.listen_port.unwrap_or(changed.interface.listen_port);
        changed.interface.fwmark = update.fwmark.unwrap_or(changed.interface.fwmark);
        let own = changed.interface.private_key.as_ref().map(PrivateKey::public_key);
        changed.peers.retain(|peer| !update.replace_peers && Some(peer.public_key) != own);
        // Also those count that are not made in the end.
        let mut present: Vec<_> =
            if update.replace_peers { vec![] } else { self.peers.iter().map(|peer| peer.public_key).collect() };
        for peer in &update.peers {
            let was_present = present.contains(&peer.public_key);
            present.retain(|key| *key != peer.public_key);
            if !peer.remove && (was_present || !peer.update_only) {
                present.push(peer.public_key);
            }
            if present.len() > MAX_PEERS {
                return Err(());
            }
            if Some(peer.public_key) != own {
                changed.change(peer);
            }
        }
        *self = changed;
        Ok(())
    }

    fn change(&mut self, update: &PeerUpdate) {
        let key = update.public_key;
        if !self.peers.iter().any(|peer| peer.public_key == key) {
            if update.update_only || update.remove && update.allowed_ips.is_empty() {
                return;
            }
            self.peers.push(PeerSnapshot::new(key));
        }
        let find = |peers: &mut Vec<PeerSnapshot>| peers.iter().position(|peer| peer.public_key == key).unwrap();
        let own = find(&mut self.peers);
        if update.replace_allowed_ips {
            self.peers[own].allowed_ips.clear();
        }
        for AllowedIpUpdate { prefix, remove, .. } in &update.allowed_ips {
            if *remove {
                self.peers[own].allowed_ips.retain(|other| other != prefix);
            } else {
                self.peers.iter_mut().for_each(|peer| peer.allowed_ips.retain(|other| other != prefix));
                self.peers[own].allowed_ips.push(*prefix);
            }
        }
        let peer = &mut self.peers[own];
        if let Some(preshared) = &update.preshared_key {
            peer.preshared_key = PresharedKey::clone(preshared);
        }
        if let Some(endpoint) = &update.endpoint {
            peer.endpoint = Some(endpoint.to_string().parse::<EndpointAddr>().unwrap());
        }
        peer.persistent_keepalive = update.persistent_keepalive.unwrap_or(peer.persistent_keepalive);
        if update.remove {
            self.peers.remove(own);
        }
    }

    fn text(&self) -> String {
        let peers = self.peers.iter().cloned().map(Ok);
        get_text(Snapshot::new(self.interface.clone(), peers)).unwrap().to_string()
    }
}

fn prefix(number: u8) -> IpNet {
    let address = ip(["10.0.0.0", "10.128.0.0", "fd00::", "fd00:0:8000::"][usize::from(number & 3)]);
    let bits = [0, 8, 9, 32][usize::from(number >> 2 & 3)];
    IpNet::new(address, bits).unwrap().trunc()
}

/// Adds to a change set. Returns whether it is to be applied now.
fn extend(update: &mut Update, kind: u8, value: u8) -> bool {
    let key = usize::from(value) % KEYS.len();
    match kind % 12 {
        0 => return true,
        1 => update.private_key = Some((value < 200).then(|| KEYS[key].0.clone())),
        2 => update.listen_port = Some(value.into()),
        3 => update.fwmark = Some(value.into()),
        4 => update.replace_peers = value < 128,
        5 => update.peers.push(PeerUpdate::new(KEYS[key].1)),
        more => {
            let Some(peer) = update.peers.last_mut() else { return false };
            match more {
                6 => peer.update_only = true,
                7 => peer.remove = true,
                8 => peer.preshared_key = Some(Box::new(PresharedKey::from_bytes([value; 32]))),
                9 => peer.endpoint = Some(at(["192.0.2.1:1", "[2001:db8::1]:2"][usize::from(value & 1)]).into()),
                10 if value & 1 == 0 => peer.persistent_keepalive = Some(value.into()),
                10 => peer.replace_allowed_ips = true,
                _ if value & 0x80 == 0 => peer.allowed_ips.push(AllowedIpUpdate::add(prefix(value))),
                _ => peer.allowed_ips.push(AllowedIpUpdate::remove(prefix(value))),
            }
        }
    }
    false
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let (tun, _handle) = MemTun::new("wg0", 1420);
    let options = Options { max_peers: MAX_PEERS, random: Arc::new(Numbers::new(5)), ..Options::default() };
    let device = Device::new(Arc::new(tun), MemNetwork::new().bind(ip("192.0.2.9")), options);
    let mut model = Model::default();
    let mut update = Update::default();
    while let Some(kind) = input.next_byte() {
        if !extend(&mut update, kind, input.byte()) {
            continue;
        }
        let outcome = device.apply(update.clone()).map_err(drop);
        assert_eq!(outcome, model.apply(&update));
        assert_eq!(*get_text(device.snapshot()).unwrap(), model.text());
        update = Update::default();
    }
});
