//! The messages of `proto/manager.proto`, and the sides that send them.

use crate::stream::{Role, Shape, Version};
use prost_types::{Duration, Timestamp};
use std::{
    fmt::{self, Debug},
    mem::size_of,
};

mod generated {
    #![allow(missing_docs, clippy::all, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/wg_embed.manager.rs"));
}

pub use generated::*;

impl fmt::Debug for StartRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartRequest")
            .field("tunnel_file_descriptor", &self.tunnel_file_descriptor)
            .field("coder_url", &self.coder_url)
            .field("headers", &self.headers)
            .field("device_id", &self.device_id)
            .field("device_os", &self.device_os)
            .field("coder_desktop_version", &self.coder_desktop_version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for start_request::Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A message of one side: the numbers of its request, and one of several bodies.
pub trait Envelope: prost::Message + Default + Debug + 'static {
    /// The possible bodies.
    type Body: Clone + Debug + PartialEq + Send + 'static;

    /// The layout of its memory.
    const SHAPE: &'static Shape;

    /// Joins numbers and body.
    fn join(rpc: Option<Rpc>, body: Option<Self::Body>) -> Self;

    /// Splits a message into numbers and body.
    fn split(self) -> (Option<Rpc>, Option<Self::Body>);

    /// The version that the receiver must support for a body.
    fn since(_body: &Self::Body) -> Version {
        Version::V1_0
    }

    /// Whether the body is the last one of its sender.
    fn is_last(_body: &Self::Body) -> bool {
        false
    }
}

/// One side of a stream, with the messages that it sends and receives.
pub trait Side: Send + Sync + 'static {
    /// Its role in the header.
    const ROLE: Role;
    /// The messages that it sends.
    type Sent: Envelope;
    /// The messages that it receives.
    type Received: Envelope;
}

/// The bodies that a side sends.
pub type Sent<S> = <<S as Side>::Sent as Envelope>::Body;
/// The bodies that a side receives.
pub type Received<S> = <<S as Side>::Received as Envelope>::Body;

macro_rules! side {
    ($(#[$doc:meta])* $side:ident, $role:ident, $sent:ident, $received:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $side;

        impl Side for $side {
            const ROLE: Role = Role::$role;
            type Sent = $sent;
            type Received = $received;
        }
    };
}

side!(/** Starts and stops a tunnel. */ ManagerSide, Manager, ManagerMessage, TunnelMessage);
side!(/** Carries packets. */ TunnelSide, Tunnel, TunnelMessage, ManagerMessage);
side!(/** Runs a manager, on Windows. */ ServiceSide, Service, ServiceMessage, ClientMessage);
side!(/** Shows the state of a service. */ ClientSide, Client, ClientMessage, ServiceMessage);

macro_rules! envelope {
    ($message:ident, $module:ident, $shape:ident $(, $rest:item)*) => {
        impl Envelope for $message {
            type Body = $module::Msg;
            const SHAPE: &'static Shape = &$shape;

            fn join(rpc: Option<Rpc>, msg: Option<Self::Body>) -> Self {
                Self { rpc, msg }
            }

            fn split(self) -> (Option<Rpc>, Option<Self::Body>) {
                (self.rpc, self.msg)
            }

            $($rest)*
        }
    };
}

envelope!(
    ManagerMessage,
    manager_message,
    MANAGER_MESSAGE,
    fn since(body: &Self::Body) -> Version {
        if matches!(body, manager_message::Msg::Wake(_)) { Version::V1_3 } else { Version::V1_0 }
    }
);
envelope!(
    TunnelMessage,
    tunnel_message,
    TUNNEL_MESSAGE,
    fn is_last(body: &Self::Body) -> bool {
        matches!(body, tunnel_message::Msg::Stop(_))
    }
);
envelope!(ClientMessage, client_message, CLIENT_MESSAGE);
envelope!(ServiceMessage, service_message, SERVICE_MESSAGE);

const fn shape<T>(messages: &'static [(u32, &'static Shape)], texts: &'static [u32]) -> Shape {
    Shape { size: size_of::<T>(), messages, texts }
}

/// A message without texts and messages.
const fn flat<T>() -> Shape {
    shape::<T>(&[], &[])
}

static RPC: Shape = flat::<Rpc>();
static EMPTY: Shape = flat::<()>();
static TIMESTAMP: Shape = flat::<Timestamp>();
static DURATION: Shape = flat::<Duration>();
static OUTCOME: Shape = shape::<StartResponse>(&[], &[2]);
static NAMED: Shape = shape::<start_request::Header>(&[], &[1, 2]);
static START: Shape = shape::<StartRequest>(&[(4, &NAMED)], &[2, 3, 5, 6, 7]);
static LOG: Shape = shape::<Log>(&[(4, &NAMED)], &[2, 3]);
static WORKSPACE: Shape = shape::<Workspace>(&[], &[1, 2]);
static LAST_PING: Shape = shape::<LastPing>(&[(1, &DURATION), (4, &DURATION)], &[3]);
static AGENT: Shape = shape::<Agent>(&[(6, &TIMESTAMP), (7, &LAST_PING)], &[1, 2, 3, 4, 5]);
static PEER_UPDATE: Shape = shape::<PeerUpdate>(&[(1, &WORKSPACE), (2, &AGENT), (3, &WORKSPACE), (4, &AGENT)], &[]);
static DNS: Shape = shape::<network_settings_request::DnsSettings>(&[], &[1, 2, 3, 4]);
static ROUTE4: Shape = shape::<network_settings_request::ipv4_settings::Ipv4Route>(&[], &[1, 2, 3]);
static ROUTE6: Shape = shape::<network_settings_request::ipv6_settings::Ipv6Route>(&[], &[1, 3]);
static IPV4: Shape = shape::<network_settings_request::Ipv4Settings>(&[(4, &ROUTE4), (5, &ROUTE4)], &[1, 2, 3]);
static IPV6: Shape = shape::<network_settings_request::Ipv6Settings>(&[(3, &ROUTE6), (4, &ROUTE6)], &[1]);
static SETTINGS: Shape = shape::<NetworkSettingsRequest>(&[(3, &DNS), (5, &IPV4), (6, &IPV6)], &[4]);
static STATUS: Shape = shape::<Status>(&[(3, &PEER_UPDATE)], &[2]);
static PROGRESS: Shape = shape::<StartProgress>(&[(2, &DOWNLOAD)], &[]);
static DOWNLOAD: Shape = flat::<StartProgressDownloadProgress>();

static MANAGER_MESSAGE: Shape =
    shape::<ManagerMessage>(&[(1, &RPC), (2, &EMPTY), (3, &OUTCOME), (4, &START), (5, &EMPTY), (6, &EMPTY)], &[]);
static TUNNEL_MESSAGE: Shape = shape::<TunnelMessage>(
    &[(1, &RPC), (2, &LOG), (3, &PEER_UPDATE), (4, &SETTINGS), (5, &OUTCOME), (6, &OUTCOME), (7, &EMPTY)],
    &[],
);
static CLIENT_MESSAGE: Shape = shape::<ClientMessage>(&[(1, &RPC), (2, &START), (3, &EMPTY), (4, &EMPTY)], &[]);
static SERVICE_MESSAGE: Shape =
    shape::<ServiceMessage>(&[(1, &RPC), (2, &OUTCOME), (3, &OUTCOME), (4, &STATUS), (5, &PROGRESS)], &[]);
