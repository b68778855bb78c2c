//! The process that is searched: two tunnels, `a` and `b`, and their control sockets. No key is in its program.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use wg_embed::{
    bind::UdpBind,
    device::{self, Tunnel},
    ipc::{Listener, Options, Server},
    random::Random,
    tun::{
        Tun,
        fd::FdTun,
        mem::{MemHandle, MemTun},
    },
};

use super::secrets;

/// Where the control sockets are; without it the test `is_searched` has nothing to do.
const DIRECTORY: &str = "KEY_COPIES_DIRECTORY";

/// The process, from outside.
pub(crate) struct Subject {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    directory: PathBuf,
}

impl Subject {
    pub(crate) fn start() -> Self {
        let directory = env::temp_dir().join(format!("key-copies-{}", process::id()));
        fs::create_dir(&directory).unwrap();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "subject::is_searched", "--nocapture"])
            .env(DIRECTORY, &directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut subject = Self { child, orders, answers, directory };
        subject.wait();
        subject
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the last order was carried out.
    fn wait(&mut self) {
        let mut line = String::new();
        while !line.ends_with("done\n") {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the process has ended");
        }
    }

    fn order(&mut self, what: &str) {
        writeln!(self.orders, "{what}").unwrap();
        self.wait();
    }

    /// Sends packets both ways.
    pub(crate) fn exchange(&mut self) {
        self.order("exchange");
    }

    /// Lets one rest, and gives it fresh sockets.
    pub(crate) fn renew(&mut self) {
        self.order("renew");
    }

    /// Turns both tunnels off.
    pub(crate) fn stop(&mut self) {
        self.order("stop");
    }

    pub(crate) fn set(&self, tunnel: &str, lines: &str) {
        assert_eq!(self.ask(tunnel, &format!("set=1\n{lines}\n")), "errno=0\n\n");
    }

    pub(crate) fn get(&self, tunnel: &str) -> String {
        self.ask(tunnel, "get=1\n\n")
    }

    fn ask(&self, tunnel: &str, request: &str) -> String {
        let mut stream = UnixStream::connect(self.directory.join(format!("{tunnel}.sock"))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Ephemeral keys that the process outside knows.
struct Known {
    name: &'static str,
    taken: AtomicU64,
}

impl Random for Known {
    fn fill(&self, out: &mut [u8]) {
        if out.len() == 32 {
            out.copy_from_slice(&secrets::ephemeral(self.name, self.taken.fetch_add(1, Ordering::Relaxed)));
        } else {
            wg_embed::random::SystemRandom.fill(out);
        }
    }
}

fn run(directory: &Path, name: &'static str, tun: Arc<dyn Tun>) -> (Arc<Tunnel>, Server) {
    let random = Arc::new(Known { name, taken: AtomicU64::new(0) });
    let options = device::Options { random, ..device::Options::default() };
    let tunnel = Arc::new(Tunnel::start(tun, Arc::new(UdpBind::new().unwrap()), options).unwrap());
    tunnel.device().up().unwrap();
    let listener = Listener::claim(directory, name, Duration::ZERO).unwrap();
    let server = Server::start(listener, tunnel.clone(), Options::default(), Box::new(|_| {})).unwrap();
    (tunnel, server)
}

/// Packets from `a`, whose thread `wg-tunnel` serves the TUN too, to `b`, whose `wg-outbound` does, and back.
fn exchange(a: &UnixDatagram, b: &MemHandle) {
    let packet = |from: u8, to: u8| {
        let mut packet = [0; 100];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 100]);
        packet[12..16].copy_from_slice(&[10, 0, 0, from]);
        packet[16..20].copy_from_slice(&[10, 0, 0, to]);
        packet
    };
    for _ in 0..20 {
        a.send(&packet(1, 2)).unwrap();
        assert_eq!(b.wait_written(super::LIMIT), [packet(1, 2)]);
        assert!(b.inject(&packet(2, 1)));
        let mut got = [0; 200];
        assert_eq!(a.recv(&mut got).unwrap(), 100);
    }
}

/// What sends handshake messages and packets on the thread that calls.
fn renew(tunnel: &Tunnel) {
    tunnel.pause();
    tunnel.resume().unwrap();
    tunnel.device().rebind().unwrap();
}

#[test]
fn is_searched() {
    let Some(directory) = env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let (app_a, tun_a) = UnixDatagram::pair().unwrap();
    app_a.set_read_timeout(Some(super::LIMIT)).unwrap();
    let (tun_b, app_b) = MemTun::new("", 1420);
    let a = run(&directory, "a", Arc::new(FdTun::new(OwnedFd::from(tun_a), 1420).unwrap()));
    let b = run(&directory, "b", Arc::new(tun_b));
    println!("done");
    let mut both = Some((a, b));
    for order in std::io::stdin().lines() {
        match order.unwrap().as_str() {
            "exchange" => exchange(&app_a, &app_b),
            "renew" => renew(&both.as_ref().unwrap().0.0),
            _ => drop(both.take()),
        }
        println!("done");
    }
}
