//! The same files and clients with wireproxy, if it is on PATH. Each difference is in `docs/PROXY.md`.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use crate::harness::{Proxy, World, connect, free_port, wait};

fn is_missing(program: &str) -> bool {
    let missing = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        eprintln!("skipped: {program} is not on PATH");
    }
    missing
}

const KEY: &str = "6AdaReFlGDbwnJF3CUzZzLt/pIlQBvo0xWTOxzfRXk4=";

/// `[Interface]` and `[Peer]`, then other sections, and who accepts the file: wireproxy, and this.
#[test]
fn the_same_files_are_accepted() {
    if is_missing("wireproxy") {
        return;
    }
    let interface = format!("[Interface]\nAddress = 10.9.0.2/32\nPrivateKey = {KEY}\n");
    let peer = format!("[Peer]\nPublicKey = {KEY}\nEndpoint = 127.0.0.1:51820\n");
    let base = |rest: &str| format!("{interface}{peer}{rest}");
    let cases = [
        // What both accept.
        (base(""), true, true),
        (base("[Socks5]\nBindAddress = 127.0.0.1:1080\nUsername = a\nPassword = b # c\n"), true, true),
        (base("[SOCKS5]\nbindaddress=:1080\n[socks5]\nBINDADDRESS = localhost:1081\n"), true, true),
        (base("[http]\nBindAddress = 127.0.0.1:1080\nUsername = \"a b\"\n"), true, true),
        (base("[TCPClientTunnel]\nBindAddress = 127.0.0.1:1\nTarget = a.example:80\n"), true, true),
        (base("[TCPServerTunnel]\nListenPort = 80\nTarget = localhost:80\n"), true, true),
        (base("[STDIOTunnel]\nTarget = a.example:80\n"), true, true),
        (format!("{interface}DNS = 10.0.0.1, fd00::1\nMTU = 1400\nListenPort = 0\n{peer}"), true, true),
        (format!("{interface}CheckAlive = 10.0.0.1,10.0.0.2\nCheckAliveInterval = 3\n{peer}"), true, true),
        (format!("{interface}PostUp = echo\nTable = off\nSaveConfig = true\n{peer}"), true, true),
        (format!("; a\n# b\n\n{interface}Address = fd00::2/128\n{peer}PersistentKeepalive = 25\n{peer}"), true, true),
        (
            base("AllowedIPs = 0.0.0.0/0, ::/0\nPresharedKey = 6AdaReFlGDbwnJF3CUzZzLt/pIlQBvo0xWTOxzfRXk4=\n"),
            true,
            true,
        ),
        (
            format!("[Interface]\nAddress: 10.9.0.2/32\nPrivateKey = '{KEY}'\nFwMark = 1\n{peer}")
                + "[TCPClientTunnel]\nBindAddress: :1080\nBindAddress = nonsense\nTarget = a.example:80\n",
            true,
            true,
        ),
        // What both refuse.
        (interface.clone(), false, false),
        (peer.clone(), false, false),
        (format!("{interface}{interface}{peer}"), false, false),
        (interface.replace(KEY, "AAAA") + &peer, false, false),
        (format!("{interface}DNS = example\n{peer}"), false, false),
        (format!("{interface}MTU = many\n{peer}"), false, false),
        (format!("{interface}CheckAliveInterval = 3\n{peer}"), false, false),
        (base("[TCPServerTunnel]\nListenPort = 70000\nTarget = a:1\n"), false, false),
        (base("[TCPClientTunnel]\nBindAddress = 1.2.3.4.5:1\nTarget = a:1\n"), false, false),
        // What would fail later there.
        (base("[Socks5]\n"), true, false),
        (base("[Socks5]\nBindAddress = nonsense\n"), true, false),
        (base("[TCPClientTunnel]\nBindAddress = 127.0.0.1:1\nTarget = nonsense\n"), true, false),
        (base("[TCPServerTunnel]\nListenPort = 0\nTarget = a:1\n"), true, false),
        (format!("[Interface]\nPrivateKey = {KEY}\n{peer}"), true, false),
        // What is passed over there.
        (base("[Unknown]\na = b\n"), true, false),
        (base("[Socks5]\nBindAddress = :1\nUser = a\n"), true, false),
        // What is new here.
        (interface.replace("/32", "") + &peer, false, true),
        (base("AllowedIPs = 10.0.0.1\n"), false, true),
        (base("").replace("127.0.0.1:51820", "no-such-name.invalid:51820"), false, true),
        (base("[TCPServerTunnel]\nListenPort = any\n"), false, true),
    ];
    let world = World::new();
    let file = world.directory().join("proxy.conf");
    let accepts = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.success(), output.stdout == b"Config OK\n", "{output:?}");
        output.status.success()
    };
    for (text, theirs, ours) in cases {
        fs::write(&file, &text).unwrap();
        let wireproxy = accepts(Command::new("wireproxy").arg("-n").arg("-c").arg(&file));
        let this = accepts(Proxy::command(&world).arg("-n"));
        assert_eq!((wireproxy, this), (theirs, ours), "wireproxy, this: {text}");
    }
}

