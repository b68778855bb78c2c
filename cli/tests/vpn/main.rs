//! `wg-embed vpn-daemon run` as a manager of VPNs meets it: a process behind two pipes, with its peers in network
//! namespaces of their own.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::panic, clippy::unwrap_used)]

mod far;
#[path = "../daemon/harness.rs"]
#[allow(dead_code, reason = "it is another test's")]
mod harness;
mod host;
#[path = "../../../tests/netns/mod.rs"]
mod netns;
#[path = "../../../control/settings/tests/network/harness.rs"]
#[allow(dead_code, reason = "it is another test's")]
mod network;
mod own;
#[path = "../../../tests/common/skip.rs"]
mod skip;

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    sync::Arc,
};

use far::{Far, Program};
use harness::{BINARY, Directory, command, hand_over, wait_until};
use host::Host;
use netns::{
    as_root,
    in_time::{LIMIT, end_of},
};
use network::Network;
use wg_embed::{key::PrivateKey, random::SystemRandom};
use wg_embed_manager::{
    manager::{Manager, Options, Process},
    messages::{Agent, StartRequest, log::Level},
    speaker,
};

/// A manager's side of everything, in a namespace.
struct Near {
    network: Network,
    key: PrivateKey,
    directory: Directory,
    tun: Option<OwnedFd>,
}

impl Near {
    /// With a TUN of the manager's or without.
    fn new(name: &str, has_tun: bool) -> Self {
        let network = Network::new();
        let tun = has_tun.then(|| network.netns.tun("tun0", libc::IFF_TUN));
        Self { network, key: PrivateKey::generate_with(&SystemRandom), directory: Directory::new(name), tun }
    }

    /// Writes the file with these peers.
    fn configure(&self, peers: &[(&str, &Far)]) {
        let sections = peers.iter().map(|(name, far)| format!("[Peer]\n# Name = {name}\n{}", far.section()));
        self.write(&format!("Address = 10.8.0.100/32\n{}", sections.collect::<String>()));
    }

