//! `/metrics` and `/readyz`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{ErrorKind, Read, Write as _},
    net::{IpAddr, Shutdown},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mio::net::TcpStream;
use wg_embed::{device::Device, uapi};
use wg_embed_netstack::{Netstack, ping::Ping};
use zeroize::Zeroizing;

use super::config::Config;

/// How much older than the interval a reply may be.
const GRACE: Duration = Duration::from_secs(2);

/// The maximum size of a request.
const MAX_HEAD: usize = 16 << 10;

/// The state of pings and their replies.
pub(super) struct Info {
    interval: Duration,
    alive: BTreeMap<IpAddr, Alive>,
}

/// The state of one address.
#[derive(Default)]
struct Alive {
    /// The time of the last reply.
    last: Option<SystemTime>,
    /// The ping in progress, and the time at which it was sent.
    ping: Option<(SystemTime, Ping)>,
}

impl Info {
    pub(super) fn new(config: &Config) -> Self {
        let alive = config.check_alive.iter().map(|address| (*address, Alive::default())).collect();
        Self { interval: config.check_interval, alive }
    }

    /// Applies another configuration: the state of its addresses is kept.
    pub(super) fn replace(&mut self, new: Self) {
        let before = std::mem::replace(self, new);
        for (address, state) in before.alive {
            if let Some(new) = self.alive.get_mut(&address) {
                *new = state;
            }
        }
    }

    /// Sends a ping to each address. Returns whether there are any.
    pub(super) fn check(&mut self, stack: &Netstack) -> bool {
        self.collect();
        for (address, Alive { ping, .. }) in &mut self.alive {
            let sent = SystemTime::now();
            *ping = stack.start_ping(*address, 16).ok().map(|ping| (sent, ping));
        }
        !self.alive.is_empty()
    }

    /// Records the times of replies, which may have arrived long before.
    fn collect(&mut self) {
        for Alive { last, ping } in self.alive.values_mut() {
            let replied = ping.as_ref().and_then(|(sent, ping)| Some(*sent + ping.try_reply().ok()?));
            if replied.is_some() {
                *last = replied;
                *ping = None;
            }
        }
    }

    fn ready(&mut self) -> (bool, String) {
        self.collect();
        let mut text = String::from("{");
        let mut ready = true;
        for (address, Alive { last, .. }) in &self.alive {
            let age = last.and_then(|last| last.elapsed().ok());
            ready &= age.is_some_and(|age| age <= self.interval + GRACE);
            let seconds = last.and_then(|last| last.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
            let comma = if text.len() > 1 { "," } else { "" };
            let _ = write!(text, "{comma}\"{address}\":{seconds}");
        }
        text.push_str("}\n");
        (ready, text)
    }
}

/// A client.
pub(super) struct Client {
    socket: TcpStream,
    input: Vec<u8>,
    out: Option<Vec<u8>>,
}

impl Client {
    pub(super) const fn new(socket: TcpStream) -> Self {
        Self { socket, input: Vec::new(), out: None }
    }

    /// Makes progress without waiting. Returns the client if it continues.
    pub(super) fn go_on(mut self, info: &mut Info, device: &Device) -> Option<Self> {
        loop {
            if let Some(out) = &mut self.out {
                match self.socket.write(out) {
                    Ok(sent) => drop(out.drain(..sent)),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Some(self),
                    Err(_) => return None,
                }
                if out.is_empty() {
                    // The other side may already have closed it.
                    let _ = self.socket.shutdown(Shutdown::Write);
                    return None;
                }
                continue;
            }
            let mut buf = [0; 1024];
            match self.socket.read(&mut buf) {
                Ok(0) => return None,
                Ok(length) => self.input.extend(&buf[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Some(self),
                Err(_) => return None,
            }
            if self.input.len() > MAX_HEAD {
                return None;
            }
            self.out = answer(&self.input, info, device);
        }
    }
}

/// Returns the response to a request; `None` if it is incomplete.
fn answer(input: &[u8], info: &mut Info, device: &Device) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let (status, kind, body) = match request.parse(input) {
        Ok(httparse::Status::Partial) => return None,
        Err(_) => ("400 Bad Request", "text/plain", String::new()),
        Ok(httparse::Status::Complete(_)) => match (request.method, request.path) {
            (Some("GET"), Some("/metrics")) => ("200 OK", "text/plain", metrics(device)),
            (Some("GET"), Some("/readyz")) => {
                let (ready, text) = info.ready();
                (if ready { "200 OK" } else { "503 Service Unavailable" }, "application/json", text)
            }
            _ => ("404 Not Found", "text/plain", String::new()),
        },
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    Some((head + &body).into_bytes())
}

/// Returns the text of the UAPI `get`, without secret keys.
fn metrics(device: &Device) -> String {
    let text = uapi::get_text(device.snapshot()).unwrap_or_else(|_| Zeroizing::default());
    let mut public = String::with_capacity(text.len());
    for line in text.lines() {
        match line.split_once('=') {
            Some((key @ ("private_key" | "preshared_key"), _)) => {
                public.push_str(key);
                public.push_str("=REDACTED");
            }
            _ => public.push_str(line),
        }
        public.push('\n');
    }
    public
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use std::{slice, sync::Arc};

    use wg_embed::tun::{PacketArena, PacketList, Tun};
    use wg_embed_netstack::Options;

    use super::*;

    /// Passes packets on.
    fn pass(from: &Arc<dyn Tun>, to: &Arc<dyn Tun>) {
        let mut arena = PacketArena::new(64 << 10, 16, |len, _| len);
        arena.clear(from.mtu());
        from.read(&mut arena).unwrap();
        for slot in arena.slots() {
            to.write(PacketList { buffer: arena.packet(*slot), ranges: slice::from_ref(&(0..slot.len)) });
        }
    }

    #[test]
    fn a_reply_has_the_time_of_its_arrival() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let [own, other] =
            [1, 2].map(|last| Netstack::new(Options { addresses: vec![address(last)], ..Options::default() }).unwrap());
        let alive = BTreeMap::from([(address(2), Alive::default())]);
        let mut info = Info { interval: Duration::from_secs(5), alive };
        assert!(info.check(&own));
        let (own, other) = (own.tun(), other.tun());
        pass(&own, &other);
        pass(&other, &own);
        let arrived = SystemTime::now();
        std::thread::sleep(Duration::from_millis(20));
        info.collect();
        let Alive { last, ping } = &info.alive[&address(2)];
        assert!(ping.is_none() && last.is_some_and(|last| last <= arrived), "{last:?} {arrived:?}");
    }

    #[test]
    fn answers_outlive_a_reload() {
        let [kept, gone, new]: [IpAddr; 3] = [1, 2, 3].map(|n| [10, 0, 0, n].into());
        let info = |addresses: [IpAddr; 2], last| Info {
            interval: Duration::from_secs(5),
            alive: addresses.into_iter().map(|address| (address, Alive { last, ping: None })).collect(),
        };
        let mut served = info([kept, gone], Some(SystemTime::now()));
        served.replace(info([kept, new], None));
        let has_answered: Vec<_> = served.alive.iter().map(|(ip, alive)| (*ip, alive.last.is_some())).collect();
        assert_eq!(has_answered, [(kept, true), (new, false)]);
    }
}
