//! One connection whose peer is the test.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use wg_embed::time::Instant;

use super::{
    super::{Config, Connection, Flags, HalfOpen, Header, Segment, Verdict},
    path::Counted,
};

/// The peer's first number.
pub(super) const PEER: u32 = 0xffff_ff00;
/// Ours.
pub(super) const OURS: u32 = 0xffff_fff0;
/// The largest segment of the peer.
pub(super) const MSS: u16 = 1000;

pub(super) const ACK: Flags = Flags { syn: false, fin: false, rst: false, ack: true, psh: false };
pub(super) const FIN: Flags = Flags { fin: true, ..ACK };
pub(super) const RST: Flags = Flags { syn: false, fin: false, rst: true, ack: false, psh: false };

/// A connection, and what it has sent.
pub(super) struct Lone {
    pub(super) tcp: Connection,
    pub(super) now: Instant,
    pub(super) budget: Arc<Counted>,
    /// What the peer says it has received, as bytes of data.
    pub(super) acked: u32,
    /// Not scaled.
    pub(super) window: u16,
    pub(super) timestamps: bool,
    /// The peer's clock in ms.
    pub(super) peer_clock: u32,
    pub(super) echo: u32,
}

pub(super) fn small() -> Config {
    Config { max_segment: 1400, path_segment: 1400, receive_buffer: 1 << 20, send_buffer: 1 << 20 }
}

impl Lone {
    /// With SACK, a scale of 7 and, if wanted, timestamps; the peer's window is 64 KiB.
    pub(super) fn new(timestamps: bool) -> Self {
        Self::with(
            small(),
            &Header {
                mss: Some(MSS),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: timestamps.then_some((100, 0)),
                ..Header::default()
            },
        )
    }

    /// From a SYN with these options.
    pub(super) fn with(config: Config, options: &Header) -> Self {
        let now = Instant::from_nanos(5_000_000_000_000);
        let budget = Arc::new(Counted::default());
        let timestamps = options.timestamps.is_some();
        let syn = Header { seq: PEER, flags: Flags { syn: true, ..Flags::default() }, window: 0xffff, ..*options };
        let mut half_open = HalfOpen::new(&syn, &config, OURS, 9, now);
        let answer = half_open.syn_ack(now);
        assert_eq!((answer.seq, answer.ack), (OURS, PEER.wrapping_add(1)));
        let now = now + Duration::from_millis(20);
        let echo = answer.timestamps.map_or(0, |(value, _)| value);
        let header = Header {
            seq: PEER.wrapping_add(1),
            ack: OURS.wrapping_add(1),
            flags: ACK,
            window: 512,
            timestamps: timestamps.then_some((101, echo)),
            ..Header::default()
        };
        let segment = Segment { header, payload: &[] };
        assert_eq!(half_open.receive(&segment, now), Verdict::Established);
        let mut tcp = half_open.establish(config, budget.clone(), now);
        tcp.receive(&segment, now);
        Self { tcp, now, budget, acked: 0, window: 512, timestamps, peer_clock: 101, echo }
    }

    /// The header of a segment of the peer whose data begin after `at` bytes.
    pub(super) fn header(&self, at: u32, flags: Flags) -> Header {
        Header {
            seq: PEER.wrapping_add(1).wrapping_add(at),
            ack: OURS.wrapping_add(1).wrapping_add(self.acked),
            flags,
            window: self.window,
            timestamps: self.timestamps.then_some((self.peer_clock, self.echo)),
            ..Header::default()
        }
    }

    pub(super) fn put_header(&mut self, header: Header, payload: &[u8]) {
        self.tcp.receive(&Segment { header, payload }, self.now);
    }

    /// The peer sends `payload`, which begins after `at` bytes.
    pub(super) fn put(&mut self, at: u32, flags: Flags, payload: &[u8]) {
        let header = self.header(at, flags);
        self.put_header(header, payload);
    }

    /// The peer acknowledges `bytes` and reports these ranges by SACK.
    pub(super) fn put_ack(&mut self, at: u32, bytes: u32, blocks: &[(u32, u32)]) {
        self.acked = bytes;
        let mut header = self.header(at, ACK);
        let number = |bytes: u32| OURS.wrapping_add(1).wrapping_add(bytes);
        for (to, &(from, end)) in header.sack.iter_mut().zip(blocks) {
            *to = Some((number(from), number(end)));
        }
        self.put_header(header, &[]);
    }

    /// What is sent now.
    pub(super) fn sent(&mut self) -> Vec<(Header, usize)> {
        let mut sent = Vec::new();
        let mut latest = self.echo;
        while self.tcp.wants_to_send(self.now) {
            let before = sent.len();
            self.tcp.transmit(self.now, 100, &mut |header, first, second| {
                sent.push((*header, first.len() + second.len()));
                latest = header.timestamps.map_or(latest, |(value, _)| value);
                true
            });
            assert!(sent.len() > before, "it wants to send and does not");
        }
        self.echo = latest;
        sent
    }

    /// What is sent now, as the position of the data and their length.
    pub(super) fn sent_data(&mut self) -> Vec<(u32, usize)> {
        let position = |header: &Header| header.seq.wrapping_sub(OURS.wrapping_add(1));
        self.sent().iter().filter(|(_, len)| *len > 0).map(|(header, len)| (position(header), *len)).collect()
    }

    /// The only segment that is sent now.
    pub(super) fn sent_one(&mut self) -> (Header, usize) {
        let sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent[0]
    }

    /// Moves the time on to the next deadline, which must come within `limit`, and does what is due.
    pub(super) fn wait(&mut self, limit: Duration) -> Duration {
        let at = self.tcp.deadline().expect("something is due");
        let time = at.since(self.now);
        assert!(time <= limit, "due in {time:?}");
        self.advance(time);
        time
    }

    /// Moves the time on and does what is due then.
    pub(super) fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        self.peer_clock = self.peer_clock.wrapping_add(u32::try_from(time.as_millis()).expect("short"));
        self.tcp.run_timers(self.now);
    }

    /// Moves on from deadline to deadline until something is to be sent.
    pub(super) fn wait_for_sending(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        while !self.tcp.wants_to_send(self.now) {
            self.wait(limit.saturating_sub(self.now.since(start)));
        }
        self.now.since(start)
    }

    /// Writes `len` bytes, all of which must have room.
    pub(super) fn write(&mut self, len: usize) {
        let mut left = len;
        while left > 0 {
            left -= self.tcp.write(&|| self.now, left, &mut |a, b| a.len() + b.len()).expect("room").0;
        }
    }

    /// Reads `most` bytes.
    pub(super) fn read(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.tcp.read(&|| self.now, &mut |a, b| {
            bytes.extend(a.iter().chain(b).take(most));
            bytes.len()
        })?;
        Ok(bytes)
    }

    pub(super) fn used(&self) -> usize {
        self.budget.used.load(Ordering::Relaxed)
    }
}
