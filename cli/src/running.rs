//! The daemon's tunnel and its control sockets, from their start to the end of one of them.

use std::sync::{Arc, mpsc};

use wg_embed::{
    Error,
    bind::udp::UdpBind,
    device::{self, Event, Tunnel},
    error::Result,
    ipc::{self, Listener, Server},
    tun::Tun,
};
use wg_embed_wireproto_service::Hub;

use crate::wireproto;

/// The permitted values of `WG_EMBED_MEMORY` in MiB: at least the size of the buffers, at most a useful amount.
const MEMORY: std::ops::RangeInclusive<usize> = 2..=1024;

/// The permitted values of `WG_EMBED_WORKERS`.
const WORKERS: std::ops::RangeInclusive<usize> = 0..=device::MAX_WORKERS;

/// The permitted values of `WG_EMBED_TUN_QUEUES`.
#[cfg(unix)]
const QUEUES: std::ops::RangeInclusive<usize> = 1..=wg_embed::tun::MAX_QUEUES;

/// Additional bytes for each peer, about ten packets of full size: a server has many peers, each of which may be
/// unreachable.
const MEMORY_PER_PEER: usize = 16 << 10;

/// A tunnel that is served on its control sockets.
pub(crate) struct Running {
    tunnel: Arc<Tunnel>,
    servers: Vec<Server>,
    ends: mpsc::Sender<String>,
    ended: mpsc::Receiver<String>,
}

impl Running {
    /// Starts the tunnel. The first listener is that of wg(8), the second one, if there is one, is for WireProto
    /// messages.
    pub(crate) fn start(tun: Arc<dyn Tun>, listeners: Vec<Listener>, limits: Limits) -> Result<Self> {
        let bind = UdpBind::new().map_err(|e| Error::io("cannot wait for UDP", e))?;
        let (ends, ended) = mpsc::channel();
        let tunnel_ends = ends.clone();
        let hub = Arc::new(Hub::default());
        let noted = hub.clone();
        let events = Box::new(move |event| {
            noted.note(&event);
            if let Event::Ended(reason) = event {
                // Only the first reason is received.
                let _ = tunnel_ends.send(reason.to_string());
            }
        });
        let options = device::Options {
            events,
            memory: limits.memory,
            memory_per_peer: MEMORY_PER_PEER,
            workers: limits.workers,
            ..device::Options::default()
        };
        let tunnel = Arc::new(Tunnel::start(tun, Arc::new(bind), options)?);
        let server_ends = ends.clone();
        let server_ended = Box::new(move |reason| {
            let _ = server_ends.send(reason);
        });
        let mut listeners = listeners.into_iter();
        let uapi = listeners.next().map(|it| Server::start(it, tunnel.clone(), ipc::Options::default(), server_ended));
        let wireproto = listeners.next().map(|it| wireproto::start(it, tunnel.clone(), hub));
        let servers = uapi.into_iter().chain(wireproto).collect::<Result<_>>()?;
        Ok(Self { tunnel, servers, ends, ended })
    }

    /// Returns a sender for reasons to end.
    pub(crate) fn ends(&self) -> mpsc::Sender<String> {
        self.ends.clone()
    }

    /// Waits until there is a reason to end, and returns the first.
    pub(crate) fn wait(&self) -> Option<String> {
        self.ended.recv().ok()
    }

    /// Ends everything. The sockets end first: as long as a client can connect, there is an interface.
    pub(crate) fn stop(self) -> Result<()> {
        self.servers.into_iter().try_for_each(|server| server.stop())?;
        self.tunnel.stop()
    }
}

/// What a tunnel may use.
pub(crate) struct Limits {
    /// The limit of packets, in bytes.
    memory: usize,
    /// The largest number of threads that help with encryption; `None` for the library's default.
    workers: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: device::DEFAULT_MEMORY, workers: None }
    }
}

impl Limits {
    /// Reads `WG_EMBED_MEMORY`, in MiB, and `WG_EMBED_WORKERS`.
    pub(crate) fn from_environment() -> Result<Self> {
        let memory = number("WG_EMBED_MEMORY", "a number of MiB", &MEMORY)?;
        let workers = number("WG_EMBED_WORKERS", "a number", &WORKERS)?;
        Ok(Self { memory: memory.map_or(device::DEFAULT_MEMORY, |mebibytes| mebibytes << 20), workers })
    }
}

/// Reads `WG_EMBED_TUN_QUEUES`, the number of queues of the interface.
#[cfg(unix)]
pub(crate) fn queues_from_environment() -> Result<usize> {
    number("WG_EMBED_TUN_QUEUES", "a number", &QUEUES).map(|queues| queues.unwrap_or(1))
}

/// Returns the number in a variable of the environment; `None` if it is unset or empty.
fn number(variable: &str, kind: &str, permitted: &std::ops::RangeInclusive<usize>) -> Result<Option<usize>> {
    let Some(text) = std::env::var_os(variable).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = text.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|text| text.parse().ok()).filter(|number| permitted.contains(number));
    let refused = || {
        let (least, most) = (permitted.start(), permitted.end());
        Error::invalid(format!("{variable}={}: not {kind} from {least} to {most}", text.display()))
    };
    number.ok_or_else(refused).map(Some)
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use wg_embed::tun::mem::MemTun;

    use super::*;
    use crate::wireproto::tests::{Dir, waiting};

    #[test]
    fn no_end_waits_for_clients_that_wait_for_events() {
        for end in [drop, |running: Running| running.stop().unwrap()] {
            let dir = Dir::new();
            let ((_, uapi), (path, wireproto)) = (dir.listen("uapi"), dir.listen("wireproto"));
            let (tun, _inside) = MemTun::new("wg0", 1420);
            let running = Running::start(Arc::new(tun), vec![uapi, wireproto], Limits::default()).unwrap();
            let _client = waiting(&path, &running.tunnel, 1);
            let begun = Instant::now();
            end(running);
            // The client would wait for 30 seconds.
            assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        }
    }
}
