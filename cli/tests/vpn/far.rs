//! The far end of a tunnel: a daemon in a network namespace of its own.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use wg_embed::{key::PrivateKey, random::SystemRandom};

use crate::{
    harness::{Daemon, Directory, Interface, answers, wait_until, wg},
    netns::Netns,
};

/// What runs there.
pub(crate) enum Program {
    Ours,
    Go(PathBuf),
}

impl Program {
    /// As the interoperability tests find it: in `PEERS` or in `PATH`.
    pub(crate) fn wireguard_go() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = env::var_os("PEERS").map(PathBuf::from).into_iter().chain(env::split_paths(&path));
        directories.map(|directory| directory.join("wireguard-go")).find(|file| file.is_file()).map(Self::Go)
    }
}

/// A running daemon.
enum Running {
    Ours(Daemon),
    Go(Child),
}

/// The end with the address 10.8.0.NUMBER, behind a link of its own to the near end.
pub(crate) struct Far {
    number: u8,
    key: PrivateKey,
    running: Running,
    interface: Interface,
    _netns: Netns,
}

impl Far {
    /// Makes it, with the near end as its only peer.
    pub(crate) fn new(number: u8, near: &Netns, near_key: &PrivateKey, program: &Program) -> Self {
        let (netns, interface) = (near.far_end(number), Interface::new());
        let running = match program {
            Program::Ours => Running::Ours(interface.start(&netns)),
            Program::Go(path) => {
                let mut command = Command::new(path);
                command.args(["-f", interface.name()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let child = netns.run(move || command.spawn().unwrap());
                wait_until("wireguard-go answers", || answers(&interface));
                Running::Go(child)
            }
        };
        let key = PrivateKey::generate_with(&SystemRandom);
        let directory = Directory::new(interface.name());
        let file = directory.0.join("conf");
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.8.0.100/32\n",
            key.to_base64().as_str(),
            near_key.public_key()
        );
        fs::write(&file, text).unwrap();
        let name = interface.name();
        wg(&netns, &format!("setconf {name} {}", file.display()));
        netns.ip(&format!("addr add 10.8.0.{number}/32 dev {name}"));
        netns.ip(&format!("link set {name} up"));
        netns.ip(&format!("route add 10.8.0.100/32 dev {name}"));
        Self { number, key, running, interface, _netns: netns }
    }

    /// What the near end has about it in its `[Peer]`.
    pub(crate) fn section(&self) -> String {
        let number = self.number;
        self.section_of(&format!("10.77.{number}.2"), &format!("10.8.0.{number}/32"))
    }

    /// The same, with another way to write where it is, and with other allowed IPs.
    pub(crate) fn section_of(&self, host: &str, allowed_ips: &str) -> String {
        format!("PublicKey = {}\nEndpoint = {host}:51820\nAllowedIPs = {allowed_ips}\n", self.key.public_key())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        match &mut self.running {
            Running::Ours(daemon) => daemon.signal(libc::SIGTERM),
            Running::Go(child) => {
                let _ = child.kill();
                let _ = child.wait();
                let _ = fs::remove_file(self.interface.socket());
            }
        }
    }
}
