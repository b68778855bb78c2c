//! The congestion window: CUBIC (RFC 9438) with HyStart++ (RFC 9406) at the end of slow start.

use std::time::Duration;

use wg_embed::time::Instant;

/// RFC 9438, 4: C.
const C: f64 = 0.4;
/// The factor of a reduction.
const BETA: f64 = 0.7;
/// The constant by which the Reno-friendly estimate grows as fast as Reno on average.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// RFC 6928: the first window in segments, and in bytes.
const FIRST_SEGMENTS: u64 = 10;
const FIRST_BYTES: u64 = 14_600;
/// The maximum growth of the window by one ACK in slow start: an ACK for many bytes must not cause a large burst.
const LARGEST_STEP: u64 = 64 << 10;

/// A congestion window and the state of its growth. Copied to undo a reduction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    mss: f64,
    /// The window before the last reduction, in segments.
    maximum: f64,
    /// The window before the last reduction, without fast convergence.
    prior: f64,
    /// The start of this period of congestion avoidance.
    epoch: Option<Instant>,
    /// The time at which the curve reaches its plateau, in seconds after the epoch.
    plateau: f64,
    /// The window of Reno, in segments.
    reno: f64,
    hystart: HyStart,
}

impl Cubic {
    pub(super) fn new(mss: usize) -> Self {
        let mss = mss as f64;
        Self {
            window: first_window(mss),
            threshold: f64::INFINITY,
            mss,
            maximum: 0.0,
            prior: 0.0,
            epoch: None,
            plateau: 0.0,
            reno: 0.0,
            hystart: HyStart::default(),
        }
    }

    /// Returns the window in bytes.
    pub(super) fn window(&self) -> u64 {
        self.window as u64
    }

    /// Returns the slow start threshold in bytes.
    pub(super) fn threshold(&self) -> u64 {
        self.threshold as u64
    }

    /// Sets the window during a recovery, which computes it.
    pub(super) fn set_window(&mut self, window: u64) {
        self.window = window as f64;
    }

    /// Changes the segment size.
    pub(super) fn set_mss(&mut self, mss: usize) {
        self.mss = mss as f64;
    }

    pub(super) fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// Handles a measured round trip time. `una` is the first unacknowledged, `next` the next number to send.
    pub(super) fn on_rtt(&mut self, rtt: Duration, una: u64, next: u64) {
        if self.in_slow_start() && self.hystart.on_rtt(rtt, una, next) {
            self.threshold = self.window;
        }
    }

    /// Handles the arrival of `acked` bytes, while the window was full.
    pub(super) fn on_ack(&mut self, acked: u64, now: Instant, rtt: Duration) {
        let mut acked = acked as f64;
        if self.in_slow_start() {
            let step = acked.min(LARGEST_STEP as f64) / self.hystart.divisor();
            let room = self.threshold - self.window;
            if step <= room {
                self.window += step;
                return;
            }
            self.window = self.threshold;
            acked = (acked - room).max(0.0);
        }
        self.avoid_congestion(acked, now, rtt);
    }

    fn avoid_congestion(&mut self, acked: f64, now: Instant, rtt: Duration) {
        let window = self.window / self.mss;
        let epoch = *self.epoch.get_or_insert_with(|| {
            if self.maximum < window {
                self.maximum = window;
                self.prior = window;
            }
            self.plateau = ((self.maximum - window) / C).cbrt();
            self.reno = window;
            now
        });
        let elapsed = now.since(epoch).as_secs_f64();
        let curve = |at: f64| C * (at - self.plateau).powi(3) + self.maximum;
        let acked = acked / self.mss;
        let alpha = if self.reno < self.prior { ALPHA } else { 1.0 };
        self.reno += alpha * acked / window;
        let grown = if curve(elapsed) < self.reno {
            self.reno.max(window)
        } else {
            let target = curve(elapsed + rtt.as_secs_f64()).clamp(window, 1.5 * window);
            window + (target - window) * (acked / window).min(1.0)
        };
        self.window = grown * self.mss;
    }

    /// Handles a loss: computes the threshold, which the window follows in the course of the recovery. `flight` is the
    /// number of bytes that were in flight.
    pub(super) fn on_loss(&mut self, flight: u64) {
        // The window of a sender that had less to send does not reflect the path's capacity.
        let window = self.window.min((flight as f64).max(first_window(self.mss))) / self.mss;
        self.prior = window;
        // Fast convergence: gives way to new flows.
        self.maximum = if window < self.maximum { window * (1.0 + BETA) / 2.0 } else { window };
        self.threshold = (window * BETA).max(2.0) * self.mss;
        self.epoch = None;
    }

    /// Handles the end of a recovery.
    pub(super) fn on_recovered(&mut self) {
        self.window = self.threshold;
    }

    /// Handles a retransmission timeout: the window restarts with one segment in addition to those still in flight.
    pub(super) fn on_timeout(&mut self, pipe: u64) {
        self.window = pipe as f64 + self.mss;
        self.hystart = HyStart::default();
    }

    /// Handles `idle` time without transmissions: the window represents the path less with every timeout (RFC 2861).
    pub(super) fn on_idle(&mut self, idle: Duration, timeout: Duration) {
        let first = first_window(self.mss);
        let mut left = idle;
        if left > timeout && self.window > first {
            self.threshold = self.threshold.max(0.75 * self.window);
        }
        while left > timeout && self.window > first {
            self.window = (self.window / 2.0).max(first);
            left -= timeout;
        }
        // Time without data does not advance along the curve.
        self.epoch = self.epoch.map(|epoch| epoch + idle);
    }
}

fn first_window(mss: f64) -> f64 {
    (FIRST_SEGMENTS as f64 * mss).min((2.0 * mss).max(FIRST_BYTES as f64))
}

/// Detects the end of slow start before a loss.
#[derive(Clone, Copy, Debug, Default)]
struct HyStart {
    /// The round ends when this number is acknowledged.
    end: u64,
    last: Option<Duration>,
    current: Option<Duration>,
    samples: u32,
    /// Conservative slow start: the round trip time before it, and the rounds in it.
    conservative: Option<(Duration, u8)>,
}

impl HyStart {
    const SAMPLES: u32 = 8;
    const LEAST: Duration = Duration::from_millis(4);
    const MOST: Duration = Duration::from_millis(16);
    const ROUNDS: u8 = 5;

    fn divisor(&self) -> f64 {
        if self.conservative.is_some() { 4.0 } else { 1.0 }
    }

    /// Handles a measured round trip time; returns whether slow start has ended.
    fn on_rtt(&mut self, rtt: Duration, una: u64, next: u64) -> bool {
        if una > self.end {
            self.end = next;
            self.last = self.current;
            self.current = None;
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
                if *rounds > Self::ROUNDS {
                    return true;
                }
            }
        }
        let current = self.current.map_or(rtt, |current| current.min(rtt));
        self.current = Some(current);
        self.samples += 1;
        let Some(last) = self.last.filter(|_| self.samples >= Self::SAMPLES) else { return false };
        match self.conservative {
            None if current >= last + (last / 8).clamp(Self::LEAST, Self::MOST) => {
                self.conservative = Some((current, 1));
            }
            Some((before, _)) if current < before => self.conservative = None,
            _ => {}
        }
        false
    }
}
