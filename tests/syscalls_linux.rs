//! The number of system calls for a ping through a tunnel, at the end that answers and at the end that asks. Needs root
//! and strace(1); where one is missing, the tests print that they are skipped.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod netns;
#[path = "common/skip.rs"]
mod skip;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use netns::{Netns, as_root, in_time::end_of};
use socket2::{Domain, Protocol, Socket, Type};
use wg_embed::{
    bind::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options, Tunnel},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
    tun::linux::LinuxTun,
};

const PORT: u16 = 51820;

/// The number of pings that are counted.
const PINGS: usize = 200;

/// Calls that no ping causes, such as those for the timers: far fewer than one more call for each ping.
const OTHERS: usize = PINGS / 2;

/// Only ends a test that hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// One end of a tunnel: number `n` is 10.77.1.n outside and 10.0.0.n inside.
struct End {
    netns: Netns,
    tunnel: Arc<Tunnel>,
    n: u8,
}

impl End {
    fn new(netns: Netns, n: u8, vnet: bool, private: PrivateKey, peer: PublicKey) -> Self {
        let fd = netns.tun("wgt0", libc::IFF_TUN | if vnet { libc::IFF_VNET_HDR } else { 0 });
        netns.set_up("wgt0", "");
        netns.ip(&format!("address add 10.0.0.{n}/24 dev wgt0"));
        let mut peer = PeerUpdate::new(peer);
        peer.allowed_ips = vec![AllowedIpUpdate::add("10.0.0.0/24".parse().unwrap())];
        peer.endpoint = Some(format!("10.77.1.{}:{PORT}", 3 - n).parse().unwrap());
        let update = Update {
            private_key: Some(Some(private)),
            listen_port: Some(PORT),
            peers: vec![peer],
            ..Update::default()
        };
        let tunnel = netns.run(move || {
            let (tun, bind) = (LinuxTun::adopt(fd, 0).unwrap(), UdpBind::new().unwrap());
            let tunnel = Tunnel::start(Arc::new(tun), Arc::new(bind), Options::default()).unwrap();
            tunnel.device().apply(update).unwrap();
            tunnel.device().up().unwrap();
            Arc::new(tunnel)
        });
        Self { netns, tunnel, n }
    }

    /// The thread of the tunnel.
    fn tid(&self) -> u32 {
        let namespace = |tid: &str| fs::read_link(format!("/proc/self/task/{tid}/ns/net")).ok();
        let ours = namespace(&self.netns.tid().to_string());
        let tids =
            fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let name = |tid: &str| fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
        let tid = tids.into_iter().find(|tid| name(tid) == "wg-tunnel\n" && namespace(tid) == ours);
        tid.expect("a tunnel has a thread").parse().unwrap()
    }

    /// Sends echo requests to the other end, and waits for the reply of each before the next.
    fn ping(&self, count: usize) {
        let to = Ipv4Addr::new(10, 0, 0, 3 - self.n);
        self.netns.run(move || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            for number in 0..count {
                // So that the tunnel's thread has time to sleep, as it does between requests.
                thread::sleep(Duration::from_millis(1));
                let mut request = [8, 0, 0, 0, 0x77, 0x67, (number >> 8) as u8, number as u8];
                let sum = request.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                request[2..4].copy_from_slice(&sum.to_be_bytes());
                socket.send_to(&request, &SocketAddrV4::new(to, 0).into()).unwrap();
                let mut packet = [0xff; 100];
                // The answer to `number`, behind an IP header of 20 bytes.
                while packet[20] != 0 || packet[24..28] != request[4..8] {
                    packet = [0xff; 100];
                    let _ = (&socket).read(&mut packet).unwrap();
                }
            }
        });
    }
}

/// strace(1) of one thread.
struct Trace {
    child: Child,
    file: PathBuf,
}

impl Trace {
    /// Fails with the reason if the thread cannot be traced.
    fn begin(tid: u32) -> Result<Self, String> {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("strace.{tid}"));
        let mut strace = Command::new("strace");
        strace.args(["-p", &tid.to_string(), "-o"]).arg(&file).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = strace.spawn().map_err(|err| format!("no strace(1): {err}"))?;
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.as_mut().unwrap());
        while !said.contains("attached") {
            if lines.read_line(&mut said).unwrap() == 0 {
                let _ = child.wait();
                return Err(format!("strace(1) cannot trace a thread: {}", said.trim()));
            }
        }
        Ok(Self { child, file })
    }

    /// Returns the number of calls, by name.
    fn end(self) -> BTreeMap<String, usize> {
        let interrupted = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(interrupted.success());
        end_of(self.child);
        let mut calls = BTreeMap::new();
        for line in fs::read_to_string(&self.file).unwrap().lines() {
            if let Some((name, _)) = line.split_once('(').filter(|(name, _)| !name.contains(' ')) {
                *calls.entry(name.to_owned()).or_default() += 1;
            }
        }
        fs::remove_file(&self.file).unwrap();
        calls
    }
}

/// Counts the calls of one end while the near one pings the far one; `most` are allowed for each ping.
fn count(what: &str, counted: &End, near: &End, most: usize) -> Result<(), String> {
    let mut last = BTreeMap::new();
    // On a busy machine another thread may have served the interface for a while.
    for _ in 0..5 {
        let trace = Trace::begin(counted.tid())?;
        near.ping(PINGS);
        last = trace.end();
        let is_served = last.get("sendmmsg").is_some_and(|calls| *calls >= PINGS);
        if is_served && last.values().sum::<usize>() <= most * PINGS + OTHERS {
            return Ok(());
        }
    }
    panic!("{what}: more than {most} calls for each of {PINGS} pings: {last:?}");
}

#[test]
fn a_ping_takes_few_system_calls() {
    as_root(|| {
        for vnet in [true, false] {
            let near = Netns::new();
            let far = near.far_end(1);
            let keys = [(); 2].map(|()| PrivateKey::generate_with(&SystemRandom));
            let [a, b] = keys.each_ref().map(PrivateKey::public_key);
            let [private_a, private_b] = keys;
            let near = End::new(near, 1, vnet, private_a, b);
            let far = End::new(far, 2, vnet, private_b, a);
            near.ping(5);
            // epoll_wait, recvmmsg, the write of the request, the read of the reply, sendmmsg, and one more read that
            // finds no more.
            let answering = count("the end that answers", &far, &near, 6);
            // The same in another order, and twice epoll_wait and the last read.
            if let Err(reason) = answering.and_then(|()| count("the end that asks", &near, &near, 8)) {
                return skip::skipped(reason);
            }
            near.tunnel.stop().unwrap();
            far.tunnel.stop().unwrap();
        }
    });
}
