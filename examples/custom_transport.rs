//! Two tunnels in one process whose datagrams are carried by channels, without root and without a network:
//! `cargo run --example custom_transport`.
//!
//! The channels stand for any transport that an app has: a relay, a websocket, an obfuscated connection. The packets
//! inside are the app's as well, so there is no interface.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use wg_embed::{
    AllowedIpUpdate, Error, ErrorKind, Options, PeerUpdate, PrivateKey, Result, Tunnel, Update,
    bind::{
        Endpoint,
        callback::{CallbackBind, Datagram, DatagramInlet},
    },
    queue::PacketQueue,
    tun::{
        DEFAULT_MTU, PacketList,
        callback::{CallbackTun, PacketInlet},
    },
};

/// The memory for packets that wait for a tunnel, and for datagrams that do, in bytes.
const QUEUE: usize = 1 << 19;

/// One of the two: its name outside and its address inside.
#[derive(Clone, Copy)]
struct Place {
    outside: SocketAddr,
    inside: Ipv4Addr,
}

/// A tunnel, and the app's side of it.
struct End {
    tunnel: Tunnel,
    to_tunnel: PacketInlet,
    from_tunnel: Receiver<Vec<u8>>,
    from_network: DatagramInlet,
}

impl End {
    /// Starts a tunnel that sends its datagrams to `network`.
    fn start(network: SyncSender<Vec<u8>>) -> Result<Self> {
        // Neither function waits: what finds no room is dropped and counted, as in a network.
        let send = move |datagrams: &mut dyn Iterator<Item = Datagram<'_>>| {
            datagrams.take_while(|datagram| network.try_send(datagram.payload.to_vec()).is_ok()).count()
        };
        let (packets, from_tunnel) = mpsc::sync_channel(64);
        let receive = move |list: PacketList<'_>| {
            list.iter().take_while(|packet| packets.try_send(packet.to_vec()).is_ok()).count()
        };
        let bind = CallbackBind::new(QUEUE, send);
        let tun = CallbackTun::with_sink("", DEFAULT_MTU, PacketQueue::within(QUEUE), receive);
        let (to_tunnel, from_network) = (tun.inlet(), bind.inlet());
        let tunnel = Tunnel::start(Arc::new(tun), Arc::new(bind), Options::default())?;
        Ok(Self { tunnel, to_tunnel, from_tunnel, from_network })
    }

    /// Sets the key and the only peer.
    fn configure(&self, key: &PrivateKey, peer: &PrivateKey, place: Place) -> Result<()> {
        let mut update = PeerUpdate::new(peer.public_key());
        update.endpoint = Some(place.outside.into());
        update.allowed_ips.push(AllowedIpUpdate::add(IpAddr::V4(place.inside).into()));
        self.tunnel.apply(Update { private_key: Some(Some(key.clone())), peers: vec![update], ..Update::default() })?;
        self.tunnel.up()
    }

    /// Returns the text of the next packet.
    fn receive(&self) -> Result<String> {
        let late = |_| Error::new(ErrorKind::TimedOut, "no packet has arrived");
        let packet = self.from_tunnel.recv_timeout(Duration::from_secs(60)).map_err(late)?;
        Ok(String::from_utf8_lossy(packet.get(20..).unwrap_or_default()).into_owned())
    }
}

/// Carries datagrams from one tunnel to another until the first is dropped. They come from `from`.
fn carry(datagrams: Receiver<Vec<u8>>, from: SocketAddr, to: DatagramInlet) {
    let endpoint = Endpoint::new(from);
    thread::spawn(move || {
        for payload in datagrams {
            to.deliver([Datagram::new(endpoint, &payload)]);
        }
    });
}

/// An IPv4 packet with a text, of an experimental protocol (253, RFC 3692).
fn packet(from: Ipv4Addr, to: Ipv4Addr, text: &str) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + text.len() as u16).to_be_bytes());
    (packet[8], packet[9]) = (64, 253);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet.extend_from_slice(text.as_bytes());
    packet
}

fn main() -> Result<()> {
    let place = |n: u8| Place { outside: ([192, 0, 2, n], 51820).into(), inside: [10, 0, 0, n].into() };
    let (here, there) = (place(1), place(2));
    let (our_key, their_key) = (PrivateKey::generate()?, PrivateKey::generate()?);
    let ((to_them, from_us), (to_us, from_them)) = (mpsc::sync_channel(64), mpsc::sync_channel(64));
    let (us, them) = (End::start(to_them)?, End::start(to_us)?);
    carry(from_us, here.outside, them.from_network.clone());
    carry(from_them, there.outside, us.from_network.clone());
    us.configure(&our_key, &their_key, there)?;
    them.configure(&their_key, &our_key, here)?;

    us.to_tunnel.inject([&packet(here.inside, there.inside, "hello")[..]]);
    println!("they received: {}", them.receive()?);
    them.to_tunnel.inject([&packet(there.inside, here.inside, "good morning")[..]]);
    println!("we received: {}", us.receive()?);
    println!("{:?}", us.tunnel.totals());
    us.tunnel.stop()?;
    them.tunnel.stop()
}
