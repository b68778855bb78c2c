//! The simulated path.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use wg_embed::time::Instant;

use super::super::{Budget, Config, Connection, Header, Segment};

/// A budget that counts.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) used: AtomicUsize,
    pub(super) limit: AtomicUsize,
}

impl Default for Counted {
    fn default() -> Self {
        Self { used: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) }
    }
}

impl Budget for Counted {
    fn take(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.limit.load(Ordering::Relaxed) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn give(&self, bytes: usize) {
        assert!(self.used.fetch_sub(bytes, Ordering::Relaxed) >= bytes, "more was given back than taken");
    }
}

/// Pseudo-random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True `parts` times in a million.
    pub(super) fn chance(&mut self, parts: u64) -> bool {
        self.next() % 1_000_000 < parts
    }
}

/// One direction of the path.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) delay: Duration,
    /// Bytes a second; 0 is without limit.
    pub(super) rate: u64,
    /// Bytes that may wait for the rate.
    pub(super) queue: u64,
    /// Parts in a million.
    pub(super) loss: u64,
    /// Parts in a million that are delayed by `late` more.
    pub(super) reorder: u64,
    pub(super) late: Duration,
    /// Everything is dropped.
    pub(super) cut: bool,
    busy_until: Instant,
    on_the_way: BTreeMap<(Instant, u64), (Header, Vec<u8>)>,
    count: u64,
    pub(super) dropped: u64,
    pub(super) bytes: u64,
}

impl Lane {
    fn new(delay: Duration) -> Self {
        Self {
            delay,
            rate: 0,
            queue: 1 << 20,
            loss: 0,
            reorder: 0,
            late: Duration::ZERO,
            cut: false,
            busy_until: Instant::default(),
            on_the_way: BTreeMap::new(),
            count: 0,
            dropped: 0,
            bytes: 0,
        }
    }

    fn push(&mut self, header: Header, payload: Vec<u8>, now: Instant, numbers: &mut Numbers) {
        let size = payload.len() as u64 + 60;
        self.bytes += payload.len() as u64;
        let from = self.busy_until.max(now);
        let waiting = if self.rate == 0 { 0 } else { from.since(now).as_nanos() as u64 * self.rate / 1_000_000_000 };
        if self.cut || waiting + size > self.queue || numbers.chance(self.loss) {
            self.dropped += 1;
            return;
        }
        if let Some(time) = (size * 1_000_000_000).checked_div(self.rate) {
            self.busy_until = from + Duration::from_nanos(time);
        }
        let mut at = self.busy_until.max(now) + self.delay;
        if self.reorder > 0 && numbers.chance(self.reorder) {
            at = at + self.late;
        }
        self.count += 1;
        self.on_the_way.insert((at, self.count), (header, payload));
    }
}

/// One end, with what its program does.
pub(super) struct End {
    pub(super) tcp: Connection,
    pub(super) budget: Arc<Counted>,
    /// What is still to be written; the content follows from the position.
    pub(super) to_write: usize,
    written: usize,
    pub(super) received: usize,
    /// A FIN follows what is written.
    pub(super) then_finish: bool,
    pub(super) reads: bool,
    pub(super) at_end: bool,
    pub(super) failed: Option<io::ErrorKind>,
}

/// After so many bytes the content of every stream begins again: a prime, which no buffer has as its size.
const PERIOD: usize = 65_521;

/// Content from `position` on, as many bytes as lie in one piece and `len` at most.
fn content(position: usize, len: usize) -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    let content = CONTENT.get_or_init(|| {
        let mut numbers = Numbers(0);
        (0..PERIOD).map(|_| numbers.next() as u8).collect()
    });
    let rest = &content[position % PERIOD..];
    &rest[..len.min(rest.len())]
}

impl End {
    fn new(tcp: Connection, budget: Arc<Counted>) -> Self {
        Self {
            tcp,
            budget,
            to_write: 0,
            written: 0,
            received: 0,
            then_finish: false,
            reads: true,
            at_end: false,
            failed: None,
        }
    }

