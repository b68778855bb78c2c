//! The types of the C interface, and what they stand for in the library.

pub(crate) mod custom_io;
pub(crate) mod datagram;
pub(crate) mod endpoint;
pub(crate) mod event;
pub(crate) mod fd;
pub(crate) mod key;
pub(crate) mod manager;
pub(crate) mod net;
pub(crate) mod options;
pub(crate) mod packet;
pub(crate) mod peer;
pub(crate) mod protect;
pub(crate) mod resolve;
pub(crate) mod stats;
pub(crate) mod udp;
