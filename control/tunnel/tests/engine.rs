//! The engine against another tunnel of the library, over loopback; with interfaces, in network namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[cfg(target_os = "linux")]
#[path = "../../../tests/netns/mod.rs"]
mod netns;
#[path = "../../../tests/common/skip.rs"]
mod skip;

use std::{
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Far, PATIENCE, conf, configuration, id};
use wg_embed_manager::tunnel::{Engine, Handshake, Ping, Running};
use wg_embed_tunnel::engine::{Configuration, Network, Options, WireGuard};

/// Starts a tunnel without the system's network.
fn start(engine: &WireGuard, descriptor: Option<i32>, text: &str) -> Result<Arc<dyn Running<Configuration>>, String> {
    engine.open(descriptor, configuration(text))?.start()
}

fn userspace() -> WireGuard {
    WireGuard::new(Options { network: Network::Userspace, ..Options::default() })
}

/// Pings until that succeeds: the first packets may be lost.
fn ping(running: &Arc<dyn Running<Configuration>>, number: u8) -> Ping {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut answers = Vec::new();
        running.ping(&[id(number)], Duration::from_secs(5), &mut |id, ping| answers.push((id, ping)));
        if let Some((from, ping)) = answers.pop() {
            assert_eq!((from, ping.is_direct, &ping.relay, answers.len()), (id(number), true, &None, 0));
            return ping;
        }
        assert!(Instant::now() < deadline, "nothing answers");
    }
}

fn handshake(running: &Arc<dyn Running<Configuration>>, number: u8) -> std::time::SystemTime {
    match running.last_handshake(&id(number)) {
        Handshake::At(time) => time,
        other => panic!("{other:?}"),
    }
}

#[test]
fn peers_are_pinged_and_changes_keep_sessions() {
    let far = Far::new();
    let engine = userspace();
    let running = start(&engine, None, &conf(&far, &[1, 2])).unwrap();
    assert_eq!(running.last_handshake(&id(1)), Handshake::Never);
    assert_eq!(running.last_handshake(&id(9)), Handshake::Unknown);
    assert!(ping(&running, 1).latency > Duration::ZERO);
    let (first, began) = (handshake(&running, 1), Instant::now());
    // A peer is added, another removed, the first has other allowed IPs.
    let changed = conf(&far, &[1, 3]).replace("10.8.0.1/32", "10.8.0.1/32, 10.7.0.0/16");
    running.apply(configuration(&changed)).unwrap();
    ping(&running, 3);
    ping(&running, 1);
    // After two minutes there is a new one in any case.
    if began.elapsed() < Duration::from_secs(100) {
        assert_eq!(handshake(&running, 1), first, "the session was kept");
    } else {
        skip::skipped("this machine is too slow to see whether a session was kept");
    }
    assert_eq!(running.last_handshake(&id(2)), Handshake::Unknown);
    // A change that cannot be is refused, and changes nothing.
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let bad = changed.replace("[Interface]", &format!("[Interface]\nListenPort = {port}"));
    assert!(running.apply(configuration(&bad)).is_err());
    running.wake();
    ping(&running, 1);
    running.stop();
}

#[test]
fn a_stop_ends_pings_and_leaves_nothing() {
    let far = Far::new();
    let engine = userspace();
    // The system does not choose a port below 32768 for another test.
    let free = |port: &u16| UdpSocket::bind(("0.0.0.0", *port)).is_ok();
    let port = (10_000 + (std::process::id() % 20_000) as u16..).find(free).unwrap();
    // Nobody answers at this address.
    let text = conf(&far, &[1]).replace("10.8.0.1/32", "10.8.0.77/32");
    let text = text.replace("[Interface]", &format!("[Interface]\nListenPort = {port}"));
    let guard = Arc::new(());
    let configuration = Configuration { guard: Some(guard.clone()), ..configuration(&text) };
    let running = engine.open(None, configuration.clone()).unwrap().start().unwrap();
    drop(configuration);
    assert!(engine.netstack().is_some());
    assert!(start(&engine, None, &text).is_err(), "the port is taken");
    std::thread::scope(|scope| {
        let pinging = scope.spawn(|| running.ping(&[id(77)], PATIENCE, &mut |_, _| panic!("nobody answers")));
        // It may have begun by now, or is to end at once.
        running.stop();
        pinging.join().unwrap();
    });
    running.stop();
    assert_eq!(running.last_handshake(&id(1)), Handshake::Unknown);
    assert!(running.apply(common::configuration(&text)).is_ok());
    running.wake();
    assert_eq!(Arc::strong_count(&guard), 1);
    UdpSocket::bind(("0.0.0.0", port)).unwrap();
}

