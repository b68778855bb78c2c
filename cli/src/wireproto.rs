//! `--wireproto-socket`: a second control socket, whose clients send WireProto messages.

use std::{path::Path, sync::Arc, time::Duration};

use wg_embed::{
    device::Tunnel,
    error::Result,
    ipc::{self, Dialogue, Listener, Server, Stream},
};
use wg_embed_wireproto_service::{self as service, Hub, Session};

/// Claims the socket's path.
pub(crate) fn claim(path: &Path, patience: Duration) -> Result<Listener> {
    Listener::claim_private(path, patience).map_err(|error| error.at("--wireproto-socket"))
}

/// Serves the socket. If its file is removed, the daemon continues without it.
pub(crate) fn start(listener: Listener, tunnel: Arc<Tunnel>, events: Arc<Hub>) -> Result<Server> {
    let ended = Box::new(|reason: String| tracing::warn!(reason, "the WireProto socket is served no longer"));
    Server::start_with(listener, Arc::new(Clients { tunnel, events }), ipc::Options::default(), ended)
}

struct Clients {
    tunnel: Arc<Tunnel>,
    events: Arc<Hub>,
}

impl Dialogue for Clients {
    fn serve(&self, stream: &mut Stream) -> Result<()> {
        let work = stream.work();
        let session = Arc::new(Session::new(service::Options::default(), Some(self.events.clone())));
        let waiting = session.clone();
        stream.on_interrupt(move || waiting.close());
        service::serve(stream, &session, |session, request| {
            work.during(|| session.call_waiting(&self.tunnel, request, &|wait| work.waits(wait)))
        })
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod tests {
    use std::{
        fs,
        io::{Read, Write},
        os::unix::net::UnixStream,
        path::PathBuf,
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use wg_embed::{bind::udp::UdpBind, device, tun::mem::MemTun};
    use wg_embed_wireproto::{Builder, Kind, WriteOptions};

    use super::*;

    /// Only bounds a hang.
    const SOON: Duration = Duration::from_secs(300);

    /// A directory of its own for each test.
    pub(crate) struct Dir(PathBuf);

    impl Dir {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("wg-embed-wireproto-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        /// The path of a socket, and the socket.
        pub(crate) fn listen(&self, name: &str) -> (PathBuf, Listener) {
            let path = self.0.join(name);
            let listener = claim(&path, Duration::ZERO).unwrap();
            (path, listener)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn connect(path: &Path) -> UnixStream {
        let client = UnixStream::connect(path).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client
    }

    fn send(mut client: &UnixStream, commands: &[&[(&str, &[u8])]]) {
        let mut builder = Builder::new(Kind::Request, WriteOptions::default());
        builder.group().unwrap();
        for command in commands {
            builder.record().unwrap();
            for (name, value) in *command {
                builder.pair(name, value).unwrap();
            }
        }
        client.write_all(&builder.finish().unwrap()).unwrap();
    }

    /// A client whose request has added a peer, with this key, and waits for an event from then on.
    pub(crate) fn waiting(path: &Path, tunnel: &Tunnel, key: u8) -> UnixStream {
        let client = connect(path);
        let forever: &[_] = &[("cmd", &b"events"[..]), ("wait", &u32::MAX.to_be_bytes())];
        send(&client, &[&[("cmd", b"set"), ("public_key", &[key; 32])], forever]);
        let begun = Instant::now();
        while !tunnel.snapshot().peers.any(|peer| *peer.unwrap().public_key.as_bytes() == [key; 32]) {
            assert!(begun.elapsed() < SOON, "the request is not read");
            std::thread::yield_now();
        }
        client
    }

    #[test]
    fn a_client_that_waits_for_events_makes_room_for_another() {
        let dir = Dir::new();
        let (path, listener) = dir.listen("control");
        let (tun, _inside) = MemTun::new("wg0", 1420);
        let tunnel = Tunnel::start(Arc::new(tun), Arc::new(UdpBind::new().unwrap()), device::Options::default());
        let (tunnel, events) = (Arc::new(tunnel.unwrap()), Arc::default());
        let clients = Clients { tunnel: tunnel.clone(), events };
        let options = ipc::Options { connections: 1, ..ipc::Options::default() };
        let ended = Box::new(|reason| panic!("ended by itself: {reason}"));
        let _server = Server::start_with(listener, Arc::new(clients), options, ended).unwrap();
        let call = || {
            let client = connect(&path);
            send(&client, &[&[("cmd", b"version")]]);
            (&client).read_exact(&mut [0]).unwrap();
            client
        };
        let first = waiting(&path, &tunnel, 1);
        let second = call();
        assert_eq!((&first).read(&mut [0]).unwrap(), 0, "it has an answer, so its wait was over");
        // So does one that has left.
        drop(second);
        let begun = Instant::now();
        drop(waiting(&path, &tunnel, 2));
        call();
        assert!(begun.elapsed() < service::Options::default().wait / 2, "{:?}", begun.elapsed());
    }
}
