//! Two kernels side by side: two network namespaces, a veth between them, and a tunnel over it.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use wg_embed::{
    bind::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{DEFAULT_MEMORY, Options, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    tun::linux::LinuxTun,
};

use crate::{
    judge::Judge,
    netns::{Netns, as_root, eventually},
    skip::skipped,
    sockets::{PATIENCE, udp_pair},
};

/// The UDP port of both tunnels.
pub(crate) const PORT: u16 = 51820;
/// The tunnel's interface, and the veth's.
pub(crate) const TUN: &str = "wg0";
pub(crate) const LINK: &str = "link0";

/// What a TUN speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Packets with a virtio-net header: offloads.
    Vnet,
    /// The same in a device that another program has made, with a header of 12 bytes.
    LongVnet,
    /// One packet at a time, as an Android app has it.
    Plain,
}

/// What a lab is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) a: Kind,
    pub(crate) b: Kind,
    pub(crate) mtu: u16,
    /// The veth's MTU.
    pub(crate) link: u16,
    /// What is outside: 4 or 6.
    pub(crate) outer: u8,
    /// UDP GSO and GRO.
    pub(crate) udp_offload: bool,
    /// Bytes for packets, as in [`Options`].
    pub(crate) memory: usize,
}

impl Plan {
    /// A veth with room for what the tunnel adds, and IPv4 outside.
    pub(crate) fn new(a: Kind, b: Kind, mtu: u16) -> Self {
        Self { a, b, mtu, link: mtu + 100, outer: 4, udp_offload: true, memory: DEFAULT_MEMORY }
    }
}

/// One side.
pub(crate) struct End {
    /// 1 or 2: the last number of its addresses.
    n: u8,
    pub(crate) tunnel: Tunnel,
    pub(crate) judge: Arc<Judge>,
    pub(crate) bind: Arc<UdpBind>,
    pub(crate) netns: Netns,
    private: PrivateKey,
    outer: u8,
}

pub(crate) struct Lab {
    pub(crate) a: End,
    pub(crate) b: End,
    pub(crate) plan: Plan,
}

impl Lab {
    pub(crate) fn new(plan: Plan) -> Self {
        let (a, b) = (Netns::new(), Netns::new());
        join(&a, &b, LINK, plan.link);
        let (a, b) = (End::new(a, 1, plan.a, plan), End::new(b, 2, plan.b, plan));
        a.introduce(&b);
        b.introduce(&a);
        Self { a, b, plan }
    }

    /// Lets the tunnels have a session, so that nothing has to wait for it.
    pub(crate) fn meet(&self) {
        let (a, b) = udp_pair((&self.a.netns, self.a.inner(4)), (&self.b.netns, self.b.inner(4)));
        a.send(&[1]).unwrap();
        assert_eq!(b.recv(&mut [0; 2]).unwrap(), 1);
    }

    pub(crate) fn ends(&self) -> [&End; 2] {
        [&self.a, &self.b]
    }

    /// Both directions: who sends, and who receives.
    pub(crate) fn ways(&self) -> [(&End, &End); 2] {
        [(&self.a, &self.b), (&self.b, &self.a)]
    }