#[test]
fn without_an_interface_the_network_is_in_userspace() {
    let far = Far::new();
    // Two names of one interface are refused everywhere.
    let options = Options { interface: "a/b".into(), ..Options::default() };
    let engine = WireGuard::new(options.clone());
    let running = start(&engine, None, &conf(&far, &[1])).unwrap();
    ping(&running, 1);
    assert!(engine.netstack().is_some());
    running.stop();
    assert!(engine.netstack().is_none());
    let engine = WireGuard::new(Options { network: Network::Interface, ..options });
    assert!(start(&engine, None, &conf(&far, &[1])).is_err());
    assert!(start(&engine, Some(9999), &conf(&far, &[1])).is_err());
}

#[cfg(target_os = "linux")]
mod interfaces {
    use super::*;
    use std::{
        os::fd::AsRawFd,
        process::Command,
        sync::{Mutex, mpsc},
    };
    use wg_embed::sync::lock;
    use wg_embed_manager::messages::{NetworkSettingsRequest, network_settings_request::Ipv4Settings};
    use wg_embed_tunnel::engine::{ConfiguredNetwork, SystemNetwork};

    fn ip(arguments: &str) {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    }

    /// Configures with ip(8), and keeps what was done.
    #[derive(Default)]
    struct Ip {
        done: Arc<Mutex<Vec<String>>>,
        refuse: Arc<Mutex<Option<String>>>,
    }

    /// Takes back what was done for an address.
    struct Configured {
        done: Arc<Mutex<Vec<String>>>,
        refuse: Arc<Mutex<Option<String>>>,
        address: String,
    }

    impl Configured {
        fn check(&self, settings: &NetworkSettingsRequest) -> Result<String, String> {
            let address = settings.ipv4_settings.as_ref().unwrap().addrs[0].clone();
            if lock(&self.refuse).as_ref() == Some(&address) { Err("refused".into()) } else { Ok(address) }
        }
    }

    impl ConfiguredNetwork for Configured {
        fn update(&mut self, settings: &NetworkSettingsRequest, mark: u32) -> Result<(), String> {
            self.address = self.check(settings)?;
            lock(&self.done).push(format!("~{} {mark}", self.address));
            Ok(())
        }

        fn mark(&self) -> u32 {
            0
        }
    }

    impl Drop for Configured {
        fn drop(&mut self) {
            if !self.address.is_empty() {
                lock(&self.done).push(format!("-{}", self.address));
            }
        }
    }

    impl SystemNetwork for Ip {
        fn configure(
            &self,
            interface: &str,
            settings: &NetworkSettingsRequest,
            mark: u32,
        ) -> Result<Box<dyn ConfiguredNetwork>, String> {
            let (done, refuse) = (self.done.clone(), self.refuse.clone());
            let mut configured = Configured { done, refuse, address: String::new() };
            let address = configured.check(settings)?;
            ip(&format!("addr replace {address}/24 dev {interface}"));
            ip(&format!("link set {interface} mtu {} up", settings.mtu));
            lock(&self.done).push(format!("+{address} {mark}"));
            configured.address = address;
            Ok(Box::new(configured))
        }
    }

