//! What joins a stack and the kernel: a thread that moves packets, and the path between the two.

use std::{
    collections::BTreeMap,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use wg_embed::poll::Registered;

use crate::{
    common::{Node, Path, Seeded},
    kernel::Interface,
};

const INTERFACE: Token = Token(0);
const STACK: Token = Token(1);
const WAKER: Token = Token(2);

/// What a path does beside what [`Path`] has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) path: Path,
    /// Of a thousand packets, so many have a byte changed.
    pub(crate) damaged: u64,
}

/// The thread, and what it shares with the test.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    trouble: Mutex<Trouble>,
    stopped: AtomicBool,
    /// Packets that the path has lost, delivered twice or late, or damaged.
    troubled: AtomicU64,
    /// The longest packet of either side.
    longest: AtomicU64,
}

impl Relay {
    pub(crate) fn start(interface: Interface, node: Node) -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry();
        registry.register(&mut SourceFd(&interface.as_raw_fd()), INTERFACE, Interest::READABLE).unwrap();
        // The thread calls `wait` of the stack after each event, of whichever token.
        let tokens = Registered { packets: STACK, other: STACK };
        assert!(node.tun.register(&Arc::new(registry.try_clone().unwrap()), tokens).unwrap());
        let waker = Waker::new(registry, WAKER).unwrap();
        let shared = Arc::new(Shared::default());
        let both = Both {
            interface,
            node,
            shared: shared.clone(),
            chance: Seeded::new(11),
            on_the_way: BTreeMap::new(),
            sent: 0,
            buffer: vec![0; 65_536],
        };
        let thread = thread::spawn(move || both.run(poll));
        Self { shared, waker, thread: Some(thread) }
    }

    pub(crate) fn set_trouble(&self, trouble: Trouble) {
        *self.shared.trouble.lock().unwrap() = trouble;
    }

    /// How many packets had trouble.
    pub(crate) fn troubled(&self) -> u64 {
        self.shared.troubled.load(Relaxed)
    }

    /// The longest packet since the last call.
    pub(crate) fn take_longest(&self) -> u64 {
        self.shared.longest.swap(0, Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Relaxed);
        self.waker.wake().unwrap();
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            thread.join().unwrap();
        }
    }
}

/// The two sides.
struct Both {
    interface: Interface,
    node: Node,
    shared: Arc<Shared>,
    chance: Seeded,
    /// When which packet arrives where (true: at the stack).
    on_the_way: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    sent: u64,
    buffer: Vec<u8>,
}

impl Both {
    fn run(mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(8);
        while !self.shared.stopped.load(Relaxed) {
            while self.step() {}
            let next = self.on_the_way.first_key_value().map(|(key, _)| key.0);
            let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
            match poll.poll(&mut events, timeout) {
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                result => result.unwrap(),
            }
            self.node.tun.wait(Some(Duration::ZERO)).unwrap();
        }
    }

    /// Moves what there is; returns whether there was something.
    fn step(&mut self) -> bool {
        /// Packets of the kernel at a time.
        const TURN: usize = 64;
        let trouble = *self.shared.trouble.lock().unwrap();
        let now = Instant::now();
        let mut moved = false;
        for _ in 0..TURN {
            let Some(len) = self.interface.read(&mut self.buffer) else { break };
            let packet = self.buffer[..len].to_vec();
            self.send(&trouble, now, true, packet);
            moved = true;
        }
        for packet in self.node.take() {
            self.send(&trouble, now, false, packet);
            moved = true;
        }
        let mut arrived = Vec::new();
        while let Some(entry) = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                (true, packet) => arrived.push(packet),
                // The kernel refuses a packet of no version that it knows: one that was damaged.
                (false, packet) => assert!(self.interface.write(&packet) || trouble.damaged > 0),
            }
            moved = true;
        }
        self.node.give(&arrived);
        moved
    }

    fn send(&mut self, trouble: &Trouble, now: Instant, to_stack: bool, packet: Vec<u8>) {
        self.shared.longest.fetch_max(packet.len() as u64, Relaxed);
        let copies = trouble.path.copies(&self.chance);
        let mut has_trouble = copies.len() != 1;
        for late in copies {
            let mut packet = packet.clone();
            has_trouble |= late != trouble.path.delay;
            if self.chance.chance(trouble.damaged) {
                let place = self.chance.next() as usize % packet.len();
                packet[place] ^= 1 << (self.chance.next() % 8);
                has_trouble = true;
            }
            self.sent += 1;
            self.on_the_way.insert((now + late, self.sent), (to_stack, packet));
        }
        self.shared.troubled.fetch_add(u64::from(has_trouble), Relaxed);
    }
}
