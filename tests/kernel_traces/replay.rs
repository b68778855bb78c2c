//! Gives a device what a trace gave the kernel, and compares what comes out.
//!
//! Inputs go in at their time; what they cause comes out at once, and up to 60 ms later in the trace. The kernel's
//! timers fire late, by an amount that is bounded but looks random, and what follows depends on when. So that the two
//! do not drift apart, the device's timers run exactly when the kernel's did: in a window before everything in the
//! trace that a timer may have caused, as long as the kernel can have been late, they are held; outside these windows
//! they run when they are due, and must cause nothing that can be seen. Thus a timer that is due too early is noticed
//! in front of the window, and one that is due too late at its end.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use wg_embed::{
    config::{AllowedIpUpdate, PeerUpdate, Update},
    key::PrivateKey,
    random::{Random, SystemRandom},
    time::Instant,
};

use crate::{
    common::{self, Node, PORT, World},
    peer::{self, Peer},
    trace::{Line, Notes, Trace, What},
};

/// The kernel, on an emulated CPU, reacts within this time...
const REACTION: Duration = Duration::from_millis(10);
/// ... and what it sends while a command runs may be noted this much later than what it is caused by.
const CAUSED: Duration = Duration::from_millis(100);
/// What the kernel adds to the timers of 5 and 15 s, at most. Ours add nothing here: see [`NoJitter`].
const JITTER: Duration = Duration::from_millis(333);

/// How late the kernel's timer of so many seconds fires at most (HZ=250).
const fn lateness(seconds: u64) -> Duration {
    Duration::from_millis(match seconds {
        0..16 => 256,
        16..131 => 2_048,
        131..1_048 => 16_384,
        _ => 131_072,
    })
}

/// The peer, outside and inside.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const PEER_INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// Randomness that makes every jitter zero, which is the seed of 8 bytes. Four bytes at a time, which are the indices
/// of sessions, count up.
#[derive(Default)]
struct NoJitter(AtomicU32);

impl Random for NoJitter {
    fn fill(&self, out: &mut [u8]) {
        match out.len() {
            4 => out.copy_from_slice(&self.0.fetch_add(1, Ordering::Relaxed).to_ne_bytes()),
            8 => out.fill(0),
            _ => SystemRandom.fill(out),
        }
    }
}

/// The stretches of time in which timers are held.
fn windows(trace: &Trace) -> Vec<Range<Duration>> {
    let (mut keepalive, mut passed, mut kept_alive) = (0, Duration::ZERO, Duration::ZERO);
    let mut windows = Vec::new();
    let mut hold = |until: Duration, late: Duration| windows.push(until.saturating_sub(late + REACTION)..until);
    for line in &trace.lines {
        if let What::Config(config) = &line.what {
            keepalive = config.optional("peer-keepalive").ok().flatten().unwrap_or(keepalive);
        }
        // An initiation right behind a keepalive is caused by it: it has no time of its own.
        let caused = line.at.saturating_sub(kept_alive) < REACTION && kept_alive != Duration::ZERO;
        if line.may_be_timed() && !caused {
            let jitter = if line.text.starts_with("tx initiation") { JITTER } else { Duration::ZERO };
            // Only after so much silence it can be the persistent keepalive.
            let silent = keepalive != 0 && line.at.saturating_sub(passed).as_secs() >= keepalive;
            let persistent = if silent { lateness(keepalive) } else { Duration::ZERO };
            hold(line.at, (lateness(15) + jitter).max(persistent));
        }
        if line.is_datagram() {
            passed = line.at;
        }
        if line.is_keepalive() {
            kept_alive = line.at;
        }
    }
    // What would have come after the end is not known.
    hold(trace.until, (lateness(15) + JITTER).max(lateness(keepalive)));
    windows
}

/// Something that the device has done, in the words of a trace.
struct Output {
    at: Duration,
    text: String,
}

struct Replay {
    windows: Vec<Range<Duration>>,
    world: World,
    node: Node,
    peer: Peer,
    zero: Instant,
    now: Duration,
    /// Datagrams that the trace has not named yet.
    sent: VecDeque<Output>,
    /// The same for delivered packets.
    delivered: VecDeque<Output>,
}