/// Ends the process at the end.
struct Wireproxy(Child);

impl Drop for Wireproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What curl has seen: its exit code, the body, the status of the proxy's answer and that of the last one. wireproxy
/// does not end an answer that refuses: then the statuses are all there is to compare.
fn curl(arguments: &[&str]) -> (Option<i32>, String) {
    let run = Command::new("curl")
        .args(["-s", "-m", "10", "-w", "%{http_connect} %{http_code}"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    match text.rsplit_once("\r\n") {
        Some((body, statuses)) if body.starts_with("wireproxy:") => (None, statuses.to_owned()),
        _ if text.ends_with("200") || text.ends_with("000") => (run.status.code(), text),
        _ => (None, text),
    }
}

#[test]
fn clients_see_the_same() {
    if is_missing("wireproxy") || is_missing("curl") {
        return;
    }
    let world = World::new();
    let [socks, locked, http, locked_http, info] = [(); 5].map(|()| free_port());
    let login = "Username = me\nPassword = pw\n";
    let services = format!(
        "[Socks5]\nBindAddress = 127.0.0.1:{socks}\n[Socks5]\nBindAddress = 127.0.0.1:{locked}\n{login}\
         [http]\nBindAddress = 127.0.0.1:{http}\n[http]\nBindAddress = 127.0.0.1:{locked_http}\n{login}"
    );
    world.write(&services, "DNS = 10.9.0.1\nCheckAlive = 10.9.0.1\nCheckAliveInterval = 1\n");
    let file = world.directory().join("proxy.conf");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("fd00::2", "fd00::2/128")).unwrap();
    let see = || {
        let proxy = |kind: &str, user: &str, port: u16| format!("{kind}://{user}127.0.0.1:{port}");
        let page = "http://10.9.0.1/";
        let named = "http://name.test/";
        let mut seen = Vec::new();
        for (proxy, rest) in [
            (proxy("socks5", "", socks), vec![page]),
            (proxy("socks5h", "", socks), vec![named]),
            (proxy("socks5h", "", socks), vec!["http://10.9.0.1:9/"]),
            (proxy("socks5h", "me:pw@", locked), vec![page]),
            (proxy("socks5h", "me:no@", locked), vec![page]),
            (proxy("socks5h", "", locked), vec![page]),
            (proxy("http", "", http), vec![page]),
            (proxy("http", "", http), vec![named]),
            (proxy("http", "", http), vec!["-p", page]),
            (proxy("http", "", http), vec!["-p", named]),
            (proxy("http", "", http), vec!["-d", "x", page]),
            (proxy("http", "me:pw@", locked_http), vec![page]),
            (proxy("http", "me:pw@", locked_http), vec!["-p", page]),
            (proxy("http", "me:no@", locked_http), vec![page]),
            (proxy("http", "me:no@", locked_http), vec!["-p", page]),
            (proxy("http", "", locked_http), vec![page]),
            (proxy("http", "", locked_http), vec!["-p", page]),
        ] {
            let outcome = curl(&[&["-x", &proxy], &rest[..]].concat());
            seen.push((proxy.replace(|c: char| c.is_ascii_digit(), ""), rest.join(" "), outcome));
        }
        wait("readiness", || curl(&[&format!("http://127.0.0.1:{info}/readyz")]).1.ends_with("200"));
        let (_, ready) = curl(&[&format!("http://127.0.0.1:{info}/readyz")]);
        let shape: String = ready.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        seen.push(("readyz".into(), shape, (None, String::new())));
        let (_, metrics) = curl(&[&format!("http://127.0.0.1:{info}/metrics")]);
        let mut keys: Vec<_> = metrics.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        seen.push(("metrics".into(), keys.join(" "), (None, String::new())));
        assert!(metrics.contains("private_key=REDACTED\n"), "{metrics}");
        seen.push(("other".into(), curl(&[&format!("http://127.0.0.1:{info}/other")]).1, (None, String::new())));
        seen
    };
    let at = format!("127.0.0.1:{info}");
    let ours = {
        let _proxy = Proxy::start(Proxy::command(&world).arg("-i").arg(&at));
        world.wait_for_tunnel();
        drop(connect(info));
        see()
    };
    let theirs = {
        let mut command = Command::new("wireproxy");
        command.arg("-s").arg("-c").arg(&file).arg("-i").arg(&at).stderr(Stdio::null());
        let _wireproxy = Wireproxy(command.spawn().unwrap());
        drop(connect(locked_http));
        drop(connect(info));
        world.wait_for_tunnel();
        see()
    };
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "this, wireproxy");
    }
}
