//! Names with several addresses, of which only the last one answers. The system's results are made up.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    slice, thread,
    time::Duration,
};

use wg_embed::tun::{PacketArena, PacketList};
use wg_embed_netstack::{Netstack, Options as StackOptions};

use crate::{Address, Kind, Limits, Options, Proxy, Service, ServiceId, Target, names::fake::know};

/// The time limit of connecting. One silent address must not use up all of it.
const LIMIT: Duration = Duration::from_secs(30);
/// Longer than all limits.
const PATIENCE: Duration = Duration::from_secs(300);

/// Returns two stacks, 10.0.0.1 and 10.0.0.2, that exchange their packets until they are closed. Other addresses are
/// silent.
fn pair() -> [Netstack; 2] {
    let stacks = [1, 2].map(|last| {
        let addresses = vec![[10, 0, 0, last].into()];
        Netstack::new(StackOptions { addresses, ..StackOptions::default() }).unwrap()
    });
    for (from, to) in [(0, 1), (1, 0)] {
        let (from, to) = (stacks[from].tun(), stacks[to].tun());
        thread::spawn(move || {
            let mut arena = PacketArena::new(1 << 20, 64, |len, _| len);
            loop {
                arena.clear(from.mtu());
                match from.read(&mut arena) {
                    Ok(0) => from.wait(Some(Duration::from_secs(1))).unwrap(),
                    Ok(_) => {
                        for slot in arena.slots() {
                            to.write(PacketList {
                                buffer: arena.packet(*slot),
                                ranges: slice::from_ref(&(0..slot.len)),
                            });
                        }
                    }
                    Err(_) => return,
                }
            }
        });
    }
    stacks
}

fn serve(stack: &Netstack, kind: Kind) -> (Proxy, ServiceId) {
    let proxy = Proxy::start(stack, Options { system_names: true, ..Options::default() }).unwrap();
    let limits = Limits { dial: LIMIT, ..Limits::default() };
    let id = proxy.add(Service { limits, ..Service::new(kind) }).unwrap();
    (proxy, id)
}

#[test]
fn in_the_tunnel() {
    let [own, other] = pair();
    know("tunnel.test", &[7, 8, 9, 2].map(|last| IpAddr::from([10, 0, 0, last])));
    let listener = other.listen_tcp("10.0.0.2:80".parse().unwrap(), 1).unwrap();
    let at = Address::Tcp(([127, 0, 0, 1], 0).into());
    let (proxy, id) = serve(&own, Kind::TcpClient { at, target: "tunnel.test:80".into() });
    let Some(Address::Tcp(at)) = proxy.address(id) else { panic!("it has a port") };
    let mut client = TcpStream::connect(at).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = listener.accept(Some(PATIENCE)).unwrap();
    (&target).write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    own.close();
    other.close();
}

/// Fills the queue of a listener: it does not answer any more. Returns what fills it, if the system has such queues.
fn fill(listener: &TcpListener) -> Option<Vec<TcpStream>> {
    let at = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&at, Duration::from_secs(1)) {
        clients.push(client);
        if clients.len() > 64 {
            return None;
        }
    }
    Some(clients)
}

#[test]
fn on_this_side() {
    let live = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = live.local_addr().unwrap().port();
    let Ok(silent) = TcpListener::bind(("127.0.0.2", port)) else {
        eprintln!("skipped: this system has only one loopback address");
        return;
    };
    // A smaller queue, in which one client remains.
    socket2::SockRef::from(&silent).listen(0).unwrap();
    let Some(_clients) = fill(&silent) else {
        eprintln!("skipped: the queues of this system's listeners have no limit");
        return;
    };
    let [own, other] = pair();
    know("side.test", &[[127, 0, 0, 2].into(), [127, 0, 0, 1].into()]);
    let (_proxy, _) = serve(&own, Kind::TcpServer { port: 80, target: Target::Host(format!("side.test:{port}")) });
    let stream = other.dial_tcp("10.0.0.1:80", PATIENCE).unwrap();
    let (mut target, _) = live.accept().unwrap();
    target.write_all(b"hello").unwrap();
    stream.set_read_timeout(Some(PATIENCE));
    (&stream).read_exact(&mut [0; 5]).unwrap();
    own.close();
    other.close();
}