/// Replays a trace.
///
/// # Errors
/// Where the device does something else than the kernel, and what.
pub(crate) fn replay(trace: &Trace) -> Result<(), String> {
    let world = World::new();
    let node = world.node_with(1, Arc::new(NoJitter::default()));
    node.device.down();
    let peer = Peer::new(node.public(), PEER, PEER_INNER, node.inner);
    let mut replay = Replay {
        windows: windows(trace),
        zero: world.now(),
        world,
        node,
        peer,
        now: Duration::ZERO,
        sent: VecDeque::new(),
        delivered: VecDeque::new(),
    };
    for line in &trace.lines {
        replay.advance(line.at, &format!("{}: `{}` at {:?}", trace.place(line), line.text, line.at))?;
        replay.follow(line).map_err(|why| {
            let deadline = replay.node.device.next_deadline().map(|at| at.since(replay.zero));
            format!("{}: `{}` at {:?}: {why}; next deadline: {deadline:?}", trace.place(line), line.text, line.at)
        })?;
    }
    let end = format!("the end of {}.trace at {:?}", trace.name, trace.until);
    replay.advance(trace.until, &end)?;
    match replay.sent.pop_front().or(replay.delivered.pop_front()) {
        Some(extra) => Err(format!("{end}: the device did `{}` at {:?} in addition", extra.text, extra.at)),
        None => Ok(()),
    }
}

impl Replay {
    /// Moves on to just before `to`. Timers run when they are due and not held, and must do nothing that can be seen.
    fn advance(&mut self, to: Duration, next: &str) -> Result<(), String> {
        while let Some(deadline) = self.node.device.next_deadline() {
            let mut at = deadline.since(self.zero).max(self.now);
            while let Some(window) = self.windows.iter().find(|w| w.contains(&at)) {
                at = window.end;
            }
            if at >= to {
                break;
            }
            self.set_clock(at);
            let before = self.sent.len();
            self.run_timers();
            if let Some(early) = self.sent.get(before) {
                return Err(format!("before {next}: a timer made `{}` at {at:?}", early.text));
            }
        }
        self.set_clock(to);
        match [&self.sent, &self.delivered].into_iter().flat_map(VecDeque::front).find(|o| o.at + CAUSED < to) {
            Some(extra) => Err(format!("before {next}: the device did `{}` at {:?} in addition", extra.text, extra.at)),
            None => Ok(()),
        }
    }

    fn set_clock(&mut self, to: Duration) {
        self.now = to;
        self.world.clock.advance_to(self.zero + to);
    }

    fn run_timers(&mut self) {
        self.node.device.run_timers();
        self.settle();
    }

    /// Lets the device do what it can do now, and notes what it did.
    fn settle(&mut self) {
        self.world.settle(&[&self.node]);
        for datagram in self.world.sent() {
            self.sent.push_back(Output { at: self.now, text: self.peer.read(&datagram, self.world.now()) });
        }
        // An answer by ICMP is a comment in a recording.
        for packet in self.node.received().into_iter().filter(|packet| packet.get(9) != Some(&1)) {
            self.delivered.push_back(Output { at: self.now, text: self.peer.read_delivered(&packet) });
        }
    }

    fn follow(&mut self, line: &Line) -> Result<(), String> {
        match &line.what {
            What::Tx => {
                if self.sent.is_empty() {
                    self.run_timers();
                }
                expect(&mut self.sent, &line.text)?;
            }
            What::TunRecv => expect(&mut self.delivered, &line.text)?,
            What::TunSend(size) => {
                let packet = common::ipv4(self.node.inner, PEER_INNER, *size);
                if !self.node.tun.inject(&packet) {
                    return Err("the interface does not take it".into());
                }
            }
            What::Rx(wanted) => {
                let bytes = self.peer.make(wanted, self.world.now())?;
                let from = self.peer.end(wanted.notes.optional("port")?.unwrap_or(1));
                self.world.net.inject(from, SocketAddr::new(self.node.address, PORT), &bytes, 0);
            }
            What::Link { up: true } => self.node.device.up().map_err(|e| e.to_string())?,
            What::Link { up: false } => self.node.device.down(),
            What::Config(config) => self.configure(config)?,
        }
        self.settle();
        Ok(())
    }

    fn configure(&mut self, config: &Notes) -> Result<(), String> {
        let mut update = Update::default();
        if config.has("private-key") {
            let key = PrivateKey::generate_with(&SystemRandom);
            self.peer.set_node(key.public_key());
            update.private_key = Some(Some(key));
        }
        let mut change = PeerUpdate::new(*self.peer.public());
        if let Some(endpoint) = config.text("endpoint") {
            // The first line: the peer is made.
            change.endpoint = (endpoint == "yes").then(|| self.peer.end(1).into());
            change.allowed_ips = vec![AllowedIpUpdate::add(PEER_INNER.into())];
        }
        change.persistent_keepalive = config.optional("peer-keepalive")?.map(|seconds| seconds as u16);
        change.preshared_key = config.text("psk").map(peer::psk).transpose()?.map(Box::new);
        update.peers = vec![change];
        self.node.device.apply(update).map_err(|e| e.to_string())
    }
}

/// Takes the next output, which must be this.
fn expect(outputs: &mut VecDeque<Output>, wanted: &str) -> Result<(), String> {
    match outputs.pop_front() {
        None => Err("the device did nothing".into()),
        Some(output) if output.text == wanted => Ok(()),
        Some(output) => Err(format!("the device did `{}` at {:?}", output.text, output.at)),
    }
}