    /// Writes the file as editors do: another one takes its place.
    fn write(&self, keys: &str) {
        let text = format!("[Interface]\nPrivateKey = {}\n{keys}", self.key.to_base64().as_str());
        let [new, file] = ["new", "vpn.conf"].map(|name| self.directory.0.join(name));
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// Starts the tunnel's process and the tunnel.
    fn start(&self) -> (Process, Arc<Host>) {
        let (process, host) = self.process(self.tun.is_some().then_some("tun0"), |command| {
            command.env("WG_EMBED_VPN_SETTINGS", "ask").env("WG_EMBED_VPN_NETWORK", "userspace");
        });
        process.manager().start(self.request()).unwrap();
        (process, host)
    }

    /// Starts the tunnel's process, whose manager configures this interface.
    fn process(
        &self,
        interface: Option<&'static str>,
        prepare: impl FnOnce(&mut Command) + Send + 'static,
    ) -> (Process, Arc<Host>) {
        let host = Arc::new(Host::new(interface));
        let (theirs, tun) = (host.clone(), self.tun.as_ref().map(|tun| tun.try_clone().unwrap()));
        let stream = speaker::Options { handshake_timeout: Some(LIMIT), ..speaker::Options::default() };
        let options = Options { stream, start_timeout: LIMIT, timeout: LIMIT };
        (self.network.netns.run(move || Process::start(BINARY, tun, prepare, options, theirs).unwrap()), host)
    }

    fn request(&self) -> StartRequest {
        StartRequest {
            tunnel_file_descriptor: if self.tun.is_some() { Process::TUN } else { 0 },
            coder_url: format!("file://{}/vpn.conf", self.directory.0.display()),
            api_token: "none".into(),
            ..StartRequest::default()
        }
    }

    /// Whether a process has sockets in it; there are no others.
    fn has_sockets(&self) -> bool {
        ["udp", "udp6"].iter().any(|file| self.network.netns.proc_net(file).lines().count() > 1)
    }
}

/// Waits until an agent has been pinged.
fn pinged(manager: &Manager, name: &str) -> Agent {
    let find = || manager.peers().agents().find(|agent| agent.name == name && agent.last_ping.is_some()).cloned();
    wait_until(&format!("{name} is pinged"), || find().is_some());
    let agent = find().unwrap();
    let ping = agent.last_ping.clone().unwrap();
    let latency = std::time::Duration::try_from(ping.latency.unwrap()).unwrap();
    assert!(ping.did_p2p && !latency.is_zero());
    agent
}

/// A whole life of a tunnel.
fn scenario(name: &str, has_tun: bool, program: &Program) {
    let near = Near::new(name, has_tun);
    let [first, second] = [1, 2].map(|number| Far::new(number, &near.network.netns, &near.key, program));
    near.configure(&[("first", &first)]);
    let (process, host) = near.start();
    let (id, manager) = (process.id(), process.manager());
    let agent = pinged(manager, "first");
    let workspaces: Vec<_> = manager.peers().workspaces().map(|workspace| workspace.name.clone()).collect();
    assert_eq!(workspaces, ["vpn"]);
    assert_eq!((&agent.ip_addrs[..], &agent.fqdn[..]), (&["10.8.0.1".to_owned()][..], &["first.".to_owned()][..]));
    assert!(agent.last_handshake.unwrap().seconds > 0);
    if has_tun {
        near.network.netns.command("ping", "-c 1 -w 290 10.8.0.1");
    }
    // A peer that is added to the file is a delta, and is reached.
    near.configure(&[("first", &first), ("second", &second)]);
    pinged(manager, "second");
    assert_eq!(manager.peers().agents().count(), 2);
    if has_tun {
        near.network.netns.command("ping", "-c 1 -w 290 10.8.0.2");
    }
    wait_until("the settings follow", || host.routes().contains(&"10.8.0.2".to_owned()));
    wait_until("the log is passed on", || host.logged(Level::Info, "the configuration was read again"));
    assert!(manager.wake().unwrap());
    assert_eq!(manager.refresh().unwrap().upserted_agents.len(), 2);
    // A peer that is taken out is a deletion.
    near.configure(&[("second", &second)]);
    wait_until("the first is gone", || manager.peers().agents().all(|agent| agent.name == "second"));
    assert!(near.has_sockets());
    process.stop().unwrap();
    assert!(!Path::new(&format!("/proc/{id}")).exists());
    assert!(!near.has_sockets());
    wait_until("the host is told of the end", || host.has_ended());
    let Near { network, tun, .. } = near;
    drop(tun);
    wait_until("the interface is gone", || !network.netns.proc_net("dev").contains("tun0"));
}

#[test]
fn a_managers_tun_against_our_daemon() {
    as_root(|| scenario("tun", true, &Program::Ours));
}

#[test]
fn a_network_in_userspace_against_our_daemon() {
    as_root(|| scenario("userspace", false, &Program::Ours));
}

#[test]
fn a_managers_tun_against_wireguard_go() {
    as_root(|| match Program::wireguard_go() {
        Some(program) => scenario("go", true, &program),
        None => skip::skipped("there is no wireguard-go"),
    });
}

#[test]
fn a_manager_configures_an_interface_of_the_tunnel() {
    as_root(|| {
        let near = Near::new("asked", false);
        let far = Far::new(1, &near.network.netns, &near.key, &Program::Ours);
        let before = near.network.settings();
        near.configure(&[("far", &far)]);
        let (process, host) = near.process(Some("wgvpn0"), |command| {
            command.env("WG_EMBED_VPN_SETTINGS", "ask").env("WG_EMBED_VPN_NETWORK", "interface");
            command.env("WG_EMBED_VPN_INTERFACE", "wgvpn0");
        });
        process.manager().start(near.request()).unwrap();
        assert_eq!(host.routes(), ["10.8.0.1"]);
        near.network.netns.command("ping", "-c 1 -w 290 10.8.0.1");
        process.stop().unwrap();
        near.network.becomes(&before, "stopped");
    });
}

#[test]
fn a_tunnel_ends_with_its_manager() {
    as_root(|| {
        let near = Near::new("end", true);
        let far = Far::new(1, &near.network.netns, &near.key, &Program::Ours);
        near.configure(&[("first", &far)]);
        let (process, _host) = near.start();
        let id = process.id();
        assert!(near.has_sockets());
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        assert!(!near.has_sockets());
    });
}

#[test]
fn a_start_that_fails_may_be_followed_by_another() {
    as_root(|| {
        let near = Near::new("fails", false);
        near.configure(&[]);
        let (process, _host) = near.process(None, |command| {
            command.env("WG_EMBED_VPN_NETWORK", "interface").env("WG_EMBED_VPN_INTERFACE", "wgvpn0");
        });
        for (request, complaint) in [
            (StartRequest { coder_url: "https://example.com".into(), ..near.request() }, "it is not a file"),
            (StartRequest { coder_url: "file:///none.conf".into(), ..near.request() }, "/none.conf: "),
        ] {
            let error = process.manager().start(request).unwrap_err().to_string();
            assert!(error.starts_with("failed to start connection: ") && error.contains(complaint), "{error}");
        }
        process.stop().unwrap();
    });
}

/// Starts it under another name, with two pipes, whose other ends are returned.
fn run(arguments: &[&str]) -> (std::process::Child, std::io::PipeReader, std::io::PipeWriter) {
    let (their_read, our_write) = std::io::pipe().unwrap();
    let (our_read, their_write) = std::io::pipe().unwrap();
    let mut command = command(BINARY);
    command.args(arguments);
    hand_over(&mut command, their_read.as_raw_fd(), 213);
    hand_over(&mut command, their_write.as_raw_fd(), 214);
    (command.spawn().unwrap(), our_read, our_write)
}

const RUN: [&str; 6] = ["vpn-daemon", "run", "--rpc-read-fd", "213", "--rpc-write-fd", "214"];

#[test]
fn how_it_ends_is_its_exit_status() {
    for (header, code, complaint) in [
        ("codervpn manager 1.3\n", 0, ""),
        ("codervpn manager 2.0\n", 1, "handshake failed: "),
        ("codervpn tunnel 1.3\n", 1, "handshake failed: "),
        ("", 1, "handshake failed: "),
        ("codervpn manager 1.3\n\u{1}", 1, "the manager: unexpected end"),
    ] {
        let (child, mut read, mut write) = run(&RUN);
        write.write_all(header.as_bytes()).unwrap();
        drop(write);
        let mut sent = String::new();
        read.read_to_string(&mut sent).unwrap();
        assert_eq!(sent, "codervpn tunnel 1.3\n", "{header:?}");
        let output = end_of(child);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{header:?}: {error}");
        assert!(error.contains(complaint), "{header:?}: {error}");
    }
    for (arguments, complaint) in [
        (&["vpn-daemon", "run"][..], "--rpc-read-fd or CODER_VPN_DAEMON_RPC_READ_FD is missing"),
        (&["vpn-daemon", "run", "--rpc-read-fd", "998", "--rpc-write-fd", "999"], "--rpc-read-fd=998: "),
        (&["vpn-daemon"], "run"),
    ] {
        let output = end_of(command(BINARY).args(arguments).spawn().unwrap());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("wg-embed: ") && error.contains(complaint), "{error}");
    }
}

#[test]
fn its_name_does_not_matter_and_a_signal_ends_it() {
    let (their_read, mut our_write) = std::io::pipe().unwrap();
    let (mut our_read, their_write) = std::io::pipe().unwrap();
    let mut command = Command::new(BINARY);
    command.arg0("coder").args(&RUN[..2]);
    command.env("CODER_VPN_DAEMON_RPC_READ_FD", "213").env("CODER_VPN_DAEMON_RPC_WRITE_FD", "214");
    hand_over(&mut command, their_read.as_raw_fd(), 213);
    hand_over(&mut command, their_write.as_raw_fd(), 214);
    let child = command.spawn().unwrap();
    drop((their_read, their_write));
    our_write.write_all(b"codervpn manager 1.0\n").unwrap();
    let mut header = [0; 20];
    our_read.read_exact(&mut header).unwrap();
    assert_eq!(&header, b"codervpn tunnel 1.3\n");
    let mut rest = Vec::new();
    // SAFETY: kill(2) takes numbers; this is a process of ours.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) }, 0);
    our_read.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(end_of(child).status.code(), Some(0));
}
