//! The activity of a tunnel over time: rates and events between updates.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use wg_embed::{config::snapshot::PeerSnapshot, key::PublicKey};

use crate::{show::units, state::State};

/// The number of rates that are kept for each line.
pub(super) const HISTORY: usize = 240;

/// The number of events that are kept.
const EVENTS: usize = 100;

/// The system's counters of the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) dropped: u64,
    pub(super) errors: u64,
}

/// Bytes per second, the latest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) rx: VecDeque<u64>,
    pub(super) tx: VecDeque<u64>,
}

impl Rates {
    fn push(&mut self, rx: u64, tx: u64) {
        for (list, rate) in [(&mut self.rx, rx), (&mut self.tx, tx)] {
            if list.len() == HISTORY {
                list.pop_front();
            }
            list.push_back(rate);
        }
    }

    /// Returns the latest rates, received and sent.
    pub(super) fn latest(&self) -> (u64, u64) {
        let last = |list: &VecDeque<u64>| list.back().copied().unwrap_or_default();
        (last(&self.rx), last(&self.tx))
    }
}

/// An event between two updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    /// Seconds since 1970.
    pub(super) time: u64,
    pub(super) text: String,
}

pub(super) struct Model {
    pub(super) name: String,
    /// The last state that could be read.
    pub(super) state: State,
    /// The reason why the last update has failed.
    pub(super) lost: Option<String>,
    pub(super) counters: Option<Counters>,
    pub(super) total: Rates,
    pub(super) peers: HashMap<PublicKey, Rates>,
    /// The latest last.
    pub(super) events: VecDeque<Happened>,
    /// The number of the last events that are new since the previous update.
    pub(super) news: usize,
    /// Seconds since 1970, at the last update.
    pub(super) time: u64,
    seen: Option<Instant>,
}

impl Model {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: State::default(),
            lost: None,
            counters: None,
            total: Rates::default(),
            peers: HashMap::new(),
            events: VecDeque::new(),
            news: 0,
            time: 0,
            seen: None,
        }
    }

    /// Adds the result of an update.
    pub(super) fn sample(
        &mut self,
        state: std::result::Result<State, String>,
        counters: Option<Counters>,
        now: Instant,
    ) {
        (self.time, self.news) = (units::now(), 0);
        let state = match state {
            Ok(state) => state,
            Err(reason) => {
                if self.lost.is_none() {
                    self.happened(format!("lost: {reason}"));
                }
                self.lost = Some(reason);
                return;
            }
        };
        if self.lost.take().is_some() {
            self.happened("the daemon answers again".into());
        }
        if let (Some(before), Some(now)) = (self.counters, counters) {
            for (what, before, now) in [("dropped", before.dropped, now.dropped), ("errors", before.errors, now.errors)]
            {
                if now > before {
                    self.happened(format!("interface: {} packets more {what}", now - before));
                }
            }
        }
        self.counters = counters;
        if let Some(elapsed) = self.seen.map(|seen| now.saturating_duration_since(seen)) {
            self.compare(&state, elapsed);
        }
        self.seen = Some(now);
        self.state = state;
    }

    fn compare(&mut self, state: &State, elapsed: Duration) {
        let before = std::mem::take(&mut self.state);
        let known: HashMap<_, _> = before.peers.iter().map(|peer| (peer.public_key, peer)).collect();
        let (mut rx, mut tx) = (0_u64, 0_u64);
        for peer in &state.peers {
            let rates = match known.get(&peer.public_key) {
                Some(before) => {
                    self.peer_events(before, peer);
                    // A smaller value: the counters have been reset.
                    let rate = |before, now: u64| per_second(now.checked_sub(before).unwrap_or(now), elapsed);
                    (rate(before.rx_bytes, peer.rx_bytes), rate(before.tx_bytes, peer.tx_bytes))
                }
                None => {
                    self.happened(format!("{} was added", short(&peer.public_key)));
                    (0, 0)
                }
            };
            (rx, tx) = (rx.saturating_add(rates.0), tx.saturating_add(rates.1));
            self.peers.entry(peer.public_key).or_default().push(rates.0, rates.1);
        }
        let kept: std::collections::HashSet<_> = state.peers.iter().map(|peer| peer.public_key).collect();
        for peer in before.peers.iter().filter(|peer| !kept.contains(&peer.public_key)) {
            self.happened(format!("{} was removed", short(&peer.public_key)));
        }
        self.peers.retain(|key, _| kept.contains(key));
        if before.interface.listen_port != state.interface.listen_port {
            self.happened(format!("the port is {}", state.interface.listen_port));
        }
        self.total.push(rx, tx);
    }

    fn peer_events(&mut self, before: &PeerSnapshot, now: &PeerSnapshot) {
        let key = short(&now.public_key);
        if now.last_handshake != before.last_handshake {
            self.happened(format!("{key} handshake"));
        }
        if let Some(endpoint) = now.endpoint.as_ref().filter(|endpoint| before.endpoint.as_ref() != Some(endpoint)) {
            self.happened(format!("{key} is at {endpoint}"));
        }
        if now.allowed_ips != before.allowed_ips {
            self.happened(format!("{key} has other allowed IPs"));
        }
    }

    fn happened(&mut self, text: String) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Happened { time: self.time, text });
        self.news = (self.news + 1).min(EVENTS);
    }
}

