//! The source address of a tunnel's datagrams follows the routes, over real interfaces in network namespaces of their
//! own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;
mod netns;
#[path = "common/skip.rs"]
mod skip;

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{give, ipv4};
use netns::{Netns, as_root, with_descriptors};
use wg_embed::{
    bind::{Bind, UdpBind},
    config::{PeerUpdate, Update},
    device::{Device, Event, Inbound, Options, Outbound, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    time::ManualClock,
    tun::{
        linux::LinuxTun,
        mem::{MemHandle, MemTun},
    },
};

const PORT: u16 = 7001;
const MARK: u32 = 7;
/// Bounds what hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// A device over the sockets of a namespace, whose clock stands still: no timer helps it.
struct Node {
    device: Device,
    tun: MemHandle,
    bind: Arc<UdpBind>,
    private: PrivateKey,
    inner: IpAddr,
    buffers: Mutex<(Outbound, Inbound)>,
}

impl Node {
    fn new(netns: &Netns, n: u8, mark: u32, offload: bool) -> Self {
        let (tun, handle) = MemTun::new("", 1420);
        let bind = UdpBind::new().unwrap();
        let bind = Arc::new(if offload { bind } else { bind.with_portable_driver() });
        let options = Options { clock: Arc::new(ManualClock::new()), ..Options::default() };
        let device = Device::new(Arc::new(tun), bind.clone(), options);
        let private = PrivateKey::generate_with(&SystemRandom);
        let update = Update {
            private_key: Some(Some(private.clone())),
            listen_port: Some(PORT),
            fwmark: Some(mark),
            ..Update::default()
        };
        let device = netns.run(move || {
            device.apply(update).unwrap();
            device.up().unwrap();
            device
        });
        let buffers = Mutex::new((Outbound::new(), Inbound::new()));
        Self { device, tun: handle, bind, private, inner: IpAddr::from([10, 0, 0, n]), buffers }
    }

    fn knows(&self, other: &Self, at: Option<SocketAddr>) {
        let mut peer = PeerUpdate::new(other.private.public_key());
        peer.endpoint = at.map(Into::into);
        peer.allowed_ips = vec![give(&format!("{}/32", other.inner))];
        self.device.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    /// Where another node was heard last.
    fn sees(&self, other: &Self) -> IpAddr {
        self.device.peer_stats(&other.private.public_key()).unwrap().endpoint.unwrap().ip()
    }

    fn send_to(&self, other: &Self) {
        assert!(self.tun.inject(&ipv4(self.inner, other.inner, 100)));
        self.step();
    }

    fn step(&self) {
        let (outbound, inbound) = &mut *self.buffers.lock().unwrap();
        while self.device.outbound(outbound).unwrap() + self.device.inbound(inbound).unwrap() > 0 {}
    }
}

/// Waits until something is so, while both nodes do what they have to do.
fn eventually(what: &str, nodes: [&Node; 2], mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{what}");
        for node in nodes {
            node.bind.wait(Some(Duration::from_millis(5))).unwrap();
            node.step();
        }
    }
}

/// A host `a` with two uplinks to `b`, which has an address that is reached by either. In each family the numbers of
/// networks, hosts and gateways are the same.
struct Uplinks {
    a: Netns,
    b: Netns,
    v6: bool,
}

impl Uplinks {
    fn new(v6: bool) -> Self {
        let (a, b) = (Netns::new(), Netns::new());
        let net = Self { a, b, v6 };
        for n in [1, 2] {
            net.a.ip(&format!("link add va{n} type veth peer name vb{n}"));
            net.a.ip(&format!("link set vb{n} netns {}", net.b.tid()));
            net.a(&format!("addr add {} dev va{n} {}", net.prefix(n, 1), net.at_once()));
            net.b(&format!("addr add {} dev vb{n} {}", net.prefix(n, 2), net.at_once()));
            net.a.ip(&format!("link set va{n} up"));
            net.b.ip(&format!("link set vb{n} up"));
        }
        net.b(&format!("addr add {} dev lo {}", net.far(), net.at_once()));
        net
    }

    /// Host `host` in the network of uplink `n`.
    fn address(&self, n: u8, host: u8) -> IpAddr {
        if self.v6 { format!("fd00:{n}::{host}").parse().unwrap() } else { IpAddr::from([10, n, 0, host]) }
    }

    fn prefix(&self, n: u8, host: u8) -> String {
        format!("{}/{}", self.address(n, host), if self.v6 { 64 } else { 24 })
    }

    fn at_once(&self) -> &'static str {
        if self.v6 { "nodad" } else { "" }
    }

    /// The address of `b` that is no uplink's.
    fn far(&self) -> IpAddr {
        self.address(9, 9)
    }

    fn ip(&self, netns: &Netns, arguments: &str) {
        let family = if self.v6 { "-6" } else { "-4" };
        let words = arguments.replace("FAR", &self.far().to_string());
        let words =
            words.replace("GW1", &self.address(1, 2).to_string()).replace("GW2", &self.address(2, 2).to_string());
        let words = words.replace("OWN1", &self.prefix(1, 1));
        netns.ip(&format!("{family} {words}"));
    }

    fn a(&self, arguments: &str) {
        self.ip(&self.a, arguments);
    }

    fn b(&self, arguments: &str) {
        self.ip(&self.b, arguments);
    }

    fn set(&self, netns: &Netns, path: &str, value: &'static str) {
        let path = format!("/proc/sys/net/ipv{}/{path}", if self.v6 { 6 } else { 4 });
        netns.run(move || fs::write(path, value).unwrap());
    }

    /// Waits until datagrams pass: IPv6 takes a moment to begin, and no node tries again while the clock stands still.
    fn await_way(&self, from: &Netns, to: &Netns, at: IpAddr) {
        let receiver = to.run(move || UdpSocket::bind((at, 9)).unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let began = Instant::now();
        loop {
            let any = if self.v6 { "[::]:0" } else { "0.0.0.0:0" };
            let _ = from.run(move || UdpSocket::bind(any).and_then(|sender| sender.send_to(&[1], (at, 9))));
            if receiver.recv(&mut [0]).is_ok() {
                return;
            }
            assert!(began.elapsed() < LIMIT, "no way to {at}");
        }
    }

    /// Two nodes with a session, in which `b` has answered to the address that `a` had.
    fn nodes(&self, mark: u32, offload: bool) -> (Node, Node) {
        self.await_way(&self.a, &self.b, self.far());
        self.await_way(&self.b, &self.a, self.address(1, 1));
        let (a, b) = (Node::new(&self.a, 1, mark, offload), Node::new(&self.b, 2, 0, true));
        a.knows(&b, Some(SocketAddr::new(self.far(), PORT)));
        b.knows(&a, None);
        a.send_to(&b);
        let mut arrived = 0;
        eventually("a packet passes", [&a, &b], || {
            arrived += b.tun.take_written().len();
            arrived > 0
        });
        assert_eq!(b.sees(&a), self.address(1, 1));
        (a, b)
    }
}

/// Sends until `b` sees `a` at an address. The clock stands still, so there is no other reason for that than a changed
/// route.
fn moves_to(to: IpAddr, what: &str, a: &Node, b: &Node) {
    eventually(what, [a, b], || {
        a.send_to(b);
        let _ = b.tun.take_written();
        b.sees(a) == to
    });
}

/// What is prepared, and what then moves the way from uplink 1 to uplink 2.
const WAYS: &[(&str, &[&str], &[&str])] = &[
    ("another gateway", &["route add FAR via GW1"], &["route replace FAR via GW2"]),
    ("a route is removed", &["route add FAR via GW1", "route add default via GW2"], &["route del FAR via GW1"]),
    ("a more specific route", &["route add default via GW1"], &["route add FAR via GW2"]),
    (
        "the default route",
        &["route add default via GW1"],
        &["route add default via GW2 metric 5", "route del default via GW1"],
    ),
    (
        "a metric",
        &["route add default via GW1 metric 10", "route add default via GW2 metric 20"],
        &["route add default via GW2 metric 5"],
    ),
    (
        "a rule by mark",
        &["route add default via GW1", "route add default via GW2 table 9"],
        &["rule add fwmark 7 table 9"],
    ),
    (
        "a table behind a mark",
        &["route add default via GW1", "route add default via GW1 table 9", "rule add fwmark 7 table 9"],
        &["route replace default via GW2 table 9"],
    ),
    (
        "a rule by destination",
        &["route add default via GW1", "route add default via GW2 table 9"],
        &["rule add to FAR table 9"],
    ),
    (
        "a rule by port",
        &["route add default via GW1", "route add default via GW2 table 9"],
        &["rule add ipproto udp dport 7001 table 9"],
    ),
    (
        "a rule is removed",
        &["route add default via GW2", "route add default via GW1 table 9", "rule add fwmark 7 table 9"],
        &["rule del fwmark 7 table 9"],
    ),
    (
        "an interface goes down",
        &["route add default via GW1 metric 10", "route add default via GW2 metric 20"],
        &["link set va1 down"],
    ),
    (
        "an address is removed",
        &["route add default via GW1 metric 10", "route add default via GW2 metric 20"],
        &["addr del OWN1 dev va1", "route flush default dev va1"],
    ),
    (
        "a next hop",
        &["nexthop add id 1 via GW1 dev va1", "route add FAR nhid 1"],
        &["nexthop replace id 1 via GW2 dev va2"],
    ),
];

#[test]
fn the_source_address_follows_the_route_however_it_changes() {
    as_root(|| {
        for v6 in [false, true] {
            for (what, prepared, changes) in WAYS {
                let net = Uplinks::new(v6);
                prepared.iter().for_each(|command| net.a(command));
                eprintln!("{what}, IPv6: {v6}");
                let (a, b) = net.nodes(MARK, true);
                changes.iter().for_each(|command| net.a(command));
                moves_to(net.address(2, 1), what, &a, &b);
            }
        }
    });
}

/// Nothing is sent from the second uplink's address after it was learned.
#[test]
fn the_source_address_follows_a_route_that_comes_back_at_once() {
    as_root(|| {
        for v6 in [false, true] {
            let net = Uplinks::new(v6);
            net.a("route add FAR via GW1");
            let (a, b) = net.nodes(0, true);
            net.a("route replace FAR via GW2");
            moves_to(net.address(2, 1), "there", &a, &b);
            let _ = a.tun.take_written();
            b.send_to(&a);
            eventually("an answer passes", [&a, &b], || !a.tun.take_written().is_empty());
            net.a("route replace FAR via GW1");
            moves_to(net.address(1, 1), "and back", &a, &b);
        }
    });
}

#[test]
fn without_a_carrier_the_other_uplink_is_taken() {
    as_root(|| {
        for v6 in [false, true] {
            let net = Uplinks::new(v6);
            net.set(&net.a, "conf/all/ignore_routes_with_linkdown", "1");
            net.set(&net.a, "conf/va1/ignore_routes_with_linkdown", "1");
            net.a("route add default via GW1 metric 10");
            net.a("route add default via GW2 metric 20");
            let (a, b) = net.nodes(0, true);
            net.b.ip("link set vb1 down");
            moves_to(net.address(2, 1), "carrier lost", &a, &b);
        }
    });
}

#[test]
fn the_portable_driver_follows_as_well() {
    as_root(|| {
        for v6 in [false, true] {
            let net = Uplinks::new(v6);
            net.a("route add FAR via GW1");
            let (a, b) = net.nodes(0, false);
            net.a("route replace FAR via GW2");
            moves_to(net.address(2, 1), "another gateway", &a, &b);
        }
    });
}

#[test]
fn there_and_back_again_and_a_thousand_times_in_between() {
    as_root(|| {
        let net = Uplinks::new(false);
        net.a("route add FAR via GW1");
        let (a, b) = net.nodes(0, true);
        for _ in 0..3 {
            for n in [2, 1] {
                // More than the socket that listens has room for.
                let storm: String =
                    (0..500).map(|i| format!("route add 10.77.{}.{}/32 dev va{n}\n", i / 250, i % 250)).collect();
                let undo = storm.replace("add", "del");
                net.a.run(move || batch(&storm));
                net.a(&format!("route replace FAR via GW{n}"));
                net.a.run(move || batch(&undo));
                moves_to(net.address(n, 1), "another gateway amid other changes", &a, &b);
            }
        }
    });
}

#[test]
fn routes_are_heard_of_as_soon_as_there_is_a_descriptor() {
    as_root(|| {
        let net = Uplinks::new(false);
        net.a("route add FAR via GW1");
        let (a, b) = net.nodes(0, true);
        let bind = a.bind.clone();
        // The first sockets since it was closed. There is none for the watch.
        net.a.run(move || {
            bind.close();
            with_descriptors(2, || bind.open(PORT)).unwrap();
        });
        let (bind, before) = (a.bind.clone(), a.bind.routes());
        net.a.run(move || {
            netns::eventually("the routes are heard of", || {
                bind.wait(Some(Duration::from_millis(5))).unwrap();
                bind.routes() != before
            });
        });
        net.a("route replace FAR via GW2");
        moves_to(net.address(2, 1), "another gateway", &a, &b);
    });
}

/// Runs many commands of ip(8).
fn batch(commands: &str) {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(netns::in_time::end_of(ip).status.success());
}

/// Changes routes that have nothing to do with the peer, waits until that was noticed, and sends an answer. Returns the
/// address that the answer comes from.
fn answers_from(net: &Uplinks, server: &Node, client: &Node, changes: &[&str]) -> IpAddr {
    let before = server.bind.routes();
    changes.iter().for_each(|command| net.a(command));
    eventually("the change is noticed", [server, client], || server.bind.routes() != before);
    let mut arrived = 0;
    server.send_to(client);
    eventually("the answer arrives", [server, client], || {
        arrived += client.tun.take_written().len();
        arrived > 0
    });
    client.sees(server)
}

/// `a` as the server, and `b` speaks to another of its addresses than the one that the system would choose.
fn asked_at(net: &Uplinks, address: IpAddr) -> (Node, Node) {
    net.await_way(&net.b, &net.a, address);
    let (server, client) = (Node::new(&net.a, 1, 0, true), Node::new(&net.b, 2, 0, true));
    server.knows(&client, None);
    client.knows(&server, Some(SocketAddr::new(address, PORT)));
    client.send_to(&server);
    let mut arrived = 0;
    eventually("the question arrives", [&server, &client], || {
        arrived += server.tun.take_written().len();
        arrived > 0
    });
    (server, client)
}

#[test]
fn a_server_goes_on_answering_from_where_it_is_asked() {
    as_root(|| {
        for v6 in [false, true] {
            let net = Uplinks::new(v6);
            let second = net.address(1, 77);
            net.a(&format!("addr add {} dev va1 {}", net.prefix(1, 77), net.at_once()));
            net.b(&format!("addr del {} dev lo", net.far()));
            let (server, client) = asked_at(&net, second);
            let unrelated = if v6 { "fd00:55::/64" } else { "10.55.0.0/24" };
            for changes in [
                &[format!("route add {unrelated} via GW2")][..],
                &["addr add FAR dev lo".into()],
                &["route add default via GW2".into()],
                &["rule add fwmark 99 table 9".into(), "link set va2 down".into()],
            ] {
                let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
                assert_eq!(answers_from(&net, &server, &client, &changes), second, "{changes:?}");
            }
        }
    });
}

#[test]
fn a_rule_by_source_keeps_each_answer_on_its_uplink() {
    as_root(|| {
        for v6 in [false, true] {
            let net = Uplinks::new(v6);
            net.a("route add default via GW1");
            net.a("route add default via GW1 table 9");
            net.a(&format!("rule add from {} table 9", net.address(1, 1)));
            // From its address that no uplink has.
            let client_source = format!("route add {} via {} src {}", net.address(1, 77), net.address(1, 1), net.far());
            net.a(&format!("addr add {} dev va1 {}", net.prefix(1, 77), net.at_once()));
            net.b(&client_source);
            let rule = format!("rule add from {} table 9", net.address(1, 77));
            net.a(&rule);
            let (server, client) = asked_at(&net, net.address(1, 77));
            let moved = ["route replace default via GW2"];
            assert_eq!(answers_from(&net, &server, &client, &moved), net.address(1, 77), "IPv6: {v6}");
        }
    });
}

/// The kernel's `send4` lets go of an address if the answer leaves by another interface than the question came by, and
/// `send6` does not.
#[test]
fn answers_that_always_left_by_the_other_interface_are_as_the_kernel_has_them() {
    as_root(|| {
        for v6 in [false, true] {
            let net = Uplinks::new(v6);
            let interfaces = [(&net.a, ["all", "va1", "va2"]), (&net.b, ["all", "vb1", "vb2"])];
            for (netns, names) in interfaces.into_iter().filter(|_| !v6) {
                names.iter().for_each(|name| net.set(netns, &format!("conf/{name}/rp_filter"), "0"));
            }
            net.a("route add default via GW2");
            net.b(&format!("route add {} via {} src {}", net.address(1, 77), net.address(1, 1), net.far()));
            net.a(&format!("addr add {} dev va1 {}", net.prefix(1, 77), net.at_once()));
            let (server, client) = asked_at(&net, net.address(1, 77));
            let expected = net.address(if v6 { 1 } else { 2 }, if v6 { 77 } else { 1 });
            let unrelated = if v6 { "route add blackhole 2001:db8::2" } else { "route add blackhole 192.0.2.2" };
            assert_eq!(answers_from(&net, &server, &client, &[unrelated]), expected, "IPv6: {v6}");
        }
    });
}

/// As above: an IPv6 address that belongs to the host and to no uplink stays.
#[test]
fn an_ipv6_address_of_the_host_stays_when_the_uplink_changes() {
    as_root(|| {
        let net = Uplinks::new(true);
        net.a(&format!("addr add {} dev lo nodad", net.address(8, 8)));
        net.a("route add default via GW1");
        net.b(&format!("route add {} via {} src {}", net.address(8, 8), net.address(1, 1), net.far()));
        let (server, client) = asked_at(&net, net.address(8, 8));
        let moved = answers_from(&net, &server, &client, &["route replace default via GW2"]);
        assert_eq!(moved, net.address(8, 8));
    });
}

/// The route to the endpoint leads into the tunnel, over a real TUN.
#[test]
fn a_route_into_the_tunnel_itself_is_no_loop() {
    as_root(|| {
        let netns = Netns::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = told.clone();
        let options = Options { events: Box::new(move |event| sink.lock().unwrap().push(event)), ..Options::default() };
        let endpoint: SocketAddr = "192.0.2.9:7001".parse().unwrap();
        let key = PrivateKey::generate_with(&SystemRandom).public_key();
        let mut peer = PeerUpdate::new(key);
        peer.endpoint = Some(endpoint.into());
        peer.allowed_ips = vec![give("0.0.0.0/0")];
        let private_key = Some(Some(PrivateKey::generate_with(&SystemRandom)));
        let update = Update { private_key, listen_port: Some(PORT), peers: vec![peer], ..Update::default() };
        let tunnel = netns.run(move || {
            let tun = Arc::new(LinuxTun::create("wgt0").unwrap());
            Tunnel::start_with(tun, Arc::new(UdpBind::new().unwrap()), options, |device| {
                device.apply(update)?;
                device.up()
            })
            .unwrap()
        });
        netns.ip("addr add 10.0.0.1/24 dev wgt0");
        netns.ip("link set wgt0 up");
        netns.ip("route add default dev wgt0");
        let began = Instant::now();
        let dropped = || tunnel.device().counters().iter().find(|(name, _)| *name == "out_routing_loop").unwrap().1;
        while told.lock().unwrap().is_empty() {
            assert!(began.elapsed() < LIMIT, "nothing was dropped");
            netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[1; 100], "10.0.0.2:9").unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(*told.lock().unwrap(), [Event::RoutingLoop(key, endpoint)]);
        tunnel.stop().unwrap();
        // Each was an initiation, and there is one in 5 s.
        assert!(dropped() <= 1 + began.elapsed().as_secs() / 5, "{} in {:?}", dropped(), began.elapsed());
    });
}
