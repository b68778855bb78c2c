//! Network namespaces for tests: each is a thread that nobody else shares, so that no test sees another's interfaces.
#![allow(unsafe_code, dead_code, clippy::unwrap_used)]

use std::{
    any::Any,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

#[path = "../common/in_time.rs"]
pub(crate) mod in_time;

use in_time::output_of;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace of its own. It ends with this value.
pub(crate) struct Netns {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Netns {
    /// Makes one, with `lo` up.
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, tid) = mpsc::channel();
        let thread = thread::spawn(move || {
            // SAFETY: unshare(2) takes a number, and concerns this thread only.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "cannot make a network namespace");
            // SAFETY: gettid(2) takes nothing.
            ready.send(unsafe { libc::gettid() }).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let netns = Self { jobs: Some(jobs), thread: Some(thread), tid: tid.recv().unwrap() };
        netns.ip("link set lo up");
        netns
    }

    /// The thread that lives in it: `ip link set X netns TID` moves an interface here.
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// Makes another one behind a link of its own: `near{number}` with 10.77.NUMBER.1 here, `far` with 10.77.NUMBER.2
    /// there.
    pub(crate) fn far_end(&self, number: u8) -> Self {
        let far = Self::new();
        self.ip(&format!("link add near{number} type veth peer name far netns {}", far.tid()));
        self.ip(&format!("addr add 10.77.{number}.1/24 dev near{number}"));
        self.ip(&format!("link set near{number} up"));
        far.ip(&format!("addr add 10.77.{number}.2/24 dev far"));
        far.ip("link set far up");
        far
    }

    /// Starts something in it; the result is awaited with `recv`.
    pub(crate) fn start<R: Send + 'static>(&self, body: impl FnOnce() -> R + Send + 'static) -> mpsc::Receiver<R> {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || {
            let _ = done.send(body());
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result
    }

    /// Does something in it.
    pub(crate) fn run<R: Send + 'static>(&self, body: impl FnOnce() -> R + Send + 'static) -> R {
        let caught = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        match self.start(caught).recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic as Box<dyn Any + Send>),
        }
    }

    /// Runs ip(8) in it, which may fail. Returns whether it did not.
    pub(crate) fn try_ip(&self, arguments: &str) -> bool {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        self.run(move || output_of(Command::new("ip").args(&arguments)).unwrap().status.success())
    }

    /// Runs ip(8) in it.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.command("ip", arguments)
    }

    /// Runs a program in it, which must succeed. Returns what it prints.
    pub(crate) fn command(&self, program: &'static str, arguments: &str) -> String {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let out = output_of(Command::new(program).args(&arguments)).unwrap();
            assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        })
    }

    /// Brings an interface up that sends nothing of its own accord: no IPv6 multicast before what a test sends.
    pub(crate) fn set_up(&self, interface: &str, more: &str) {
        self.ip(&format!("link set {interface} {more} addrgenmode none multicast off"));
        self.ip(&format!("link set {interface} up"));
    }

    /// A TUN descriptor as another program would make it: with IFF_NO_PI and these flags.
    pub(crate) fn tun(&self, name: &str, flags: i32) -> OwnedFd {
        let name = name.to_owned();
        self.run(move || {
            let file = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
            let mut request = [0_u8; 40];
            request[..name.len()].copy_from_slice(name.as_bytes());
            request[16..18].copy_from_slice(&((libc::IFF_NO_PI | flags) as u16).to_ne_bytes());
            // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which has 40 bytes.
            let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            file.into()
        })
    }

    /// Waits until an IPv6 address of an interface that is up is in use: the kernel takes it up in the background, and
    /// drops what comes for it until then.
    pub(crate) fn await_address(&self, address: &str) {
        let local = format!("local {address} ");
        eventually("the IPv6 address is in use", || self.ip("-6 route show table local").contains(&local));
    }

    /// A file of /proc/net.
    pub(crate) fn proc_net(&self, file: &str) -> String {
        let path = format!("/proc/thread-self/net/{file}");
        self.run(move || fs::read_to_string(path).unwrap())
    }

    /// A counter of /proc/net/snmp or /proc/net/netstat.
    pub(crate) fn snmp(&self, protocol: &str, counter: &str) -> u64 {
        let text = self.proc_net("snmp") + &self.proc_net("netstat");
        let prefix = format!("{protocol}:");
        let mut lines = text.lines().filter(|l| l.starts_with(&prefix));
        let names = lines.next().unwrap().split_whitespace();
        let values = lines.next().unwrap().split_whitespace();
        names.zip(values).find(|(n, _)| *n == counter).unwrap().1.parse().unwrap()
    }

    /// How many packets an interface has received; a large one counts as one.
    pub(crate) fn received(&self, interface: &str) -> u64 {
        self.device(interface, 1)
    }

    /// How many packets an interface has sent; a large one counts as one.
    pub(crate) fn sent(&self, interface: &str) -> u64 {
        self.device(interface, 9)
    }

    /// How many packets an interface could not send.
    pub(crate) fn dropped(&self, interface: &str) -> u64 {
        self.device(interface, 11)
    }

    /// A column of /proc/net/dev.
    fn device(&self, interface: &str, column: usize) -> u64 {
        let text = self.proc_net("dev");
        let prefix = format!("{interface}:");
        let line = text.lines().find_map(|l| l.trim_start().strip_prefix(&prefix)).unwrap();
        line.split_whitespace().nth(column).unwrap().parse().unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A test that fails because something hangs must not wait for it here.
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            let _ = thread.join();
        }
    }
}

/// Keeps other tests away as long as the guard lives, so that descriptors can be counted.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test that needs root, one at a time; where it cannot run, says why.
pub(crate) fn as_root(test: impl FnOnce()) {
    // The question below opens descriptors, too.
    let _guard = alone();
    // SAFETY: geteuid(2) takes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    let reason = if !root {
        "not root"
    } else if !Path::new("/dev/net/tun").exists() {
        "no /dev/net/tun"
    } else if output_of(Command::new("ip").arg("-V")).is_err() {
        "no ip(8)"
    } else {
        return test();
    };
    crate::skip::skipped(reason);
}

/// Does something while the process can open this many descriptors more. Not beside other tests.
pub(crate) fn with_descriptors<R>(count: usize, body: impl FnOnce() -> R) -> R {
    // More than a test has open.
    const MOST: libc::rlim_t = 500;
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it writes one `rlimit`.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) }, 0);
    let set = |limit: libc::rlimit| {
        // SAFETY: it reads one `rlimit`.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    };
    set(libc::rlimit { rlim_cur: MOST.min(before.rlim_cur), ..before });
    // Other tests follow, also after a failed one.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut taken: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        taken.truncate(taken.len() - count);
        body()
    }));
    set(before);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Waits until something is so. The limit bounds a hang, and nothing else.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}