/// Returns the first characters of a key, which distinguish peers.
pub(super) fn short(key: &PublicKey) -> String {
    key.to_string().chars().take(10).chain(['…']).collect()
}

/// Returns the age of a peer's handshake, in a few characters.
pub(super) fn age(peer: &PeerSnapshot, now: u64) -> String {
    if peer.last_handshake.is_zero() {
        return "never".into();
    }
    let seconds = now.saturating_sub(peer.last_handshake.as_secs());
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns the time of day in UTC.
pub(super) fn clock(time: u64) -> String {
    format!("{:02}:{:02}:{:02}", time / 3600 % 24, time / 60 % 60, time % 60)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate is shown"
)]
fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    (bytes as f64 / elapsed.as_secs_f64().max(1e-3)) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    pub(crate) fn state(rx: u64, handshake: u64, endpoint: &str) -> State {
        let text = format!(
            "listen_port=7\npublic_key={}\nendpoint={endpoint}\nlast_handshake_time_sec={handshake}\nrx_bytes={rx}\n\
             tx_bytes=5\nerrno=0\n\n",
            "07".repeat(32)
        );
        State::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn looks_become_rates_and_events() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut model = Model::new("wg0");
        model.sample(Ok(state(1000, 5, "1.2.3.4:5")), Some(Counters::default()), at(0));
        assert!(model.total.rx.is_empty() && model.events.is_empty());
        model.sample(Ok(state(3000, 9, "1.2.3.4:6")), Some(Counters { dropped: 2, errors: 0 }), at(2));
        assert_eq!(model.total.latest(), (1000, 0));
        let texts: Vec<_> = model.events.iter().map(|event| event.text.as_str()).collect();
        let key = short(&PublicKey::from_bytes([7; 32]));
        assert_eq!(
            texts,
            [
                "interface: 2 packets more dropped".to_owned(),
                format!("{key} handshake"),
                format!("{key} is at 1.2.3.4:6")
            ]
        );
        // The daemon goes, and another one comes, whose counters begin again.
        model.sample(Err("no daemon".into()), None, at(3));
        model.sample(Err("no daemon".into()), None, at(4));
        assert_eq!((model.news, model.events.back().unwrap().text.as_str()), (0, "lost: no daemon"));
        model.sample(Ok(state(10, 9, "1.2.3.4:6")), None, at(12));
        assert_eq!((model.total.latest(), model.news), ((1, 0), 1));
        model.sample(Ok(State::default()), None, at(13));
        assert_eq!(model.events.back().unwrap().text, "the port is 0");
        assert!(model.peers.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut model = Model::new("wg0");
        let begin = Instant::now();
        for look in 0..500 {
            model.sample(Ok(state(look, look, "1.2.3.4:5")), None, begin + Duration::from_secs(look));
        }
        assert_eq!((model.total.rx.len(), model.events.len()), (HISTORY, EVENTS));
    }
}
