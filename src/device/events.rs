//! What a device tells its owner.

use std::net::SocketAddr;

use crate::key::PublicKey;

/// Something has happened that an app may want to show or act on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session with this peer is ready to use.
    HandshakeCompleted(PublicKey),
    /// This peer did not answer 20 initiations; staged packets were dropped.
    HandshakeFailed(PublicKey),
    /// This peer has moved: it was heard from here, or is looked for here, as its name or its network says.
    EndpointChanged(PublicKey, SocketAddr),
    /// The host name of this peer's endpoint has no address, for this reason. It is told once, and the name looked up again
    /// as long as anything is to be sent there.
    ResolveFailed(PublicKey, String),
    /// The last session with this peer is over; its keys were wiped.
    SessionExpired(PublicKey),
    /// The UDP sockets could not be opened, or were lost; fresh ones will be tried, again and again if need be.
    BindFailed(String),
    /// The UDP sockets are open again, on this port.
    BindRecovered(u16),
    /// The tunnel has ended by itself, for this reason.
    Ended(String),
}

/// Takes events. Called from the tunnel's own threads and from whoever changes its configuration, without a lock
/// held, perhaps from several threads at once; it should return soon.
pub type EventSink = Box<dyn Fn(Event) + Send + Sync>;