    fn settings(address: &str) -> NetworkSettingsRequest {
        let ipv4_settings = Some(Ipv4Settings { addrs: vec![address.into()], ..Ipv4Settings::default() });
        NetworkSettingsRequest { mtu: 1300, ipv4_settings, ..NetworkSettingsRequest::default() }
    }

    fn has_interface(name: &str) -> bool {
        std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().contains(&format!("{name}:"))
    }

    /// Also what the system itself sends passes, and its replies are its own.
    fn system_pings() {
        let status = Command::new("ping").args(["-c", "1", "-w", "290", "-q", "10.8.0.1"]).status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn an_interface_of_our_own_is_configured_and_removed() {
        netns::as_root(|| {
            let netns = netns::Netns::new();
            netns.run(|| {
                let far = Far::new();
                let system = Arc::new(Ip::default());
                let done = system.done.clone();
                let options = Options {
                    network: Network::Interface,
                    interface: "wgt0".into(),
                    system: Some(system.clone()),
                    ..Options::default()
                };
                let engine = WireGuard::new(options.clone());
                let open = |engine: &WireGuard| engine.open(None, configuration(&conf(&far, &[1]))).unwrap();
                let mut opened = open(&engine);
                assert!(has_interface("wgt0") && opened.configures());
                opened.configure(&settings("10.8.0.100")).unwrap();
                let running = opened.start().unwrap();
                assert_eq!(*lock(&done), ["+10.8.0.100 0"]);
                ping(&running, 1);
                system_pings();
                ping(&running, 1);
                // The same settings again are not done again; others are, and if they are refused those before hold.
                running.configure(&settings("10.8.0.100")).unwrap();
                running.configure(&settings("10.8.0.101")).unwrap();
                *lock(&system.refuse) = Some("10.8.0.102".into());
                assert_eq!(running.configure(&settings("10.8.0.102")), Err("refused".into()));
                // Another mark of the configuration concerns the network as well.
                let marked = conf(&far, &[1]).replace("[Interface]", "[Interface]\nFwMark = 7");
                running.apply(configuration(&marked)).unwrap();
                let expected = ["+10.8.0.100 0", "~10.8.0.101 0", "~10.8.0.101 7"];
                assert_eq!(*lock(&done), expected.map(String::from));
                assert!(has_interface("wgt0"));
                running.stop();
                assert_eq!(lock(&done).last().unwrap(), "-10.8.0.101");
                assert!(!has_interface("wgt0"));
                // A refusal before the start leaves nothing.
                let mut opened = open(&engine);
                assert_eq!(opened.configure(&settings("10.8.0.102")), Err("refused".into()));
                drop(opened);
                assert!(!has_interface("wgt0"));
                let nothing = WireGuard::new(Options { system: None, ..options });
                let mut opened = open(&nothing);
                assert!(!opened.configures());
                let error = opened.configure(&settings("10.8.0.100")).unwrap_err();
                assert!(error.contains("does not configure the network of wgt0"), "{error}");
            });
        });
    }

    #[test]
    fn a_managers_descriptor_is_duplicated() {
        netns::as_root(|| {
            let netns = netns::Netns::new();
            let tun = netns.tun("tun0", libc::IFF_TUN);
            let descriptor = tun.as_raw_fd();
            netns.ip("addr add 10.8.0.100/24 dev tun0");
            netns.ip("link set tun0 up");
            let (stopped, stop) = mpsc::channel();
            netns.run(move || {
                let far = Far::new();
                let engine = WireGuard::new(Options::default());
                let running = start(&engine, Some(descriptor), &conf(&far, &[1])).unwrap();
                ping(&running, 1);
                system_pings();
                running.stop();
                stopped.send(has_interface("tun0")).unwrap();
            });
            assert!(stop.recv().unwrap(), "the manager has it still");
            drop(tun);
            netns.run(|| assert!(!has_interface("tun0")));
        });
    }
}
