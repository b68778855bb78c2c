//! A namespace with a way out, programs that keep a log, and all of a network's settings as text.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use wg_embed_settings::{Options, Programs};

use crate::netns::{
    Netns,
    in_time::{LIMIT, output_of},
};

/// A network namespace in which `eth0` leads out.
pub(crate) struct Network {
    pub(crate) netns: Netns,
    /// Interfaces live as long as their descriptors.
    tuns: Vec<OwnedFd>,
}

impl Network {
    pub(crate) fn new() -> Self {
        let netns = Netns::new();
        // Of their link-local addresses no two are alike.
        netns.run(|| fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap());
        let mut network = Self { netns, tuns: Vec::new() };
        network.tun("eth0");
        for line in [
            "link set eth0 mtu 1480 up",
            "address add 192.0.2.2/24 dev eth0",
            "route add default via 192.0.2.1",
            "address add 2001:db8::2/64 dev eth0",
            "route add default via 2001:db8::1",
            "route add 198.51.100.0/24 via 192.0.2.1 mtu 1300",
        ] {
            network.netns.ip(line);
        }
        network.netns.await_address("2001:db8::2");
        network
    }

    /// Makes an interface.
    pub(crate) fn tun(&mut self, name: &str) {
        self.tuns.push(self.netns.tun(name, libc::IFF_TUN));
    }

    /// All of the network's settings.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let ip = |arguments: &str| {
            let mut value: Value = serde_json::from_str(&self.netns.ip(arguments)).unwrap_or(Value::Null);
            simplify(&mut value);
            let lines = value.as_array().map(|items| items.iter().map(ToString::to_string).collect::<Vec<_>>());
            (arguments.to_owned(), lines.unwrap_or_default().join("\n"))
        };
        let mut settings: Vec<_> = [
            "-j -d link show",
            "-j -d address show",
            "-j -d -4 route show table all",
            "-j -d -6 route show table all",
            "-j -d -4 rule show",
            "-j -d -6 rule show",
        ]
        .map(ip)
        .into();
        let valid = self.netns.run(|| fs::read_to_string("/proc/sys/net/ipv4/conf/all/src_valid_mark").unwrap());
        settings.push(("src_valid_mark".into(), valid));
        for family in ["ip", "ip6"] {
            let rules = self.netns.command("nft", &format!("list ruleset {family}"));
            settings.push((format!("nft, {family}"), rules.replace("wg-quick-", "wg-embed-")));
        }
        settings
    }

    /// Waits until the network's settings are these: the kernel takes some things up in the background.
    #[track_caller]
    pub(crate) fn becomes(&self, expected: &[(String, String)], what: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let settings = self.settings();
            let wrong = settings.iter().zip(expected).find(|(is, should)| is != should);
            match wrong {
                None => return,
                Some((is, should)) if Instant::now() >= deadline => {
                    panic!("{what}: {}\nis:\n{}\nshould be:\n{}", is.0, is.1, should.1)
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Waits until all IPv6 addresses are in use.
    pub(crate) fn settle(&self) {
        let addresses: Value = serde_json::from_str(&self.netns.ip("-j -6 address show up")).unwrap();
        for info in addresses.as_array().into_iter().flatten().flat_map(|link| link["addr_info"].as_array().unwrap()) {
            self.netns.await_address(info["local"].as_str().unwrap());
        }
    }
}

/// Takes out what says nothing.
fn simplify(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(simplify);
            // A link that is not there is an empty object.
            items.retain(|item| item.as_object().is_none_or(|object| !object.is_empty()));
        }
        Value::Object(object) => {
            // An interface that was up once keeps its queue.
            for key in ["ifindex", "qdisc"] {
                object.remove(key);
            }
            object.values_mut().for_each(simplify);
        }
        _ => {}
    }
}

/// A name that no other test's interface has: control sockets are in one directory for all namespaces.
pub(crate) fn interface() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("wgs{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The daemon, which is built with the workspace's programs.
pub(crate) fn daemon() -> Option<PathBuf> {
    let tests = std::env::current_exe().unwrap();
    let daemon = tests.ancestors().nth(2).unwrap().join("wg-embed");
    if daemon.exists() {
        return Some(daemon);
    }
    crate::skip::skipped(format!("there is no {}: build wg-embed-cli first", daemon.display()));
    None
}

/// A folder that ends with this value.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wg-embed-settings-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a program of lines for sh.
    pub(crate) fn program(&self, name: &str, lines: &str) {
        let folder = self.file("bin");
        fs::create_dir_all(&folder).unwrap();
        // Renamed, as a file that has just been written may still be open in a child that another thread forks.
        let (new, path) = (self.file("new"), folder.join(name));
        fs::write(&new, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, path).unwrap();
    }

    /// Makes a program that writes its arguments and its input to a log.
    pub(crate) fn logging(&self, name: &str) {
        let log = self.file("log");
        self.program(name, &format!("{{ echo {name} \"$@\"; cat; }} >>{}", log.display()));
    }

    /// What was written to the log since the last call.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        let _ = fs::remove_file(self.file("log"));
        log
    }

    /// `PATH` with the programs of this folder in front.
    pub(crate) fn path(&self) -> String {
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        format!("{}:{system}", self.file("bin").display())
    }

    pub(crate) fn programs(&self) -> Programs {
        Programs::in_path(self.path(), self.file("resolved"))
    }

    /// Options for a daemon whose control socket is where wg(8) looks for it.
    pub(crate) fn options(&self, daemon: &Path) -> Options {
        Options { daemon: daemon.into(), programs: self.programs(), directory: self.file("run"), ..Options::default() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program in a namespace, with this `PATH`.
pub(crate) fn run(netns: &Netns, path: String, program: &str, arguments: &[&str]) -> Output {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let program = program.to_owned();
    netns.run(move || {
        let mut command = std::process::Command::new(program);
        command.args(arguments).env("PATH", path).env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wg-embed");
        output_of(&mut command).unwrap()
    })
}
