//! `manager run` and `manager tunnel`: a tunnel in another process, between network namespaces.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use serde_json::Value;
use wg_embed::{key::PrivateKey, random::SystemRandom};

use crate::{
    harness::{BINARY, ctl, fail, succeed},
    in_time::{end_of, output_of},
    netns::{Netns, as_root, eventually},
    network::{Folder, Network, daemon, interface, run},
};

/// The far end with the address 10.8.0.NUMBER, behind a link of its own: a tunnel by `up`.
struct Far {
    number: u8,
    key: PrivateKey,
    netns: Netns,
    file: String,
    folder: Folder,
}

impl Far {
    fn new(number: u8, near: &Netns, near_key: &PrivateKey) -> Self {
        let (netns, folder) = (near.far_end(number), Folder::new());
        let key = PrivateKey::generate_with(&SystemRandom);
        let file = folder.file(&format!("{}.conf", interface()));
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = 10.8.0.{number}/32\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 10.8.0.100/32\n",
            key.to_base64().as_str(),
            near_key.public_key()
        );
        fs::write(&file, text).unwrap();
        let far = Self { number, key, netns, file: file.to_str().unwrap().to_owned(), folder };
        succeed(&run(&far.netns, far.folder.path(), BINARY, &["up", &far.file]));
        far
    }

    /// What the near end has about it.
    fn section(&self, name: &str, allowed_ips: &str) -> String {
        let (number, key) = (self.number, self.key.public_key());
        format!(
            "[Peer]\n# Name = {name}\nPublicKey = {key}\nAllowedIPs = {allowed_ips}\n\
             Endpoint = 10.77.{number}.2:51820\n"
        )
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        run(&self.netns, self.folder.path(), BINARY, &["down", &self.file]);
    }
}

/// The manager's end, in a namespace.
struct Near {
    network: Network,
    folder: Folder,
    key: PrivateKey,
}

impl Near {
    fn new() -> Self {
        Self { network: Network::new(), folder: Folder::new(), key: PrivateKey::generate_with(&SystemRandom) }
    }

    fn far(&self, number: u8) -> Far {
        Far::new(number, &self.network.netns, &self.key)
    }

    fn file(&self) -> String {
        self.folder.file("a vpn.conf").to_str().unwrap().to_owned()
    }

    /// Writes the file as editors do: another one takes its place.
    fn write(&self, sections: &[String]) {
        let key = self.key.to_base64();
        let text = format!("[Interface]\nPrivateKey = {}\nAddress = 10.8.0.100/32\n", key.as_str());
        fs::write(self.folder.file("new"), text + &sections.concat()).unwrap();
        fs::rename(self.folder.file("new"), self.file()).unwrap();
    }

    fn manager(&self, arguments: &[&str]) -> Manager {
        let mut command = Command::new(BINARY);
        command.args(["manager", "run", "--conf", &self.file()]).args(arguments).env("PATH", self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Manager::new(self.network.netns.run(move || command.spawn().unwrap()))
    }

    fn ping(&self, number: u8) {
        self.network.netns.command("ping", &format!("-c 1 -w 290 10.8.0.{number}"));
    }
}

/// A manager that runs, and the lines that it prints.
struct Manager {
    child: Child,
    lines: Receiver<String>,
}

impl Manager {
    fn new(mut child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits for a line.
    fn await_line(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(crate::in_time::LIMIT);
            let line = line.unwrap_or_else(|_| panic!("{what} does not come after\n{}", seen.join("\n")));
            if is_it(&line) {
                return line;
            }
            seen.push(line);
        }
    }