    /// Waits until nothing passes any more: not the last acknowledgement, either.
    pub(crate) fn settle(&self) {
        const QUIET: Duration = Duration::from_millis(300);
        let passed = || self.ends().map(|end| (end.judge.read().packets(), end.judge.written().packets()));
        let (start, mut last, mut since) = (Instant::now(), passed(), Instant::now());
        while since.elapsed() < QUIET {
            assert!(start.elapsed() < PATIENCE, "packets pass all the time");
            thread::sleep(Duration::from_millis(10));
            let now = passed();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// No packet was wrong, changed, or overtaken, and none was dropped but for the reasons in `except`. Returns how
    /// many got lost between the tunnels, which only full buffers of the kernels can explain.
    pub(crate) fn check(&self, except: &[&str]) -> usize {
        self.settle();
        let mut lost = 0;
        for end in self.ends() {
            end.expect_no_drops(except);
            end.expect_right_checksums();
        }
        for (from, to) in self.ways() {
            let written = to.judge.written();
            let read = from.judge.read();
            written.expect_faultless(&format!("written by {}", to.n));
            read.expect_faultless(&format!("read by {}", from.n));
            lost += written.expect_part_of(&read, &format!("from {} to {}", from.n, to.n));
        }
        let full: u64 = self.ends().iter().map(|end| end.full_buffers()).sum();
        assert!(lost == 0 || full > 0 || !except.is_empty(), "{lost} packets are lost, and no kernel says so");
        lost
    }
}

impl End {
    fn new(netns: Netns, n: u8, kind: Kind, plan: Plan) -> Self {
        netns.ip(&format!("addr add 192.0.2.{n}/24 dev {LINK}"));
        netns.ip(&format!("addr add 2001:db8::{n}/64 dev {LINK} nodad"));
        let tun = match kind {
            Kind::Vnet => netns.run(|| LinuxTun::create(TUN).unwrap()),
            Kind::LongVnet => LinuxTun::adopt(with_long_headers(&netns), 0).unwrap().with_link_state(),
            Kind::Plain => LinuxTun::adopt(netns.tun(TUN, libc::IFF_TUN), 0).unwrap().with_link_state(),
        };
        netns.set_up(TUN, &format!("mtu {}", plan.mtu));
        netns.ip(&format!("addr add 10.7.0.{n}/24 dev {TUN}"));
        netns.ip(&format!("addr add fd07::{n}/64 dev {TUN} nodad"));
        let judge = Arc::new(Judge::new(tun));
        let bind = Arc::new(UdpBind::new().unwrap().with_offload(plan.udp_offload));
        let options = Options { memory: plan.memory, ..Options::default() };
        let private = PrivateKey::generate_with(&SystemRandom);
        let key = Update { private_key: Some(Some(private.clone())), listen_port: Some(PORT), ..Update::default() };
        let (own_judge, own_bind) = (judge.clone(), bind.clone());
        // The tunnel's threads inherit the namespace and the processor of the one that starts them. A veth keeps the
        // order of what one processor sends; that of a thread which moves it does not.
        let start = move || {
            run_on_one_processor(usize::from(n));
            Tunnel::start_with(own_judge, own_bind, options, |device| device.apply(key)).unwrap()
        };
        let tunnel = netns.run(|| thread::spawn(start).join().unwrap());
        netns.await_address(&format!("2001:db8::{n}"));
        netns.await_address(&format!("fd07::{n}"));
        eventually("the tunnel is up", || bind.fd4().is_some());
        Self { n, tunnel, judge, bind, netns, private, outer: plan.outer }
    }

    /// Makes `other` a peer, with all that is behind it.
    fn introduce(&self, other: &Self) {
        let mut peer = PeerUpdate::new(other.private.public_key());
        peer.endpoint = Some(SocketAddr::new(other.outer_address(), PORT).into());
        let n = other.n;
        peer.allowed_ips =
            [format!("10.7.0.{n}/32"), format!("10.{n}.0.0/16"), format!("fd07::{n}/128"), format!("fd0{n}::/32")]
                .iter()
                .map(|prefix| AllowedIpUpdate::add(prefix.parse().unwrap()))
                .collect();
        self.tunnel.device().apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    /// Where the other end reaches the tunnel.
    pub(crate) fn outer_address(&self) -> IpAddr {
        let text = if self.outer == 4 { format!("192.0.2.{}", self.n) } else { format!("2001:db8::{}", self.n) };
        text.parse().unwrap()
    }

    /// The address inside of the tunnel, of family 4 or 6.
    pub(crate) fn inner(&self, family: u8) -> IpAddr {
        let text = if family == 4 { format!("10.7.0.{}", self.n) } else { format!("fd07::{}", self.n) };
        text.parse().unwrap()
    }

    pub(crate) fn stat(&self, name: &str) -> u64 {
        self.tunnel.device().stats().iter().find(|s| s.0 == name).unwrap().1
    }

    fn expect_no_drops(&self, except: &[&str]) {
        let drops: Vec<_> =
            self.tunnel.device().stats().iter().filter(|(name, n)| *n > 0 && !except.contains(name)).collect();
        assert!(drops.is_empty(), "{}: {drops:?}", self.n);
        assert_eq!(wg_embed::tun::Tun::read_drops(&*self.judge), 0);
    }

    /// Drops that the kernel counts where the tunnel's datagrams wait.
    fn full_buffers(&self) -> u64 {
        let v6 = self.netns.proc_net("snmp6");
        let six = v6.lines().filter(|l| l.starts_with("Udp6RcvbufErrors") || l.starts_with("Udp6SndbufErrors"));
        self.netns.snmp("Udp", "RcvbufErrors")
            + self.netns.snmp("Udp", "SndbufErrors")
            + six.map(|l| l.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum::<u64>()
    }

    /// The kernel saw no wrong checksum and no wrong header.
    fn expect_right_checksums(&self) {
        for (protocol, counter) in
            [("Tcp", "InCsumErrors"), ("Udp", "InCsumErrors"), ("Icmp", "InCsumErrors"), ("Ip", "InHdrErrors")]
        {
            assert_eq!(self.netns.snmp(protocol, counter), 0, "{}: {protocol} {counter}", self.n);
        }
        let wrong: Vec<String> = self
            .netns
            .proc_net("snmp6")
            .lines()
            .filter(|l| l.contains("InCsumErrors") || l.contains("Ip6InHdrErrors"))
            .filter(|l| l.split_whitespace().nth(1) != Some("0"))
            .map(str::to_owned)
            .collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", self.n);
    }
}

/// Lays a veth between two namespaces.
pub(crate) fn join(a: &Netns, b: &Netns, name: &str, mtu: u16) {
    a.ip(&format!("link add {name} mtu {mtu} type veth peer name {name} mtu {mtu} netns {}", b.tid()));
    for netns in [a, b] {
        netns.set_up(name, "");
    }
    for netns in [a, b] {
        // Until the kernel has noticed that the other end is up, it sends nothing.
        eventually("the link is up", || netns.ip(&format!("link show {name}")).contains("state UP"));
    }
}

/// Sets a file below /proc/sys/net of a namespace.
pub(crate) fn sysctl(netns: &Netns, name: &str, value: &str) {
    let (path, value) = (format!("/proc/sys/net/{name}"), value.to_owned());
    netns.run(move || fs::write(&path, value).unwrap_or_else(|err| panic!("{path}: {err}")));
}

/// A TUN with longer virtio-net headers than Linux needs.
fn with_long_headers(netns: &Netns) -> OwnedFd {
    let fd = netns.tun(TUN, libc::IFF_TUN | libc::IFF_VNET_HDR);
    let len: libc::c_int = 12;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    fd
}

/// Whether the kernel's TUN knows large packets of UDP: it does since Linux 6.2.
pub(crate) fn cuts_udp(netns: &Netns) -> bool {
    let fd = netns.tun("probe0", libc::IFF_TUN | libc::IFF_VNET_HDR);
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    // SAFETY: TUNSETOFFLOAD takes a number, not a pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    if result != 0 {
        println!("this kernel does not cut UDP: that it is cut here is not checked");
    }
    result == 0
}

/// Runs a test that needs root and a program; where it cannot run, says why.
pub(crate) fn with_program(program: &str, test: impl FnOnce()) {
    let there = Command::new(program).arg("-V").output().is_ok();
    as_root(|| if there { test() } else { skipped(format!("no {program}(8)")) });
}

/// Keeps the calling thread, and all that it starts, to one of the processors that it may use.
fn run_on_one_processor(n: usize) {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a C struct of numbers, for which zeros are valid.
    let mut may: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set, which lives.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size, &raw mut may) }, 0);
    // SAFETY: the numbers are below the size of the set.
    let processors: Vec<usize> =
        (0..libc::CPU_SETSIZE as usize).filter(|i| unsafe { libc::CPU_ISSET(*i, &may) }).collect();
    // SAFETY: as above.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number came out of such a set.
    unsafe { libc::CPU_SET(processors[n % processors.len()], &mut one) };
    // SAFETY: the size is that of the set, which lives.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size, &raw const one) }, 0);
}
