//! Control calls as WireProto messages: a tunnel's handle is one client of the service.

use std::sync::{Arc, OnceLock};

use wg_embed::device::{Event, Tunnel};
use wg_embed_wireproto_service::{Hub, Options, Session};
use zeroize::Zeroizing;

/// The client, and the source of its events.
#[derive(Debug, Default)]
pub(crate) struct Client {
    hub: Arc<Hub>,
    /// Created by the first call.
    session: OnceLock<Session>,
}

impl Client {
    /// Keeps an event for the client, if it asks for events.
    pub(crate) fn note(&self, event: &Event) {
        self.hub.note(event);
    }

    /// Answers a request. The response is empty only if there is no memory for one.
    pub(crate) fn call(&self, tunnel: &Tunnel, request: &[u8]) -> Zeroizing<Vec<u8>> {
        self.session.get_or_init(|| Session::new(Options::default(), Some(self.hub.clone()))).call(tunnel, request)
    }

    /// Ends the waits for events.
    pub(crate) fn close(&self) {
        self.hub.close();
    }
}