    /// Waits for a line of JSON.
    fn await_event(&self, event: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let line = self.await_line(event, |line| {
            let value: Value = serde_json::from_str(line).unwrap();
            value["event"] == event && is_it(&value)
        });
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until a peer has answered.
    fn await_peer(&self, name: &str) -> Value {
        let find = |event: &Value| {
            let peers = event["peers"].as_array().unwrap();
            peers.iter().find(|peer| peer["name"] == name && peer["latency_ms"].is_f64()).cloned()
        };
        find(&self.await_event("peers", |event| find(event).is_some())).unwrap()
    }

    /// Ends it with a signal. Returns its exit code, and what it complained of.
    fn end(self, signal: i32) -> (Option<i32>, String) {
        // SAFETY: kill(2) takes numbers; this is a process of ours.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), signal) }, 0);
        let output = end_of(self.child);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn between_namespaces(test: impl FnOnce(&Near)) {
    as_root(|| {
        if daemon().is_some() {
            test(&Near::new());
        }
    });
}

#[test]
fn a_managed_tunnel_follows_its_file_and_leaves_nothing() {
    between_namespaces(|near| {
        let [first, second] = [near.far(1), near.far(2)];
        let before = near.network.settings();
        let netns = &near.network.netns;
        near.write(&[first.section("first", "10.8.0.1/32")]);
        let name = interface();
        let manager = near.manager(&["--json", "--interface", &name]);
        let process = manager.await_event("process", |_| true);
        assert_eq!((&process["version"], &process["interface"]), (&"1.3".into(), &name.as_str().into()));
        let settings = manager.await_event("settings", |_| true);
        assert_eq!((&settings["applied"], &settings["error"]), (&true.into(), &Value::Null));
        assert_eq!(
            (&settings["addresses"][0], &settings["routes"][0]),
            (&"10.8.0.100/32".into(), &"10.8.0.1/32".into())
        );
        manager.await_event("started", |_| true);
        let peer = manager.await_peer("first");
        assert_eq!((&peer["workspace"], &peer["addresses"][0]), (&"a vpn".into(), &"10.8.0.1".into()));
        near.ping(1);
        // A peer that is added to the file is reached.
        near.write(&[first.section("first", "10.8.0.1/32"), second.section("second", "10.8.0.2/32")]);
        manager.await_event("settings", |settings| settings["routes"][1] == "10.8.0.2/32");
        manager.await_peer("second");
        near.ping(2);
        // Everything is routed into the tunnel, but for its own packets.
        near.write(&[first.section("first", "0.0.0.0/0")]);
        let settings = manager.await_event("settings", |settings| settings["routes"][0] == "0.0.0.0/0");
        assert_eq!((&settings["excluded"][0], &settings["applied"]), (&"10.77.1.2/32".into(), &true.into()));
        near.ping(1);
        assert!(netns.ip("route get 198.18.0.1").contains(&name));
        // What cannot be read changes nothing.
        fs::write(near.file(), "[Interface]\nMTU = x\n").unwrap();
        let log = manager.await_event("log", |log| log["level"] == "warn");
        assert_eq!(log["message"], "the configuration is unchanged", "{log}");
        near.ping(1);
        let (code, error) = manager.end(libc::SIGTERM);
        // The tunnel's own standard error.
        assert!(code == Some(0) && error.lines().count() == 1 && error.contains("is unchanged"), "{error}");
        near.network.becomes(&before, "stopped");
    });
}

#[test]
fn people_get_lines_and_a_tunnel_may_configure_itself() {
    between_namespaces(|near| {
        let first = near.far(1);
        let before = near.network.settings();
        near.write(&[first.section("first", "10.8.0.1/32")]);
        let (name, program) = (interface(), daemon().unwrap());
        let options = ["--network", "interface", "--settings", "own", "--interface", &name];
        let manager = near.manager(&[&["--no-settings", "--", program.to_str().unwrap()], &options[..]].concat());
        manager.await_line("the process", |line| line.starts_with("process ") && line.ends_with("1.3 of the protocol"));
        manager.await_line("the start", |line| line == "started");
        manager.await_line("the peer", |line| line.starts_with("peer first 10.8.0.1: fine, "));
        near.ping(1);
        assert_eq!(manager.end(libc::SIGINT), (Some(0), String::new()));
        near.network.becomes(&before, "stopped");
    });
}

#[test]
fn a_start_that_takes_long_is_ended_by_a_signal() {
    between_namespaces(|near| {
        let before = near.network.settings();
        near.write(&[]);
        let tunnel = near.folder.file("tunnel");
        let pid = near.folder.file("pid");
        let lines = format!("echo $$ >{}\nprintf 'codervpn tunnel 1.3\\n' >&4\nexec sleep 1000", pid.display());
        near.folder.program("tunnel", &lines);
        fs::rename(near.folder.file("bin/tunnel"), &tunnel).unwrap();
        let manager = near.manager(&["--interface", &interface(), "--", tunnel.to_str().unwrap()]);
        manager.await_line("the process", |line| line.starts_with("process "));
        assert_eq!(manager.end(libc::SIGINT), (Some(0), String::new()));
        let process = Path::new("/proc").join(fs::read_to_string(pid).unwrap().trim());
        eventually("the tunnel has ended", || !process.exists());
        near.network.becomes(&before, "ended");
    });
}

#[test]
fn a_tunnel_that_fails_is_a_failure() {
    between_namespaces(|near| {
        let before = near.network.settings();
        near.write(&[]);
        fs::set_permissions(near.file(), fs::Permissions::from_mode(0o600)).unwrap();
        let refused = |arguments: &[&str], code| {
            let name = interface();
            let all = [&["manager", "run", "--interface", &name], arguments].concat();
            let error = fail(code, &run(&near.network.netns, near.folder.path(), BINARY, &all));
            near.network.becomes(&before, &error);
            error
        };
        let file = near.file();
        assert!(refused(&["--conf", "/nowhere/x.conf"], 3).contains("/nowhere/x.conf"));
        assert!(refused(&["--conf", &file, "--", "/nowhere/tunnel"], 3).contains("cannot run /nowhere/tunnel"));
        assert!(refused(&["--conf", &file, "--", "false"], 1).contains("false: "));
        let error = refused(&["--url", "https://vpn.example.com"], 1);
        assert!(error.contains("the tunnel: ") && error.contains("it is not a file"), "{error}");
        fs::write(&file, "[Interface]\nMTU = x\n").unwrap();
        assert!(refused(&["--conf", &file], 1).contains("MTU"));
    });
}

/// A tunnel's frame with a log line whose message has this number of bytes.
fn log_frame(len: usize) -> Vec<u8> {
    let varint = |value: usize| [(value & 0x7f | 0x80) as u8, (value >> 7 & 0x7f | 0x80) as u8, (value >> 14) as u8];
    let message = [&[0x12][..], &varint(len), &vec![b'x'; len]].concat();
    let body = [&[0x12][..], &varint(message.len()), &message].concat();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

/// Neither the tunnel nor a signal waits for the reader, and the queue of events to print is bounded.
#[test]
fn output_that_is_not_read_holds_up_nothing() {
    let folder = Folder::new();
    let [conf, frames, progress, tunnel] = ["a.conf", "frames", "progress", "tunnel"].map(|name| folder.file(name));
    fs::write(&conf, "").unwrap();
    // 2 MiB.
    fs::write(&frames, log_frame(1 << 16).repeat(32)).unwrap();
    let lines = format!(
        "printf 'codervpn tunnel 1.3\\n' >&4\nfor i in $(seq 100); do cat {frames} >&4 || exit; done\n: >{progress}\n\
         while cat {frames} >&4 2>/dev/null; do :; done",
        frames = frames.display(),
        progress = progress.display()
    );
    folder.program("tunnel", &lines);
    fs::rename(folder.file("bin/tunnel"), &tunnel).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["manager", "run", "--json", "--no-settings", "--conf", conf.to_str().unwrap(), "--"]).arg(&tunnel);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    eventually("200 MiB are passed on", || progress.exists() || child.try_wait().unwrap().is_some());
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 150 << 10, "{kib} KiB");
    // Reading starts only after the signal.
    let stdout = child.stdout.take().unwrap();
    // SAFETY: kill(2) takes numbers; this is a process of ours.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) }, 0);
    let output = end_of(child);
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
    let first = BufReader::new(stdout).lines().next().unwrap().unwrap();
    assert!(first.contains("\"event\":\"process\""), "{first}");
}

#[test]
fn arguments_of_managers_are_checked() {
    for arguments in [
        &["manager"][..],
        &["manager", "run"],
        &["manager", "run", "--conf", "a", "--url", "b"],
        &["manager", "run", "--url", "b", "--no-settings", "--interface", "c"],
    ] {
        fail(2, &ctl(arguments));
    }
}

#[test]
fn the_tunnels_side_is_the_daemons() {
    if daemon().is_none() {
        return;
    }
    let help = output_of(Command::new(BINARY).args(["manager", "tunnel", "--rpc-read-fd", "998"])).unwrap();
    assert!(fail(1, &help).starts_with("wg-embed: --rpc-write-fd or "));
}
