//! `wg-embed vpn-daemon run`, started by a manager.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use wg_embed::{
    bind::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options, Tunnel},
    key::PrivateKey,
    tun::mem::MemTun,
};
use wg_embed_manager::{
    manager::{self, Host, Peers, Process},
    messages::{Log, NetworkSettingsRequest, StartRequest},
    speaker::{self, End},
};

use super::{BINARY, Installed, LIMIT, run};

/// A manager, which notes the settings and the log.
#[derive(Default)]
struct Notes {
    settings: Mutex<Vec<NetworkSettingsRequest>>,
    lines: Mutex<Vec<String>>,
}

impl Host for Notes {
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        self.settings.lock().unwrap().push(settings.clone());
        Ok(())
    }

    fn peers_changed(&self, _: &Peers) {}

    fn log(&self, line: Log) {
        self.lines.lock().unwrap().push(line.message);
    }

    fn ended(&self, _: End) {}
}

fn start(installed: &Installed, network: &'static str) -> (Process, Arc<Notes>) {
    let prepare = |command: &mut Command| {
        command.env("WG_EMBED_VPN_NETWORK", network).stdin(Stdio::null()).stdout(Stdio::null());
        command.args(["--interface", "wg-embed-vpn", "--settings", "ask"]);
    };
    let stream = speaker::Options { handshake_timeout: Some(LIMIT), ..speaker::Options::default() };
    let options = manager::Options { stream, start_timeout: LIMIT, timeout: LIMIT };
    let notes = Arc::new(Notes::default());
    (Process::start(installed.0.join("wg-embed.exe"), prepare, options, notes.clone()).unwrap(), notes)
}

/// A peer, which waits for handshakes; and the file of a configuration with it.
fn far(installed: &Installed) -> (Tunnel, String) {
    let [ours, theirs] = [(); 2].map(|()| PrivateKey::generate().unwrap());
    let (tun, _) = MemTun::new("far", 1420);
    let tunnel = Tunnel::start(Arc::new(tun), Arc::new(UdpBind::new().unwrap()), Options::default()).unwrap();
    let mut peer = PeerUpdate::new(theirs.public_key());
    peer.allowed_ips.push(AllowedIpUpdate::new([10, 8, 0, 100].into(), 32, false).unwrap());
    let public_key = ours.public_key();
    tunnel.device().apply(Update { private_key: Some(Some(ours)), peers: vec![peer], ..Update::default() }).unwrap();
    tunnel.device().up().unwrap();
    let file = installed.0.join("vpn of a test.conf");
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.8.0.100/32\n[Peer]\n# Name = far\nPublicKey = {public_key}\n\
         AllowedIPs = 10.8.0.1/32\nEndpoint = 127.0.0.1:{}\nPersistentKeepalive = 1\n",
        theirs.to_base64().as_str(),
        tunnel.listen_port(),
    );
    fs::write(&file, text).unwrap();
    let url = format!("file:///{}", file.display().to_string().replace('\\', "/").replace(' ', "%20"));
    (tunnel, url)
}

fn wait_until(notes: &Notes, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "the tunnel's log: {:?}", notes.lines.lock().unwrap());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a tunnel, and waits for its handshake with the peer. The manager is asked for the settings once.
fn lives(name: &str, network: &'static str) {
    let Some(installed) = Installed::new(name) else { return };
    let (far, coder_url) = far(&installed);
    let (process, notes) = start(&installed, network);
    let request = StartRequest { coder_url, api_token: "none".into(), ..StartRequest::default() };
    process.manager().start(request).unwrap();
    let manager = process.manager();
    wait_until(&notes, || manager.peers().agents().map(|agent| agent.name.clone()).eq(["far".to_owned()]));
    wait_until(&notes, || far.totals().rx_bytes > 0);
    assert_eq!(notes.settings.lock().unwrap().len(), 1);
    process.stop().unwrap();
    far.stop().unwrap();
}

#[test]
fn a_manager_starts_a_tunnel_with_a_network_in_userspace() {
    lives("vpn-userspace", "userspace");
}

#[test]
fn a_manager_starts_a_tunnel_with_an_adapter() {
    lives("vpn-adapter", "interface");
}

#[test]
fn without_the_pipes_of_a_manager_there_is_no_tunnel() {
    for (arguments, complaint) in [
        (&["vpn-daemon", "run"][..], "--rpc-read-handle or CODER_VPN_DAEMON_RPC_READ_HANDLE is missing"),
        (
            &["vpn-daemon", "run", "--rpc-read-handle", "3", "--rpc-write-handle", "4"],
            "--rpc-read-handle=3: not an open pipe",
        ),
    ] {
        let output = run(arguments, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(complaint), "{arguments:?}: {text}");
    }
    let help = Command::new(BINARY).args(["vpn-daemon", "run", "--help"]).output().unwrap();
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("--rpc-write-handle N"));
}