    fn run(&mut self, now: Instant) {
        while self.to_write > 0 && self.tcp.readiness().writable {
            let (written, left) = (self.written, self.to_write);
            let result = self.tcp.write(&|| now, left, &mut |a, b| {
                let mut at = 0;
                for mut part in [a, b] {
                    while !part.is_empty() && at < left {
                        let piece = content(written + at, part.len().min(left - at));
                        let (to, rest) = part.split_at_mut(piece.len());
                        to.copy_from_slice(piece);
                        part = rest;
                        at += piece.len();
                    }
                }
                at
            });
            match result {
                Ok((n, _)) => {
                    self.written += n;
                    self.to_write -= n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.failed = Some(error.kind());
                    break;
                }
            }
        }
        if self.to_write == 0 && self.then_finish && self.tcp.is_established() {
            self.then_finish = false;
            drop(self.tcp.shutdown(std::net::Shutdown::Write, now));
        }
        while self.reads && !self.at_end && self.tcp.readiness().readable {
            let position = self.received;
            let result = self.tcp.read(&|| now, &mut |a, b| {
                let mut at = 0;
                for mut part in [a, b] {
                    while !part.is_empty() {
                        let piece = content(position + at, part.len());
                        let (is, rest) = part.split_at(piece.len());
                        assert!(is == piece, "wrong content after {} bytes", position + at);
                        part = rest;
                        at += piece.len();
                    }
                }
                at
            });
            match result {
                Ok((0, _)) => self.at_end = true,
                Ok((n, _)) => self.received += n,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.failed = Some(error.kind());
                    }
                    break;
                }
            }
        }
    }
}

/// The path and both ends. `a` dials, `b` is what the SYN makes.
pub(super) struct Path {
    pub(super) now: Instant,
    pub(super) a: End,
    pub(super) b: Option<End>,
    half_open: Option<super::super::HalfOpen>,
    pub(super) config_b: Config,
    pub(super) forth: Lane,
    pub(super) back: Lane,
    pub(super) numbers: Numbers,
    /// What the programs do at once when there is a `b`.
    pub(super) b_writes: usize,
    pub(super) b_finishes: bool,
    pub(super) b_reads: bool,
    /// Whether the path takes SACK, timestamps, and the window scale out of SYNs.
    pub(super) strip: [bool; 3],
    /// Whether the invariants are checked all the time.
    pub(super) checked: bool,
}

pub(super) fn config() -> Config {
    Config { max_segment: 1400, path_segment: 1400, receive_buffer: 4 << 20, send_buffer: 4 << 20 }
}

impl Path {
    pub(super) fn new(rtt: Duration) -> Self {
        Self::with(config(), config(), rtt)
    }

