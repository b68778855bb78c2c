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
        let session = Session::new(service::Options::default(), Some(self.events.clone()));
        service::serve(stream, session, |session, request| work.during(|| session.call(&self.tunnel, request)))
    }
}