    pub(super) fn with(config_a: Config, config_b: Config, rtt: Duration) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let budget = Arc::new(Counted::default());
        let a = Connection::dial(config_a, budget.clone(), 0xffff_f000, 77, now);
        Self {
            now,
            a: End::new(a, budget),
            b: None,
            half_open: None,
            config_b,
            forth: Lane::new(rtt / 2),
            back: Lane::new(rtt / 2),
            numbers: Numbers(1),
            b_writes: 0,
            b_finishes: false,
            b_reads: true,
            strip: [false; 3],
            checked: false,
        }
    }

    fn both(&mut self, change: impl Fn(&mut Lane)) {
        change(&mut self.forth);
        change(&mut self.back);
    }

    pub(super) fn rate(mut self, bytes: u64, queue: u64) -> Self {
        self.both(|lane| (lane.rate, lane.queue) = (bytes, queue));
        self
    }

    /// In parts of a million, on the way from `a` to `b`.
    pub(super) fn loss(mut self, parts: u64, seed: u64) -> Self {
        self.forth.loss = parts;
        self.numbers = Numbers(seed);
        self
    }

    pub(super) fn reorder(mut self, parts: u64, late: Duration) -> Self {
        self.both(|lane| (lane.reorder, lane.late) = (parts, late));
        self
    }

    fn flush(&mut self) -> bool {
        let Self { a, b, forth, back, numbers, now, .. } = self;
        let mut any = false;
        for (end, lane) in [(Some(a), forth), (b.as_mut(), back)] {
            let Some(end) = end else { continue };
            if !end.tcp.wants_to_send(*now) {
                continue;
            }
            end.tcp.transmit(*now, 64, &mut |header, first, second| {
                any = true;
                lane.push(*header, [first, second].concat(), *now, numbers);
                true
            });
        }
        any
    }

    fn deliver(&mut self) -> bool {
        let mut any = false;
        while let Some(entry) = self.forth.on_the_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (header, payload) = entry.remove();
            any = true;
            self.deliver_to_b(&Segment { header, payload: &payload });
        }
        while let Some(entry) = self.back.on_the_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (header, payload) = entry.remove();
            any = true;
            self.a.tcp.receive(&Segment { header, payload: &payload }, self.now);
        }
        any
    }

    fn deliver_to_b(&mut self, segment: &Segment<'_>) {
        use super::super::{HalfOpen, Verdict};
        if let Some(b) = &mut self.b {
            b.tcp.receive(segment, self.now);
            return;
        }
        let now = self.now;
        let Some(half_open) = &mut self.half_open else {
            if segment.header.flags.syn && !segment.header.flags.ack {
                let mut syn = segment.header;
                let [sack, timestamps, scale] = self.strip;
                syn.sack_permitted &= !sack;
                syn.timestamps = syn.timestamps.filter(|_| !timestamps);
                syn.window_scale = syn.window_scale.filter(|_| !scale);
                let mut half_open = HalfOpen::new(&syn, &self.config_b, 5000, 13, now);
                let answer = half_open.syn_ack(now);
                self.half_open = Some(half_open);
                self.back.push(answer, Vec::new(), now, &mut self.numbers);
            }
            return;
        };
        match half_open.receive(segment, now) {
            Verdict::Keep => {}
            Verdict::Reset => self.half_open = None,
            Verdict::Answer(answer) => self.back.push(answer, Vec::new(), now, &mut self.numbers),
            Verdict::Established => {
                let budget = Arc::new(Counted::default());
                if let Some(half_open) = self.half_open.take() {
                    let tcp = half_open.establish(self.config_b.clone(), budget.clone(), now);
                    let mut end = End::new(tcp, budget);
                    (end.to_write, end.then_finish, end.reads) = (self.b_writes, self.b_finishes, self.b_reads);
                    end.tcp.receive(segment, now);
                    self.b = Some(end);
                }
            }
        }
    }

    fn next_event(&self) -> Option<Instant> {
        [
            self.a.tcp.deadline(),
            self.b.as_ref().and_then(|b| b.tcp.deadline()),
            self.half_open.as_ref().and_then(super::super::HalfOpen::deadline),
            self.forth.on_the_way.keys().next().map(|key| key.0),
            self.back.on_the_way.keys().next().map(|key| key.0),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does all that can be done now.
    pub(super) fn settle(&mut self) {
        loop {
            let delivered = self.deliver();
            self.a.run(self.now);
            if let Some(b) = &mut self.b {
                b.run(self.now);
            }
            if !self.flush() && !delivered {
                break;
            }
            if self.checked {
                self.a.tcp.check();
                if let Some(b) = &self.b {
                    b.tcp.check();
                }
            }
        }
    }

    /// Goes on until `done`, or until nothing happens any more, or `limit` is over. Returns whether it is done.
    pub(super) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let Some(next) = self.next_event().filter(|&next| next <= end) else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            self.a.tcp.run_timers(self.now);
            if let Some(b) = &mut self.b {
                b.tcp.run_timers(self.now);
            }
            if let Some(half_open) = &mut self.half_open {
                match half_open.deadline() {
                    Some(at) if at <= self.now => {
                        let answer = half_open.syn_ack(self.now);
                        self.back.push(answer, Vec::new(), self.now, &mut self.numbers);
                    }
                    Some(_) => {}
                    None => self.half_open = None,
                }
            }
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub(super) fn b(&mut self) -> &mut End {
        self.b.as_mut().expect("the handshake is over")
    }

    pub(super) fn connect(mut self) -> Self {
        assert!(self.run_until(Duration::from_secs(30), |path| path.a.tcp.is_established() && path.b.is_some()));
        self
    }

    /// Bytes a second of `a`'s data until all has arrived.
    pub(super) fn goodput(&mut self, bytes: usize) -> f64 {
        self.a.to_write = bytes;
        let start = self.now;
        let done =
            self.run_until(Duration::from_secs(3600), |path| path.b.as_ref().is_some_and(|b| b.received == bytes));
        assert!(done, "received {:?} of {bytes}", self.b.as_ref().map(|b| b.received));
        bytes as f64 / self.now.since(start).as_secs_f64()
    }
}
